"""``scan``: walk a folder, probe every audio file in parallel, write train, valid and test manifests and the failures.

A file's split follows from the seed and its relative path alone, so it stays where it is when files are added. The
result does not depend on the number of workers nor on which of them finishes first. Interrupted, the same command goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from mae_ast_plugin.audio.listing import EXTENSIONS, find_files
from mae_ast_plugin.errors import PlainError
from manifests import jobs, splits
from manifests.output import Clip, Findings, find_out, report_findings, write_split


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("scan", help="list the audio files below a folder", description=__doc__)
    parser.add_argument("folder", metavar="DIR", help="the folder of clips, becomes the root of the manifests")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train.tsv, valid.tsv, test.tsv")
    splits.add_options(parser)
    parser.add_argument("--min-seconds", type=float, default=0.0, help="leave out shorter clips (default 0)")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="leave out longer clips (default none)")
    parser.add_argument("--ext", default=EXTENSIONS, help=f"file name endings, any case (default {EXTENSIONS})")
    jobs.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Scan, write and report; raises PlainError when the options are wrong or no clip is left."""
    _check_options(options)
    root = os.path.abspath(options.folder)
    extensions = tuple("." + ending.strip().lstrip(".").lower() for ending in options.ext.split(",") if ending.strip())
    findings = Findings()
    names = [name for name in find_files(root, extensions, findings.unreadable) if options.shard.holds(name)]
    if not names and not findings.unreadable:
        raise PlainError(f"{root} holds no file that ends in {', '.join(extensions)}: check the folder or give --ext")
    out = Path(options.out)
    with jobs.Journal(out / ".scan.journal", ["scan", root]) as journal:
        limits = (options.min_seconds, options.max_seconds)
        find_out(root, names, findings, jobs=options.jobs, journal=journal, limits=limits)
    report_findings(out, root, findings)
    _write_splits(out, root, findings.clips, options)


def _write_splits(out: Path, root: str, clips: Mapping[str, Clip], options: argparse.Namespace) -> None:
    """Write the requested splits and print their sizes; a split that is not requested is left alone."""
    shares = {"train": 1.0, "valid": options.valid, "test": options.test}
    for split, names in splits.choose_splits(clips, options.valid, options.test, options.seed).items():
        path = out / f"{split}.tsv"
        if shares[split] == 0:
            if path.exists():
                print(f"{split}: not requested, {path} of an earlier run is left as it is")
            continue
        write_split(out, split, root, [clips[name] for name in names])
        if not names:
            print(f"{split}: too few clips for this split, {path} has no rows: train without it or add clips")
        elif len(names) == 1 < len(clips) and split != "train":
            print(f"{split}: a single clip; with so few clips it may change when files are added")


def _check_options(options: argparse.Namespace) -> None:
    if not os.path.isdir(options.folder):
        raise PlainError(f"{options.folder} is not a folder: give the folder that holds the clips")
    splits.check_shares(options.valid, options.test)
    if not 0 <= options.min_seconds <= options.max_seconds:
        raise PlainError(
            f"--min-seconds {options.min_seconds} must lie between 0 and --max-seconds {options.max_seconds}"
        )
    jobs.check_jobs(options.jobs)
