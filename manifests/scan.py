"""``scan``: walk a folder, probe every audio file in parallel, write train, valid and test manifests and the failures.

A file's split follows from the seed and its relative path alone, so it stays where it is when files are added. The
result does not depend on the number of workers nor on which of them finishes first.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sortedcontainers import SortedDict
from tqdm import tqdm

from mae_ast_plugin.audio.listing import EXTENSIONS, find_files
from mae_ast_plugin.audio.manifest import write_atomically, write_manifest
from mae_ast_plugin.audio.reader import AudioError, AudioInfo, probe
from mae_ast_plugin.errors import PlainError

SPLITS = ("train", "valid", "test")
FILES_PER_TASK = 64


@dataclass
class Findings:
    """What a scan found: clips and reasons of failure by relative path, in the order of the paths."""

    clips: SortedDict[str, AudioInfo] = field(default_factory=SortedDict)
    unreadable: SortedDict[str, str] = field(default_factory=SortedDict)
    num_short: int = 0
    num_long: int = 0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("scan", help="list the audio files below a folder", description=__doc__)
    parser.add_argument("folder", metavar="DIR", help="the folder of clips, becomes the root of the manifests")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train.tsv, valid.tsv, test.tsv")
    parser.add_argument(
        "--valid", type=float, default=0.01, help="share of the validation split, 0 to 1 (default 0.01)"
    )
    parser.add_argument("--test", type=float, default=0.01, help="share of the test split, 0 to 1 (default 0.01)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other splits (default 0)")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="leave out shorter clips (default 0)")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="leave out longer clips (default none)")
    parser.add_argument("--ext", default=EXTENSIONS, help=f"file name endings, any case (default {EXTENSIONS})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes (default all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Scan, write and report; raises PlainError when the options are wrong or no clip is left."""
    _check_options(options)
    root = os.path.abspath(options.folder)
    extensions = tuple("." + ending.strip().lstrip(".").lower() for ending in options.ext.split(",") if ending.strip())
    findings = Findings()
    names = list(find_files(root, extensions, findings.unreadable))
    if not names and not findings.unreadable:
        raise PlainError(f"{root} holds no file that ends in {', '.join(extensions)}: check the folder or give --ext")

    for name, result in probe_all(root, names, options.jobs):
        _sort_in(findings, name, result, options.min_seconds, options.max_seconds)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "unreadable.tsv", map(_unreadable_line, findings.unreadable.items()))
    print(
        f"{len(findings.unreadable)} unreadable (listed in {out / 'unreadable.tsv'}), "
        f"{findings.num_short} too short, {findings.num_long} too long"
    )
    if not findings.clips:
        raise PlainError(f"no clip below {root} can be used: see {out / 'unreadable.tsv'} and the limits of length")
    _write_splits(out, root, findings.clips, options)


def probe_all(root: str, names: Sequence[str], num_jobs: int) -> Iterator[tuple[str, AudioInfo | str]]:
    """Probe files in ``num_jobs`` processes; gives each name with its length or the reason of failure, in any order."""
    tasks = [names[begin : begin + FILES_PER_TASK] for begin in range(0, len(names), FILES_PER_TASK)]
    with tqdm(total=len(names), unit="file", desc="probing", disable=None) as progress:
        if num_jobs == 1 or len(tasks) <= 1:
            for name in names:
                yield name, _probe_one(root, name)
                progress.update()
            return
        with ProcessPoolExecutor(min(num_jobs, len(tasks))) as pool:
            running = {pool.submit(_probe_many, root, task): task for task in tasks}
            for future in as_completed(running):
                task = running.pop(future)
                try:
                    results = future.result()
                except BrokenProcessPool as error:
                    raise PlainError(
                        f"a process died while probing files (a decoder crashed or memory ran out), perhaps near "
                        f"{task[0]!r}: find the file with --jobs 1"
                    ) from error
                yield from zip(task, results, strict=True)
                progress.update(len(task))


def choose_splits(names: Iterable[str], valid: float, test: float, seed: int) -> dict[str, list[str]]:
    """Divide names among train, valid and test by a hash of seed and name; keeps their order.

    valid takes the smallest hashes and test the largest. A requested split that would be empty, train above all, is
    given the one clip nearest to it from the largest split: so a tiny corpus can be trained and validated too.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    shares = {name: _share(seed, name) for name in names}
    for name, share in shares.items():
        splits["valid" if share < valid else "test" if share >= 1 - test else "train"].append(name)
    for split, place, requested in (("train", (1 + valid - test) / 2, 1.0), ("valid", 0.0, valid), ("test", 1.0, test)):
        largest = max((splits["train"], splits["test"], splits["valid"]), key=len)
        if requested > 0 and not splits[split] and len(largest) > (split != "train"):
            nearest = _nearest(largest, shares, place)
            largest.remove(nearest)
            splits[split].append(nearest)
    return splits


def _nearest(names: Iterable[str], shares: Mapping[str, float], place: float) -> str:
    return min(names, key=lambda name: abs(shares[name] - place))


def _share(seed: int, name: str) -> float:
    """Give a number in [0, 1) that depends on the seed and the name alone."""
    digest = hashlib.blake2b(b"%d\0" % seed + os.fsencode(name), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2.0**48


def _probe_many(root: str, names: Sequence[str]) -> list[AudioInfo | str]:
    return [_probe_one(root, name) for name in names]


def _probe_one(root: str, name: str) -> AudioInfo | str:
    try:
        return probe(os.path.join(root, name))
    except AudioError as error:
        return error.reason


def _sort_in(findings: Findings, name: str, result: AudioInfo | str, min_seconds: float, max_seconds: float) -> None:
    if isinstance(result, str):
        findings.unreadable[name] = result
        return
    seconds = result.num_samples / result.sample_rate
    if seconds < min_seconds:
        findings.num_short += 1
    elif seconds > max_seconds:
        findings.num_long += 1
    else:
        findings.clips[name] = result


def _write_splits(out: Path, root: str, clips: Mapping[str, AudioInfo], options: argparse.Namespace) -> None:
    """Write the requested splits and print their sizes; a split that is not requested is left alone."""
    shares = {"train": 1.0, "valid": options.valid, "test": options.test}
    for split, names in choose_splits(clips, options.valid, options.test, options.seed).items():
        path = out / f"{split}.tsv"
        if shares[split] == 0:
            if path.exists():
                print(f"{split}: not requested, {path} of an earlier run is left as it is")
            continue
        infos = [clips[name] for name in names]
        rows = zip(names, (info.num_samples for info in infos), strict=True)
        write_manifest(path, root, rows, rates=(info.sample_rate for info in infos))
        hours = sum(info.num_samples / info.sample_rate for info in infos) / 3600
        print(f"{split}: {len(names)} clips, {hours:.3f} hours in {path}")
        if not names:
            print(f"{split}: too few clips for this split, {path} has no rows: train without it or add clips")
        elif len(names) == 1 < len(clips) and split != "train":
            print(f"{split}: a single clip; with so few clips it may change when files are added")


def _check_options(options: argparse.Namespace) -> None:
    if not os.path.isdir(options.folder):
        raise PlainError(f"{options.folder} is not a folder: give the folder that holds the clips")
    if not (options.valid >= 0 and options.test >= 0 and options.valid + options.test < 1):
        raise PlainError(
            f"--valid {options.valid} and --test {options.test} leave nothing to train on: "
            "each must be 0 or more and both together less than 1"
        )
    if not 0 <= options.min_seconds <= options.max_seconds:
        raise PlainError(
            f"--min-seconds {options.min_seconds} must lie between 0 and --max-seconds {options.max_seconds}"
        )
    if options.jobs < 1:
        raise PlainError(f"--jobs {options.jobs} is too few: give 1 or more")



def _unreadable_line(item: tuple[str, Any]) -> bytes:
    escaped = (text.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n") for text in item)
    return os.fsencode("\t".join(escaped)) + b"\n"
