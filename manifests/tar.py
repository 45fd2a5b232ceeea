"""``tar``: list the clips of uncompressed tar shards (WebDataset naming) as rows ``shard.tar:OFFSET:LENGTH``, and those
of zip files, compressed or not, as rows ``clips.zip:NAME``.

Labels come from the .json, .cls or .txt beside a clip. What is truncated or damaged is listed in ``unreadable.tsv`` and
all that lies before it is kept. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mae_ast_plugin.audio.listing import find_files
from mae_ast_plugin.errors import PlainError
from manifests import jobs, splits
from manifests.members import Member, probe_members, write_members
from manifests.output import Findings
from manifests.shards import check_shard, is_zip, read_shard
from manifests.zips import read_zip

ENDINGS = (".tar", ".zip")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("tar", help="list the clips in tar shards and zip files", description=__doc__)
    parser.add_argument("shards", nargs="+", metavar="SHARD", help="uncompressed tars, zips, or folders of them")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train.tsv, valid.tsv, test.tsv")
    splits.add_options(parser)
    parser.add_argument("--label", metavar="FIELD", help="field of the .json members that is the label (default label)")
    jobs.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """List, probe, write and report; raises PlainError when the options are wrong or no clip is left."""
    splits.check_shares(options.valid, options.test)
    jobs.check_jobs(options.jobs)
    paths = find_shards(options.shards)
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [name for path in paths if options.shard.holds(name := os.path.relpath(path, root))]
    out, findings = Path(options.out), Findings()
    of = ["shards", root, [_version(os.path.join(root, name)) for name in names]]
    # both journals are needed until all is written
    with (
        jobs.Journal(out / ".tar.journal", [*of, options.label]) as indexed,
        jobs.Journal(out / ".tar-clips.journal", of) as probed,
    ):
        members = _index(root, names, options, indexed, findings)
        clips = probe_members(root, members, findings, probed, options)
        if options.label is not None and all(clip.label is None for clip in clips.values()):
            raise PlainError(f"no .json in {root} has the field {options.label!r} of --label: name one that is there")
        write_members(root, clips, options)


def find_shards(given: Sequence[str]) -> list[str]:
    """Give the absolute paths of shards, each once and in order; PlainError for what is neither tar nor zip."""
    paths: list[str] = []
    for place in map(os.path.abspath, given):
        if not os.path.isdir(place):
            paths.append(place)
            continue
        found = [os.path.join(place, name) for name in find_files(place, ENDINGS, {})]
        if not found:
            raise PlainError(
                f"{place} holds no file that ends in {' or '.join(ENDINGS)}: check the folder, or name the shards"
            )
        paths += found
    paths = sorted(set(paths))
    for path in paths:
        check_shard(path)
    return paths


def _index(
    root: str, names: Sequence[str], options: argparse.Namespace, journal: jobs.Journal, findings: Findings
) -> dict[str, Member]:
    """Read the headers of all shards; gives the clips by row, and puts what is wrong into the findings."""
    members: dict[str, Member] = {}
    num_without_audio = num_dotted = 0
    index = partial(_index_shard, root, options.label or "label")
    for name, (clips, problems, without_audio, dotted) in jobs.each(
        index, names, jobs=options.jobs, what="reading headers", journal=journal, unit="shard", per_task=1
    ):
        for member, place, label in clips:
            members[f"{name}:{place}"] = Member(member, label)
        findings.unreadable.update((f"{name}/{member}" if member else name, reason) for member, reason in problems)
        num_without_audio += without_audio
        num_dotted += dotted
    _say_counts(names, members, num_without_audio, num_dotted)
    return members


def _index_shard(root: str, label_field: str, name: str) -> tuple[Any, ...]:
    try:
        read = read_zip if is_zip(name) else read_shard
        return tuple(read(os.path.join(root, name), label_field))
    except OSError as error:
        return [], [("", f"cannot be read: {error.strerror}")], 0, 0


def _say_counts(names: Sequence[str], members: dict[str, Member], num_without_audio: int, num_dotted: int) -> None:
    print(f"{len(members)} audio members in {len(names)} shards")
    if num_without_audio:
        print(f"{num_without_audio} keys without audio were left out; Dasheng's own loader would stop at them")
    if num_dotted:
        print(
            f"{num_dotted} clips have a dot in their base name; Dasheng's own loader would stop at them, they are kept"
        )
    if without_label := sum(found.label is None for found in members.values()):
        print("no clip has a label" if without_label == len(members) else f"{without_label} clips have no label")


def _version(path: str) -> list[Any]:
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]
