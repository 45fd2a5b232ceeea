"""Does pretraining help a task of SUPERB? ``python benchmarks/superb_fsdd.py --checkpoint FILE --data FOLDER``.

Keyword spotting through the real s3prl, upstream frozen, on spoken digits (FSDD): ten digits in the place of the ten
words. One speaker is left out and is the test set; of the others the recordings 0-4 are dev, the rest trains. Beside
the checkpoint, in the same way: the same network with random weights (or ``--baseline``), and s3prl's log-mel. Scored
is the step whose accuracy on dev is best. Needs ``make s3prl-setup``.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soundfile

from mae_ast_plugin import load_model
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.checkpoint import save_checkpoint
from mae_ast_plugin.evaluation.baselines import random_twin
from mae_ast_plugin.evaluation.tables import format_table

REPOSITORY = Path(__file__).resolve().parent.parent
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
# s3prl takes a file for training or for dev by the hash of its speaker's name; these two have the right ones
TRAIN_NAME, DEV_NAME = "00000001", "00000000"
NUM_DEV = 5  # recordings of each digit and speaker
DATARC = "config.downstream_expert.datarc"


def speakers_of(data: Path) -> list[str]:
    """The speakers of a folder of DIGIT_SPEAKER_INDEX.wav."""
    names = sorted({path.stem.split("_")[1] for path in data.glob("*_*_*.wav")})
    if len(names) < 2:
        raise SystemExit(f"{data} holds no DIGIT_SPEAKER_INDEX.wav of two speakers or more")
    return names


def write_task(data: Path, left_out: str, folder: Path) -> None:
    """Write the recordings in the layout of Speech Commands, at 16 kHz: ``folder/train`` and ``folder/test``."""
    for path in sorted(data.glob("*_*_*.wav")):
        digit, speaker, index = path.stem.split("_")
        name = DEV_NAME if int(index) < NUM_DEV else TRAIN_NAME
        where = "test" if speaker == left_out else "train"
        target = folder / where / WORDS[int(digit)] / f"{name}_nohash_{speaker}{index}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, read(str(path), sample_rate=16000)[0], 16000, subtype="PCM_16")


def run(upstream: Sequence[str], task: Path, out: Path, steps: int, learning_rate: float) -> float:
    """Train and test with s3prl; accuracy in per cent of the step that is best on dev."""
    runner = {"total_steps": steps, "eval_step": max(1, steps // 5), "save_step": steps, "log_step": max(1, steps // 5)}
    settings = {
        f"{DATARC}.speech_commands_root": task / "train",
        f"{DATARC}.speech_commands_test_root": task / "test",
        f"{DATARC}.num_workers": 0,
        "config.optimizer.lr": learning_rate,
        **{f"config.runner.{name}": value for name, value in runner.items()},
    }
    arguments = ["-m", "train", *upstream, "-d", "speech_commands", "-c", "ks", "-p", str(out), "--device", "cpu"]
    overrides = ",,".join(f"{name}={value}" for name, value in settings.items())
    done = subprocess.run(
        [sys.executable, "-m", "s3prl_upstream.run_downstream", *arguments, "-o", overrides],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"s3prl failed:\n{done.stdout[-3000:]}")
    log = (out / "log.log").read_text()
    found = re.findall(r"^(dev|test) at step (\d+): (\S+)", log, re.MULTILINE)
    score = {(split, step): float(value) for split, step, value in found}
    best_step = max((step for split, step in score if split == "dev"), key=lambda step: score["dev", step])
    return 100 * score["test", best_step]


def upstreams(checkpoint: Path, baseline: Path | None, folder: Path, options: Sequence[str]) -> dict[str, list[str]]:
    """What is compared, as arguments of s3prl."""
    if baseline is None:
        baseline = folder / "random weights"
        twin = random_twin(load_model(checkpoint))
        assert twin.checkpoint is not None
        save_checkpoint(replace(twin.checkpoint, state=twin.network.state_dict()), baseline)
    ours = ["-u", "mae_ast_plugin_local", *options]
    return {
        "pretrained": [*ours, "-k", str(checkpoint)],
        baseline.name: [*ours, "-k", str(baseline)],
        "log-mel (fbank)": ["-u", "fbank"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a pretrained network")
    parser.add_argument("--baseline", type=Path, help="a second one (default: the same network with random weights)")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "fsdd")
    parser.add_argument("--leave-out", nargs="+", help="speakers to test on, in turn (default: each)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=1e-3, help="the setting that SUPERB lets one search")
    parser.add_argument("--columns", default="join", help="join, mean or flat, see docs/superb.md")
    options = parser.parse_args()
    speakers = options.leave_out or speakers_of(options.data)
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compared = upstreams(options.checkpoint.resolve(), options.baseline, folder, ["-g", options.columns])
        for speaker in speakers:
            task = folder / speaker
            write_task(options.data, speaker, task)
            for what, arguments in compared.items():
                begin = time.monotonic()
                score = run(arguments, task, folder / "runs" / f"{speaker} {what}", options.steps, options.lr)
                scores.setdefault(what, []).append(score)
                print(f"{speaker} left out, {what}: {score:.1f} % ({time.monotonic() - begin:.0f} s)", flush=True)
    rows = [
        [what, f"{statistics.mean(values):.1f}", *(f"{value:.1f}" for value in values)]
        for what, values in scores.items()
    ]
    print(format_table(rows, [f"keyword spotting, {options.steps} steps, accuracy %", "mean", *speakers]))


if __name__ == "__main__":
    main()
