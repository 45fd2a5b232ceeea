"""Does a run survive? Kill it again and again: ``python benchmarks/kills.py`` (30 kills, about 6 minutes on two cores).

Trains a small network on synthetic clips once without a break. Then the same run in another folder, ended by SIGKILL
(its workers too) at random moments: while it starts, between updates, and while it writes a checkpoint; started again
with the same command each time. In the end weights and optimiser of both runs are compared bit for bit. Everything
that draws numbers is on: crops, masks, filters, dropout, layer drop, workers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from manifests.__main__ import main as manifests

KINDS = ("start-up", "update", "save")  # in turns
UPDATES_PER_KILL = 8  # a start is killed within so many, so that there is something left for the last kill
SETTINGS = (
    "dataset.num_workers=2",
    "dataset.max_tokens=null",
    "dataset.batch_size=4",
    "dataset.validate_interval_updates=20",
    "task.max_sample_size=9000",
    "task.picture_interval_updates=0",
    "checkpoint.save_interval_updates=3",
    "checkpoint.keep_interval_updates=2",
    "common.log_interval=1",
    "lr_scheduler.warmup_updates=10",
    "model.dropout=0.1",
    "model.encoder_layerdrop=0.2",
    "task.feature_type=emphasised_mel",
    "task.vary_filters=true",
)


@dataclass(frozen=True)
class Start:
    """One start of the run: its process, its folder, what it prints, the time of day when it began."""

    process: subprocess.Popen[bytes]
    folder: Path
    printed: Path
    began: float

    def num_updates(self) -> int:
        """Updates that this start has told of."""
        return len(re.findall(rb'"num_updates": "\d+".*"train_wall"', self.printed.read_bytes()))

    def saves(self) -> bool:
        """Whether a checkpoint is being written; what an earlier start left half written does not count."""
        for path in (self.folder / "checkpoints").glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # it was whole before we looked
                if path.stat().st_mtime > self.began:
                    return True
        return False

    def lives(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def write_corpus(folder: Path) -> Path:
    """Write 41 clips of a tone in noise, 0.3 to 1.2 s, and their manifests; returns the folder of manifests."""
    draw = np.random.default_rng(1)
    (folder / "audio").mkdir()
    for number in range(41):
        seconds = np.arange(int(16000 * draw.uniform(0.3, 1.2))) / 16000
        tone = 0.3 * np.sin(2 * np.pi * draw.uniform(100, 2000) * seconds)
        soundfile.write(folder / "audio" / f"{number}.wav", tone + 0.05 * draw.standard_normal(len(seconds)), 16000)
    if manifests(["scan", str(folder / "audio"), "--out", str(folder / "data"), "--valid", "0.1", "--test", "0"]):
        raise SystemExit("the manifests could not be made")
    return folder / "data"


def start(data: Path, folder: Path, printed: Path, num_updates: int) -> Start:
    """Start the run, or start it again; the command is always the same."""
    program = str(Path(sys.executable).with_name("fairseq-hydra-train"))
    settings = (*SETTINGS, f"task.data={data}", f"hydra.run.dir={folder}", f"optimization.max_update={num_updates}")
    environment, began = {**os.environ, "OMP_NUM_THREADS": "1"}, time.time()
    with open(printed, "wb") as output:
        process = subprocess.Popen(
            [program, "--config-name", "mae_ast_tiny", *settings],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a group of its own, so that its workers can be killed with it
        )
    return Start(process, folder, printed, began)


def finish(begun: Start) -> None:
    """Wait for the end of the run, which must be a good one."""
    if begun.process.wait() != 0:
        raise SystemExit(f"the run failed:\n{begun.printed.read_text()[-3000:]}")


def kill_at_random(begun: Start, kind: str, draw: random.Random, startup_seconds: float) -> str | None:
    """Kill a start at a moment of this kind; returns what it was doing, None where it had ended by then."""
    end = time.monotonic() + draw.uniform(0, startup_seconds)
    wanted, rest = draw.randrange(1, UPDATES_PER_KILL), draw.uniform(0, 0.1)
    while begun.lives():
        if kind == "start-up" and time.monotonic() > end:
            break
        if kind == "update" and begun.num_updates() >= wanted:
            time.sleep(rest)
            break
        if kind == "save" and begun.num_updates() >= wanted // 2 and begun.saves():
            break
        time.sleep(0.0005)
    if not begun.lives():
        return None
    begun.kill()
    if begun.saves():
        return "save"
    return "update" if begun.num_updates() else "start-up"


def kills(data: Path, folder: Path, number: int, seed: int, num_updates: int, startup: float) -> Iterator[str]:
    """Kill the run ``number`` times and let it end; yields where each kill fell."""
    draw = random.Random(seed)
    for index in range(number):
        begun = start(data, folder / "killed", folder / f"start{index}.txt", num_updates)
        fell = kill_at_random(begun, KINDS[index % len(KINDS)], draw, startup)
        if fell is None:
            finish(begun)  # which says what went wrong, if that is why it had ended
            return
        yield fell
    finish(start(data, folder / "killed", folder / "last.txt", num_updates))


def differences(folder: Path, other: Path) -> list[str]:
    """Names of weights and of the optimiser's values that are not the same bits in two runs."""
    found = []
    contents = [torch.load(each / "checkpoints" / "checkpoint_last.pt", weights_only=True) for each in (folder, other)]
    here, there = (dict(_tensors(content)) for content in contents)
    for name in sorted(here.keys() | there.keys()):
        if name not in here or name not in there or not torch.equal(here[name], there[name]):
            found.append(name)
    return found


def _tensors(content: dict[str, object]) -> Iterator[tuple[str, torch.Tensor]]:
    yield from content["model"].items()  # type: ignore[attr-defined]
    for number, state in content["last_optimizer_state"]["state"].items():  # type: ignore[index]
        yield from ((f"optimizer {number} {name}", torch.as_tensor(value)) for name, value in state.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a training run again and again, and compare how it ends.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args()
    num_updates = max(40, UPDATES_PER_KILL * options.kills)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_corpus(folder)
        began = time.monotonic()
        whole = start(data, folder / "whole", folder / "whole.txt", num_updates)
        while whole.lives() and not whole.num_updates():
            time.sleep(0.01)
        startup = time.monotonic() - began
        finish(whole)
        seconds = time.monotonic() - began
        print(f"without a break: {num_updates} updates in {seconds:.0f} s, the first after {startup:.1f} s")
        fell: Counter[str] = Counter()
        for where in kills(data, folder, options.kills, options.seed, num_updates, startup):
            fell[where] += 1
            print(f"kill {fell.total()}: {where}", flush=True)
        found = differences(folder / "whole", folder / "killed")
        places = ", ".join(f"{count} in {where}" for where, count in sorted(fell.items()))
        print(f"{fell.total()} kills ({places}) in {time.monotonic() - began:.0f} s, seed {options.seed}")
        if fell.total() < options.kills:
            raise SystemExit("the run ended before the last kill")
        if found:
            raise SystemExit(f"NOT the same: {', '.join(found[:5])} ... ({len(found)} differ)")
        print(f"weights and optimiser after {num_updates} updates: bit-identical to the run without a break")


if __name__ == "__main__":
    main()
