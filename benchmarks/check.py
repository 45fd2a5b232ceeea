"""How well `check` and `stats` of the manifests use the cores: ``python benchmarks/check.py [--clips 10000]``.

Writes that many different clips of noise (three seconds, 16 kHz, FLAC; 700 MB) to a temporary folder, scans it, and
runs both commands with two processes. The files are fresh in the system's cache: this is the processor's part, not the
disk's. Use of the cores is the CPU time of the command and its processes, start-up included, by two times the
wall-clock time.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

JOBS = 2
RATE = 16000
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    """Make the clips, run the commands, print clips a second and the use of the cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000, help="number of clips (default 10000)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each (default 3)")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]}"
    )
    with tempfile.TemporaryDirectory() as folder:
        audio, out = Path(folder) / "audio", Path(folder) / "out"
        write_clips(audio, options.clips, int(options.seconds * RATE))
        command("scan", audio, "--out", out, "--valid", "0", "--test", "0")
        manifest = out / "train.tsv"
        # loud noise with a fade: no finding, and FLAC cannot make it much smaller
        measure("check", options.clips, manifest, "--out", out / "check")
        measure("stats", options.clips, manifest, "--out", out / "stats.json")


def write_clips(folder: Path, num_clips: int, num_samples: int) -> None:
    """Write clips that are all different, a thousand in a folder."""
    generator = np.random.default_rng(0)
    fade = np.linspace(0.1, 0.5, num_samples)
    for number in range(num_clips):
        part = folder / f"{number // 1000:04d}"
        part.mkdir(parents=True, exist_ok=True)
        soundfile.write(part / f"{number:07d}.flac", fade * generator.uniform(-1, 1, num_samples), RATE)


def command(*arguments: object) -> None:
    """Run a sub-command with two processes; an exit status other than 0 ends the benchmark."""
    line = [sys.executable, "-m", "manifests", *map(str, arguments), "--jobs", str(JOBS)]
    subprocess.run(line, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def measure(name: str, num_clips: int, *arguments: object) -> None:
    """Run a sub-command and print how fast it was and how well it used the cores."""
    before, begin = _cpu_seconds(), time.perf_counter()
    command(name, *arguments)
    wall, cpu = time.perf_counter() - begin, _cpu_seconds() - before
    use = cpu / (JOBS * wall)
    print(f"{name}: {num_clips} clips in {wall:.1f} s, {num_clips / wall:.0f} clips/s, {use:.0%} of {JOBS} cores used")


def _cpu_seconds() -> float:
    """CPU time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
