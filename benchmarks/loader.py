"""Loading speed against a plain loader: ``python benchmarks/loader.py`` (needs make bench-setup).

    python benchmarks/loader.py [--clips 320] [--long 4] [--workers 2] [--repeats 5]

The plain loader does what the published programs do: it reads a whole file with soundfile, cuts ten seconds out of it
and computes torchaudio's Kaldi fbank of this clip in the worker. Ours is the loader of the training task, with the
features left to the device as is the default; the line "features by ours" has them computed in the worker too, the
line "ours, clips kept" has decoded clips kept from the epoch before (task.keep_decoded_gb), and
"nothing but decoding" throws each clip away as soon as soundfile has decoded it: no loader that decodes with
libsndfile can be faster. All have batches of 32 and run in turns, epoch by epoch, with workers that are already there.
Noise with the spectrum and the pauses of speech, 16 kHz FLAC: clips of ten seconds, as files and as members of a tar,
and crops of ten seconds out of ten minutes. At the end what a clip costs one core beside bare decoding. Give --clips a
multiple of 32.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from peers import torchaudio_kaldi
from timing import seconds_of, set_threads
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mae_ast_plugin.audio.manifest import write_manifest
from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.tasks.mae_ast_pretraining import MaskedPretrainingConfig, MaskedPretrainingTask

RATE, SECONDS, LONG_SECONDS, BATCH = 16000, 10, 600, 32
SAMPLES = RATE * SECONDS
CROPS_PER_FILE = 16
ONE_PATCH = 16
WANTED = {"ten-second files": 5.0, "ten-minute files": 10.0}

Epoch = Callable[[], object]


def speechlike(seconds: int, seed: int) -> NDArray[np.float32]:
    """Noise that falls off by 6 dB an octave from 500 Hz on and comes in syllables: (S,)."""
    draw, size = np.random.default_rng(seed), seconds * RATE
    spectrum = np.fft.rfft(draw.standard_normal(size))
    spectrum /= 1 + np.fft.rfftfreq(size, 1 / RATE) / 500
    syllables = draw.random(8 * seconds + 1) ** 2
    loudness = np.interp(np.arange(size) / RATE * 8, np.arange(len(syllables)), syllables)
    waveform = np.fft.irfft(spectrum, size) * loudness
    return np.float32(0.5 * waveform / np.abs(waveform).max())


def write_files(folder: Path, count: int, seconds: int) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.flac" for number in range(count)]
    for seed, path in enumerate(paths):
        soundfile.write(path, speechlike(seconds, seed), RATE)
    return paths


def write_shard(path: Path, members: list[Path]) -> list[str]:
    """Put files into a tar; their names as members."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for member in members:
            shard.add(member, member.name)
    with tarfile.open(path) as shard:
        return [f"{path}:{entry.offset_data}:{entry.size}" for entry in shard.getmembers()]


class PlainClips(Dataset[Tensor]):
    """Whole files, cropped at random, features of one clip at a time: (T, 128) each."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.kaldi = paths, torchaudio_kaldi()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        waveform, _ = soundfile.read(self.paths[index], dtype="float32")
        start = np.random.randint(len(waveform) - SAMPLES + 1)
        crop = torch.from_numpy(waveform[start : start + SAMPLES])[None]
        features: Tensor = self.kaldi.fbank(crop, sample_frequency=RATE, num_mel_bins=128, dither=0.0)
        return features


class DecodedClips(PlainClips):
    """Files decoded for nothing."""

    def __getitem__(self, index: int) -> Tensor:
        soundfile.read(self.paths[index], dtype="float32")
        return torch.zeros(())


def epoch_of(clips: PlainClips, workers: int) -> Epoch:
    loader = DataLoader(clips, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: consume(loader)


def our_task(folder: Path, **settings: Any) -> MaskedPretrainingTask:
    """The training task over the manifest in ``folder``, its clips loaded."""
    task = MaskedPretrainingTask(
        MaskedPretrainingConfig(data=str(folder), max_sample_size=SAMPLES, seed=1, train_subset="train", **settings)
    )
    task.min_frames = ONE_PATCH
    task.load_dataset("train")
    return task


def our_epoch(folder: Path, workers: int, **settings: Any) -> Epoch:
    task = our_task(folder, **settings)
    batches = task.get_batch_iterator(task.datasets["train"], max_sentences=BATCH, num_workers=workers)
    return lambda: consume(batches.next_epoch_itr(shuffle=True))


def consume(loader: Iterable[object]) -> None:
    for _ in loader:
        pass


def list_clips(folder: Path, names: list[str], seconds: int) -> Path:
    folder.mkdir(parents=True)
    rows = [(name, seconds * RATE) for name in names]
    write_manifest(folder / "train.tsv", folder, rows, rates=[RATE] * len(rows))
    return folder


def in_turns(epochs: dict[str, Epoch], num_clips: int, repeats: int) -> dict[str, float]:
    """Run each epoch once to start its workers, then all of them in turns; median clips per second."""
    for epoch in epochs.values():
        epoch()
    seconds = [{name: seconds_of(epoch) for name, epoch in epochs.items()} for _ in range(repeats)]
    return {name: num_clips / statistics.median(run[name] for run in seconds) for name in epochs}


def report(what: str, speeds: dict[str, float], wanted: float) -> None:
    for name, speed in speeds.items():
        print(f"{what}, {name}: {speed:.0f} clips/s, {speed / speeds['plain']:.2f} times the plain loader", flush=True)
    print(f"{what}: wanted {wanted:g} times or more", flush=True)


def cost_of_a_clip(data: ClipDataset, repeats: int) -> None:
    """Milliseconds that a clip takes one core: bare decoding, and ours up to the padded batch, in turns."""
    rows = range(len(data))
    paths = [data.manifest[row].path for row in rows]

    def decode() -> None:
        for path in paths:
            soundfile.read(path, dtype="float32")

    def ours() -> None:
        for first in range(0, len(rows), BATCH):
            data.collater([data[ClipRef(row, 1, 0, SAMPLES)] for row in rows[first : first + BATCH]])

    speeds = in_turns({"soundfile.read": decode, "ours, padded batches": ours}, len(rows), repeats)
    costs = {name: 1e3 / speed for name, speed in speeds.items()}
    print("in one process: " + ", ".join(f"{name} {cost:.2f} ms a clip" for name, cost in costs.items()))
    bare, mine = costs.values()
    print(f"a clip costs {mine - bare:.2f} ms more than to decode it (wanted: 1 or less)")


def main() -> None:
    """Write the audio, time the loaders, print clips per second, ratios and costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=320, help="clips of ten seconds (default 320)")
    parser.add_argument("--long", type=int, default=4, help="files of ten minutes (default 4)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each loader (default 2)")
    parser.add_argument("--repeats", type=int, default=5, help="epochs timed (default 5)")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", "'pin_memory'")
    set_threads(1)
    with tempfile.TemporaryDirectory() as name:
        compare_loaders(Path(name), arguments)


def compare_loaders(folder: Path, arguments: argparse.Namespace) -> None:
    workers, repeats = arguments.workers, arguments.repeats
    short = write_files(folder / "short", arguments.clips, SECONDS)
    files = list_clips(folder / "files", [str(path) for path in short], SECONDS)
    shard = list_clips(folder / "shard", write_shard(folder / "shard.tar", short), SECONDS)
    epochs = {
        "plain": epoch_of(PlainClips(short), workers),
        "ours": our_epoch(files, workers),
        "ours from a tar": our_epoch(shard, workers),
        "ours, clips kept": our_epoch(files, workers, keep_decoded_gb=1.0),
        "features by ours": our_epoch(files, workers, features_on="loader"),
        "nothing but decoding": epoch_of(DecodedClips(short), workers),
    }
    speeds = in_turns(epochs, len(short), repeats)
    report("ten-second files", speeds, WANTED["ten-second files"])
    print(f"tar beside files: {speeds['ours from a tar'] / speeds['ours']:.2f} (wanted: about 1)")
    del epochs

    long = write_files(folder / "long", arguments.long, LONG_SECONDS) * CROPS_PER_FILE
    crops = list_clips(folder / "crops", [str(path) for path in long], LONG_SECONDS)
    epochs = {"plain": epoch_of(PlainClips(long), workers), "ours": our_epoch(crops, workers)}
    report("ten-minute files", in_turns(epochs, len(long), repeats), WANTED["ten-minute files"])
    cost_of_a_clip(our_task(files).datasets["train"], repeats)


if __name__ == "__main__":
    main()
