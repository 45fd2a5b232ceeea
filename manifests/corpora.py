"""A published corpus as manifests: its clips are probed, and each of its splits is written with rates and labels.

A corpus is a function that lists (split, name, label) from the layout in which it is published; all else is here. What
is listed there and missing or unreadable goes to ``unreadable.tsv`` and does not end the command.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from mae_ast_plugin.audio.listing import EXTENSIONS
from mae_ast_plugin.audio.manifest import check_name
from mae_ast_plugin.errors import PlainError
from manifests import jobs
from manifests.output import Clip, Findings, find_out, probing_journal, write_split, write_unreadable
from manifests.splits import SPLITS

Value = TypeVar("Value")

AUDIO_ENDINGS = tuple(f".{ending}" for ending in EXTENSIONS.split(","))


class Entry(NamedTuple):
    """A clip as its corpus lists it: split, name relative to the corpus' folder, label (several with commas)."""

    split: str
    name: str
    label: str | None


# Given the corpus' folder, the options and a place for what is listed but missing (name to reason).
Lister = Callable[[str, argparse.Namespace, dict[str, str]], Iterator[Entry]]


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    command: str,
    corpus: str,
    list_clips: Lister,
    description: str | None,
) -> argparse.ArgumentParser:
    """Add the sub-command of a corpus with the options that all have, and give it for those of its own."""
    parser = commands.add_parser(command, help=f"list the clips of {corpus} with labels", description=description)
    parser.add_argument("folder", metavar="DIR", help=f"the folder of {corpus}, becomes the root of the manifests")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train.tsv, valid.tsv, test.tsv")
    jobs.add_options(parser)
    parser.set_defaults(run=partial(run, corpus=corpus, list_clips=list_clips))
    return parser


def run(options: argparse.Namespace, *, corpus: str, list_clips: Lister) -> None:
    """List, probe, write and report; PlainError when the folder is not the corpus or no clip is left."""
    jobs.check_jobs(options.jobs)
    root, out = os.path.abspath(options.folder), Path(options.out)
    if not os.path.isdir(root):
        raise PlainError(f"{options.folder} is not a folder: give the folder of {corpus}")
    missing: dict[str, str] = {}
    entries = _this_part(_by_name(list_clips(root, options, missing), corpus), options.shard)
    findings = Findings()
    findings.unreadable.update(_this_part(missing, options.shard))
    num_missing = len(findings.unreadable)
    with probing_journal(out / f".{options.command}.journal", [options.command, root], root) as journal:
        find_out(root, list(entries), findings, jobs=options.jobs, journal=journal, label_of=lambda x: entries[x].label)
        path = write_unreadable(out, findings.unreadable)
        num_unreadable = len(findings.unreadable) - num_missing
        print(f"{num_missing} missing or misplaced, {num_unreadable} unreadable (all with reasons in {path})")
        if not findings.clips:
            raise PlainError(f"no clip of {corpus} below {root} can be used: the reasons are in {path}")
        _write_splits(out, root, entries, findings.clips)


def require(root: str, names: Iterable[str], corpus: str) -> None:
    """Refuse a folder that lacks one of the files or folders by which its corpus is known."""
    for name in names:
        if not os.path.exists(os.path.join(root, name)):
            raise PlainError(f"{root} is not {corpus} as it is published: it has no {name}; give the folder with it")


def is_there(root: str, name: str, listed_in: str, missing: dict[str, str]) -> bool:
    """Tell whether a listed file is there, with a name a manifest can hold; note the reason where it is not."""
    if reason := check_name(name):
        missing[name] = reason
    elif not os.path.exists(os.path.join(root, name)):
        note_missing(name, listed_in, missing)
    return name not in missing


def note_missing(name: str, listed_in: str, missing: dict[str, str]) -> None:
    """Note a file that is listed and not there."""
    missing[name] = f"is listed in {listed_in} and is not there: fetch it or go without"


def _by_name(entries: Iterable[Entry], corpus: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if other := found.get(entry.name):
            raise PlainError(
                f"{entry.name} is listed twice by {corpus}, for {other.split} and for {entry.split}: "
                "remove one from its lists"
            )
        found[entry.name] = entry
    return found


def _this_part(items: Mapping[str, Value], share: jobs.Share) -> dict[str, Value]:
    return {name: value for name, value in items.items() if share.holds(name)}


def _write_splits(out: Path, root: str, entries: Mapping[str, Entry], clips: Mapping[str, Clip]) -> None:
    trained: set[str] | None = None
    for split in SPLITS:
        chosen = [clip for name, clip in clips.items() if entries[name].split == split]
        if not chosen:
            left = out / f"{split}.tsv"
            print(f"{split}: no clips" + (f", {left} of an earlier run is left as it is" if left.exists() else ""))
            continue
        write_split(out, split, root, chosen)
        labels = _labels_of(chosen)
        trained = labels if split == "train" else trained
        unknown = len(labels - trained) if trained is not None else 0
        print(f"{split}: {len(labels)} labels" + (f", {unknown} of them not in train" if unknown else ""))


def _labels_of(clips: Sequence[Clip]) -> set[str]:
    return {label for clip in clips if clip.label for label in clip.label.split(",")}
