"""Does it learn? Spoken digits (FSDD), one speaker left out: ``python benchmarks/learn_fsdd.py --data FOLDER``.

Pretrains the recipe mae_ast_tiny without labels on all clips of FOLDER (``DIGIT_SPEAKER_INDEX.wav``), then fits 5-NN
(cosine, standardised clip vectors) on all speakers but one and scores that one, for each speaker. Beside it, scored in
the same way: the same network with random weights, and mean and standard deviation of the log-mel. Best layer of each
side; several seeds. ``--score FOLDER`` scores other recordings of the same form with the same checkpoints.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.encoder import AudioEncoder, load_model
from mae_ast_plugin.evaluation.baselines import baseline_vectors, random_twin
from mae_ast_plugin.evaluation.knn import leave_one_group_out
from mae_ast_plugin.evaluation.tables import best, format_table, layer_table
from mae_ast_plugin.evaluation.vectors import clip_vectors
from mae_ast_plugin.pooling import POOLINGS

REPOSITORY = Path(__file__).resolve().parent.parent
# What differs from the demo: more updates of more, and shorter, clips; on one thread, so that CPU minutes are minutes.
SETTINGS = (
    "optimization.max_update=5000",
    "dataset.batch_size=64",
    "dataset.validate_interval_updates=2000",
    "checkpoint.save_interval_updates=2000",
    "task.picture_interval_updates=0",
    "common.log_interval=500",
)


def recordings(folder: Path) -> tuple[list[Path], list[str], list[str]]:
    """Files of a folder with their digits and speakers."""
    files = sorted(path for path in folder.glob("*_*_*.wav"))
    if not files:
        raise SystemExit(f"{folder} holds no DIGIT_SPEAKER_INDEX.wav")
    parts = [path.stem.split("_") for path in files]
    return files, [part[0] for part in parts], [part[1] for part in parts]


def cpu_seconds() -> float:
    """CPU time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_manifests(data: Path, out: Path) -> Path:
    """Scan ``data`` once; no labels are used, so nothing is held back: the validation clips are trained on as well."""
    folder = out / "manifests"
    if not folder.is_dir():
        fresh = out / f"manifests.{os.getpid()}"
        scan = f"-m manifests scan {shlex.quote(str(data))} --out {shlex.quote(str(fresh))} --valid 0.02 --test 0"
        subprocess.run([sys.executable, *shlex.split(scan)], check=True, capture_output=True)
        for ending in ("tsv", "rates"):
            held = (fresh / f"valid.{ending}").read_text().splitlines()
            with (fresh / f"train.{ending}").open("a") as train:
                train.writelines(f"{line}\n" for line in held[1 if ending == "tsv" else 0 :])
        fresh.rename(folder)
    return folder


def pretrain(
    data: Path, out: Path, seed: int, overrides: Sequence[str], recipe: str = "mae_ast_tiny"
) -> tuple[Path, float, float]:
    """Pretrain with one seed; returns the checkpoint, and CPU and wall-clock minutes of the training command."""
    run = out / f"seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    own = [f"task.data={make_manifests(data, out)}", f"hydra.run.dir={run}", f"common.seed={seed}"]
    engine = str(Path(sys.executable).parent / "fairseq-hydra-train")
    chosen = ["--config-name", recipe, "common.user_dir=mae_ast_plugin"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before, begin = cpu_seconds(), time.monotonic()
    with (run / "console.log").open("w") as log:
        done = subprocess.run(
            [engine, *chosen, *own, *SETTINGS, *overrides],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=REPOSITORY,
            env=environment,
        )
    if done.returncode:
        raise SystemExit(f"training failed, see {run / 'console.log'}")
    return run / "checkpoints" / "checkpoint_last.pt", (cpu_seconds() - before) / 60, (time.monotonic() - begin) / 60


def waveforms_of(files: Sequence[Path], rate: int) -> list[torch.Tensor]:
    """Read all recordings at the encoder's rate."""
    return [torch.from_numpy(read(str(path), sample_rate=rate)[0]) for path in files]


def scores(encoder: AudioEncoder, folder: Path, pooling: str) -> dict[str, tuple[float, str]]:
    """Accuracy in percent and best layer of the encoder, of its random twin and of the statistics."""
    files, digits, speakers = recordings(folder)
    rate = encoder.sample_rate
    waves = waveforms_of(files, rate)

    def left_out(vectors: np.ndarray) -> float:
        return 100 * leave_one_group_out(vectors, digits, speakers).mean

    found = {}
    for name, model in (("pretrained", encoder), ("random weights", random_twin(encoder))):
        layer, accuracy = best(layer_table(clip_vectors(model, waves, rate, pooling), left_out))
        found[name] = (accuracy, layer)
    found["log-mel mean and std"] = (left_out(baseline_vectors(encoder, waves, rate)), "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "fsdd")
    parser.add_argument("--score", type=Path, help="other recordings to score (default: --data)")
    parser.add_argument("--out", type=Path, default=Path("runs/learn_fsdd"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--pooling", choices=sorted(POOLINGS), default="segments")
    parser.add_argument("overrides", nargs="*", help="further settings of the training")
    options = parser.parse_args()
    data = options.data.resolve()
    # another folder of recordings is another experiment
    out = options.out.resolve() / f"{data.name}_{hashlib.sha256(str(data).encode()).hexdigest()[:8]}"
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in options.seeds:
        checkpoint, cpu, wall = pretrain(data, out, seed, options.overrides)
        found = scores(load_model(checkpoint), (options.score or data).resolve(), options.pooling)
        results.append(found)
        parts = [f"{name} {value:.1f}" + f" (layer {layer})" * bool(layer) for name, (value, layer) in found.items()]
        print(f"seed {seed}: {cpu:.1f} CPU minutes ({wall:.1f} on the clock): {', '.join(parts)}", flush=True)
    report(results)


def report(results: list[dict[str, tuple[float, str]]]) -> None:
    """Print mean and spread over the seeds."""
    rows = []
    for name in results[0]:
        values = [found[name][0] for found in results]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        gain = statistics.mean(found["pretrained"][0] - found[name][0] for found in results)
        rows.append(
            [name, f"{statistics.mean(values):.1f}", f"{spread:.1f}", "" if name == "pretrained" else f"{gain:+.1f}"]
        )
    print(format_table(rows, ["5-NN, one speaker left out", "accuracy %", "std over seeds", "pretrained is ahead by"]))


if __name__ == "__main__":
    main()
