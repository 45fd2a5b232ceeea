"""``scan``: walk a folder, probe every audio file in parallel, write train, valid and test manifests and the failures.

A file's split follows from the seed and its relative path alone, so it stays where it is when files are added. The
result does not depend on the number of workers nor on which of them finishes first. Interrupted, the same command goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mae_ast_plugin.audio.listing import EXTENSIONS, find_files
from mae_ast_plugin.errors import PlainError
from manifests import jobs, splits
from manifests.output import Findings, find_out, probing_journal, report_findings, write_splits


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
    with probing_journal(out / ".scan.journal", ["scan", root], root) as journal:
        limits = (options.min_seconds, options.max_seconds)
        find_out(root, names, findings, jobs=options.jobs, journal=journal, limits=limits)
        report_findings(out, root, findings)
        write_splits(out, root, findings.clips, valid=options.valid, test=options.test, seed=options.seed)


def _check_options(options: argparse.Namespace) -> None:
    if not os.path.isdir(options.folder):
        raise PlainError(f"{options.folder} is not a folder: give the folder that holds the clips")
    splits.check_shares(options.valid, options.test)
    if not 0 <= options.min_seconds <= options.max_seconds:
        raise PlainError(
            f"--min-seconds {options.min_seconds} must lie between 0 and --max-seconds {options.max_seconds}"
        )
    jobs.check_jobs(options.jobs)
