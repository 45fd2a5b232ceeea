"""``split``: divide a manifest into train, valid and test, by file or by a group such as the speaker.

The split of a file or a group follows from the seed and its name alone: adding clips never moves another one, and a
group never crosses splits. Shares are those of the groups; the report says how many clips and hours that makes.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from mae_ast_plugin.errors import PlainError
from manifests import jobs, splits
from manifests.output import Clip
from manifests.tsv import read_rows, write_rows

BY = ("file", "folder", "label")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("split", help="divide a manifest", description=__doc__)
    parser.add_argument("manifest", metavar="TSV", help="the manifest to divide")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train.tsv, valid.tsv, test.tsv")
    splits.add_options(parser)
    parser.add_argument(
        "--by",
        default="file",
        metavar="GROUP",
        help="what stays together: file, folder, label, or a regular expression whose first group finds the group in "
        "a clip's name, as '^([^/]+)/' for the first folder (default file)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Divide and report; PlainError for a group that some row does not have."""
    splits.check_shares(options.valid, options.test)
    rows = read_rows(options.manifest)
    groups = group_rows(options.manifest, rows.clips, options.by)
    shares = {"train": 1.0, "valid": options.valid, "test": options.test}
    requested = [split for split in splits.SPLITS if shares[split] > 0]
    if len(set(groups)) < len(requested) and options.by != "file":
        raise PlainError(
            f"{options.manifest}: --by {options.by} finds {len(set(groups))} group(s), fewer than the splits asked "
            "for: choose smaller groups, or leave a split out with --valid 0 or --test 0"
        )
    targets = {split: Path(options.out, f"{split}.tsv") for split in splits.SPLITS}
    for split in requested:
        if targets[split].exists() and targets[split].samefile(options.manifest):
            raise PlainError(f"{targets[split]} would replace the manifest that is divided: choose another --out")
    names = jobs.progress(dict.fromkeys(groups), "choosing splits", "group")
    chosen = splits.choose_splits(names, options.valid, options.test, options.seed)
    for split, path in targets.items():
        members = set(chosen[split])
        if split in requested:
            clips = [clip for clip, group in zip(rows.clips, groups, strict=True) if group in members]
            write_rows(path, rows._replace(clips=clips))
            if options.by != "file":
                print(f"{split}: {len(members)} of {len(set(groups))} groups")
        elif path.exists():
            print(f"{split}: not requested, {path} of an earlier run is left as it is")


def group_rows(path: str, clips: list[Clip], by: str) -> list[str]:
    """Give the group of every row; PlainError names the line of the first that has none."""
    group_of = _grouping(by)
    groups = []
    for number, clip in enumerate(jobs.progress(clips, "finding groups", "row"), start=2):
        group = group_of(clip)
        if not group:
            what = "has no label" if by == "label" else f"has no group that {by!r} finds in {clip.name!r}"
            raise PlainError(f"{path} line {number} {what}: mend the row or choose another --by")
        groups.append(group)
    return groups


def _grouping(by: str) -> Callable[[Clip], str | None]:
    if by == "file":
        return lambda clip: clip.name
    if by == "folder":
        return lambda clip: os.path.dirname(clip.name) or os.curdir
    if by == "label":
        return lambda clip: clip.label
    try:
        expression = re.compile(by)
    except re.error as error:
        raise PlainError(f"--by {by!r} is no regular expression: {error}") from error
    if not expression.groups:
        raise PlainError(f"--by {by!r} is none of {', '.join(BY)} and has no group: put parentheses around the group")
    return lambda clip: found[1] if (found := expression.search(clip.name)) else None
