"""What millions of clips cost: time and memory of the manifest, of an epoch's batches, and of worker processes.

    python benchmarks/manifest.py [--rows 2000000] [--runs 3] [--workers 4] [--scan 20000]

Writes a manifest to a temporary folder, without labels and then with. In fresh processes: loads it, makes the dataset
of it and the batches of an epoch as the engine holds them, records the rows as a run's start does, and starts workers
that look up rows all over the manifest, as reading clips would; prints medians, and by how much the memory that is a
worker's own grew on the way. Linux only: it is read from /proc; MB are 1,000,000 bytes.
Before that it scans a folder of ten-second FLAC files, links to a few, so that no disk is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

MEASURE = """
import json, re, sys, time
from pathlib import Path
import torch
from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.launch.rows import row_checksums
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import TaskSettings

def memory(name, file="status"):
    with open("/proc/self/" + file) as status:
        return sum(int(size) for size in re.findall(name + r":\\s+(\\d+)", status.read())) * 1024 / 1e6

class Rows(ClipDataset):
    # instead of audio: the memory of this worker, and of no one else, after looking a row up
    def __getitem__(self, ref):
        self.manifest[int(self.rows[ref.row])], self.size(ref.row)
        return ref

    def collater(self, refs):
        return torch.utils.data.get_worker_info().id, memory("Private_(?:Clean|Dirty)", "smaps_rollup")

before, begin = memory("VmRSS"), time.perf_counter()
manifest = Manifest.load(sys.argv[1])
loaded = time.perf_counter()
found = {"load_s": loaded - begin, "load_peak_mb": memory("VmHWM") - before, "load_mb": memory("VmRSS") - before}
task = TaskSettings(max_sample_size=160000)
data = Rows("train", manifest, task, frontend_of(task), min_frames=16, seed=1, epoch_matters=True)
held, begin = memory("VmRSS"), time.perf_counter()
batches = list(tuple(data.batches(1, None, 32, 1, 1)))
found |= {"plan_s": time.perf_counter() - begin, "plan_mb": memory("VmRSS") - held}
begin = time.perf_counter()
row_checksums(Path(data.manifest.path))
found |= {"sums_s": time.perf_counter() - begin}
found |= {"all_mb": memory("VmRSS") - before, "all_peak_mb": memory("VmHWM") - before}
loader = torch.utils.data.DataLoader(
    data, batch_sampler=batches[:: max(1, len(batches) // 1000)], collate_fn=data.collater, num_workers=int(sys.argv[2])
)
workers = {}
for worker, size in loader:
    workers.setdefault(worker, []).append(size)
found["growth_mb"] = max(sizes[-1] - sizes[0] for sizes in workers.values())
print(json.dumps(found))
"""

SHOWN = {
    "load_s": "s to load",
    "load_peak_mb": "MB added at the peak of loading",
    "load_mb": "MB added by the manifest",
    "plan_s": "s to make the batches of an epoch",
    "plan_mb": "MB added by them",
    "sums_s": "s to record the rows for a later start",
    "all_mb": "MB added by manifest, dataset and batches",
    "all_peak_mb": "MB added at the peak of all this",
    "growth_mb": "MB that the largest worker grew by over 1000 batches",
}


def main() -> None:
    """Write the manifest, measure it ``--runs`` times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="number of clips (default 2000000)")
    parser.add_argument("--runs", type=int, default=3, help="number of fresh processes (default 3)")
    parser.add_argument("--workers", type=int, default=4, help="number of workers in each (default 4)")
    parser.add_argument("--scan", type=int, default=20_000, help="files in the folder that is scanned (default 20000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rate = scan_rate(Path(folder), arguments.scan)
    hours = arguments.rows / rate / 3600
    print(f"{rate:8.0f} files/s scanned with all cores: {hours:.2f} hours for {arguments.rows}")
    for label in ("", "/m/09x0r,/m/05zppz"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.tsv"
            write_rows(path, folder, arguments.rows, label)
            kind = "with labels" if label else "without labels"
            size_mb = path.stat().st_size / 1e6
            print(f"{arguments.rows} rows {kind}, {size_mb:.0f} MB, Python {platform.python_version()}")
            runs = [measure(path, arguments.workers) for _ in range(arguments.runs)]
        for name, unit in SHOWN.items():
            print(f"{statistics.median(run[name] for run in runs):8.2f} {unit} (median of {len(runs)})", flush=True)


def scan_rate(folder: Path, num_files: int) -> float:
    """Files a second of ``manifests scan``, with its start."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
    for index in range(num_files):
        path = folder / "audio" / f"{index // 1000}" / f"{index}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % 1000 == 0:  # a file takes only so many links
            soundfile.write(path, noise, 16_000)
            first = path
        else:
            os.link(first, path)
    began = time.monotonic()
    command = [sys.executable, "-m", "manifests", "scan", str(folder / "audio"), "--out", str(folder / "manifests")]
    subprocess.run(command, cwd=Path(__file__).resolve().parent.parent, check=True, capture_output=True)
    return num_files / (time.monotonic() - began)


def write_rows(path: Path, root: str, num_rows: int, label: str) -> None:
    """Write a manifest of AudioSet-like names, each with the label unless that is empty, and its side file of rates."""
    generator, ending = np.random.default_rng(0), f"\t{label}\n" if label else "\n"
    with open(path, "w") as tsv, open(path.with_suffix(".rates"), "w") as rates:
        tsv.write(root + "\n")
        for index, length in enumerate(generator.integers(16_000, 480_000, num_rows).tolist()):
            tsv.write(f"unbalanced_train_segments_part{index % 41:02d}/Y{index:011d}_30000_40000.mkv\t{length}{ending}")
            rates.write("48000\n")


def measure(path: Path, workers: int) -> dict[str, float]:
    """Load the manifest, plan an epoch and run workers in a fresh process."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(path), str(workers)]
    result = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
