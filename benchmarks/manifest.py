"""How long a manifest takes to load and how much memory it needs.

    python benchmarks/manifest.py [--rows 2000000] [--runs 5]

Writes a manifest to a temporary folder and loads it in fresh processes; prints the median load time, and by how much
the resident memory grew at its peak and afterwards. Linux only: the memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MEASURE = """
import json, re, sys, time
from mae_ast_plugin.audio.manifest import Manifest

def memory(name):
    with open("/proc/self/status") as status:
        return int(re.search(name + r":\\s+(\\d+)", status.read())[1]) / 1024

before = memory("VmRSS")
begin = time.perf_counter()
manifest = Manifest.load(sys.argv[1])
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "peak_mb": memory("VmHWM") - before, "after_mb": memory("VmRSS") - before}))
"""


def main() -> None:
    """Write the manifest, measure it ``--runs`` times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="number of clips (default 2000000)")
    parser.add_argument("--runs", type=int, default=5, help="number of fresh processes (default 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.tsv"
        write_rows(path, folder, arguments.rows)
        print(f"{arguments.rows} rows, {path.stat().st_size / 1e6:.0f} MB, Python {platform.python_version()}")
        runs = [measure(path) for _ in range(arguments.runs)]
    for name, unit in (
        ("seconds", "s to load"),
        ("peak_mb", "MB added at the peak"),
        ("after_mb", "MB added after loading"),
    ):
        print(f"{statistics.median(run[name] for run in runs):8.2f} {unit} (median of {len(runs)})")


def write_rows(path: Path, root: str, num_rows: int) -> None:
    """Write a manifest of AudioSet-like names and its side file of rates."""
    generator = np.random.default_rng(0)
    with open(path, "w") as tsv, open(path.with_suffix(".rates"), "w") as rates:
        tsv.write(root + "\n")
        for index, length in enumerate(generator.integers(16_000, 480_000, num_rows).tolist()):
            tsv.write(f"unbalanced_train_segments_part{index % 41:02d}/Y{index:011d}_30000_40000.mkv\t{length}\n")
            rates.write("48000\n")


def measure(path: Path) -> dict[str, float]:
    """Load the manifest in a fresh process."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", MEASURE, str(path)]
    result = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout)
    return measured


if __name__ == "__main__":
    main()
