"""Embedding speed against the ``mae_ast`` upstream that s3prl bundles, with the same weights: ``python
benchmarks/embed.py`` (needs make bench-setup).

200 spoken digits (``--digits DIR`` of 8 kHz WAV files; noise of such lengths otherwise) and 20 clips of 30 s, base-size
patch and frame networks, all hidden states of all layers. The peer's result for a clip depends on the clips beside it,
so whoever wants embeddings takes one clip at a time; batches of 16 are shown too. Then the peak memory of one
30-minute clip, in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peers import s3prl_mae_ast, s3prl_upstream
from timing import compare, set_threads
from torch import Tensor

from mae_ast_plugin import load_model
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.mae_ast import NAMES
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings

RATE, PEER_BATCH = 16000, 16
PATCH: dict[str, int] = {}
FRAME = {"ast_kernel_size_chan": 128, "ast_kernel_stride_chan": 128, "ast_kernel_size_time": 2}
FRAME |= {"ast_kernel_stride_time": 2}
NETWORKS = {"patch": PATCH, "frame": FRAME}


def published_checkpoint(folder: Path, name: str, changes: dict[str, int]) -> Path:
    """Write random weights of base size in the published layout, which both sides read."""
    torch.manual_seed(0)
    model, task = ModelSettings(**changes, max_token_length=4000), TaskSettings()  # type: ignore[arg-type]
    tensors = NAMES.to_theirs(autoencoder_of(model, task.feature_dim).state_dict())
    # what the published layout also holds: tables of positions, and a norm that nothing uses
    theirs = s3prl_mae_ast().MAE_AST(SimpleNamespace(**asdict(model)), SimpleNamespace(**asdict(task)))
    tensors = {**theirs.state_dict(), **tensors}
    path = folder / f"{name}.pt"
    torch.save({"cfg": {"model": asdict(model), "task": asdict(task)}, "model": tensors}, path)
    return path


def spoken_digits(folder: Path | None, count: int, shortest: int) -> list[Tensor]:
    if folder is None:
        numbers = random.Random(0)
        return [torch.rand(numbers.randint(shortest, 14000)) - 0.5 for _ in range(count)]
    files = random.Random(0).sample(sorted(folder.glob("*.wav")), 2 * count)
    waves = [torch.from_numpy(read(file, sample_rate=RATE)[0]) for file in files]
    return [wave for wave in waves if len(wave) >= shortest][:count]


@torch.no_grad()
def run_peer(upstream: Any, waves: list[Tensor], batch: int) -> None:
    for first in range(0, len(waves), batch):
        upstream(waves[first : first + batch])


@torch.no_grad()
def run_ours(encoder: Any, waves: list[Tensor]) -> None:
    encoder(waves)


def peak_of_half_an_hour(path: Path) -> None:
    encoder = load_model(path)
    with torch.no_grad():
        frames = encoder([torch.rand(30 * 60 * RATE) - 0.5], layers=()).frames
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"30 minutes, {path.stem}: {frames.shape[1]} steps, peak memory {peak:.2f} GiB (wanted: below 2)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=Path, help="folder of 8 kHz WAV files of spoken digits")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken (default 3)")
    options = parser.parse_args()
    set_threads()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [published_checkpoint(Path(folder), name, NETWORKS[name]) for name in options.networks]
        for path in paths:
            # a process of its own that has loaded nothing else yet
            process = multiprocessing.get_context("spawn").Process(target=peak_of_half_an_hour, args=(path,))
            process.start()
            process.join()
        for path in paths:
            upstream, encoder = s3prl_upstream()(str(path)).eval(), load_model(path)
            sets = {
                "200 digits": spoken_digits(options.digits, 200, encoder.shortest),
                "20 x 30 s": [torch.rand(30 * RATE) - 0.5 for _ in range(20)],
            }
            for name, waves in sets.items():
                for precision, batch in (("float32", 1), ("float32", PEER_BATCH), ("bfloat16", 1)):
                    encoder.precision = precision
                    ours, theirs = partial(run_ours, encoder, waves), partial(run_peer, upstream, waves, batch)
                    what = f"{path.stem}, {name}, ours in {precision}"
                    compare(what, ours, theirs, f"s3prl, {batch} at a time", 2.0, repeats=options.repeats)


if __name__ == "__main__":
    main()
