"""``librispeech``: read English speech, 960 hours to train on; the speaker's number is the label.

Reads PART/SPEAKER/CHAPTER/*.flac as published, or in another format under the same names; a part that is not there is
left out unless an option names it. Utterances that a chapter's ``.trans.txt`` has and the folder has not are listed as
missing. Pretraining does not use the labels. The speakers of train, valid and test differ, so to ask who speaks, divide
one manifest (`python -m manifests split`).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mae_ast_plugin.audio.listing import find_files
from mae_ast_plugin.errors import PlainError
from manifests import corpora
from manifests.corpora import AUDIO_ENDINGS, Entry

PARTS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "valid": ("dev-clean", "dev-other"),
    "test": ("test-clean", "test-other"),
}
TRANSCRIPT = ".trans.txt"
UTTERANCE = re.compile(r"(\d+)-\d+-\d+")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = corpora.add_parser(commands, "librispeech", "LibriSpeech", list_clips, __doc__)
    for split, parts in PARTS.items():
        parser.add_argument(
            f"--{split}",
            metavar="PARTS",
            help=f"parts of {split}, with commas (default those of {','.join(parts)} there)",
        )


def list_clips(root: str, options: argparse.Namespace, missing: dict[str, str]) -> Iterator[Entry]:
    """Give the utterances of every chosen part."""
    for part, split in _choose_parts(root, options).items():
        yield from _list_part(root, part, split, missing)


def _choose_parts(root: str, options: argparse.Namespace) -> dict[str, str]:
    """Give the split of every part that is to be listed."""
    chosen: dict[str, str] = {}
    for split, usual in PARTS.items():
        given: str | None = getattr(options, split)
        parts = usual if given is None else [part.strip() for part in given.split(",") if part.strip()]
        for part in parts:
            there = os.path.isdir(os.path.join(root, part))
            if given is not None and not there:
                raise PlainError(f"--{split} {part}: {root} has no such folder, it has {_folders(root)}")
            if part in chosen:
                raise PlainError(f"{part} is given for {chosen[part]} and for {split}: give it once")
            if there:
                chosen[part] = split
    if not chosen:
        usual_parts = ", ".join(part for parts in PARTS.values() for part in parts)
        raise PlainError(
            f"{root} is not LibriSpeech as it is published: it has none of {usual_parts}; give the folder with them"
        )
    return chosen


def _folders(root: str) -> str:
    return ", ".join(sorted(path.name for path in Path(root).iterdir() if path.is_dir())) or "none"


def _list_part(root: str, part: str, split: str, missing: dict[str, str]) -> Iterator[Entry]:
    found: set[str] = set()
    listed: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for inside in find_files(os.path.join(root, part), (*AUDIO_ENDINGS, TRANSCRIPT), unreadable):
        name = f"{part}/{inside}"
        if name.endswith(TRANSCRIPT):
            listed.update(_transcribed(root, name))
            continue
        path = PurePosixPath(name)
        if utterance := UTTERANCE.fullmatch(path.stem):
            found.add(str(path.with_suffix("")))
            yield Entry(split, name, utterance[1])
        else:
            missing[name] = (
                "is not named SPEAKER-CHAPTER-NUMBER as the utterances of LibriSpeech are: rename or remove it"
            )
    missing.update((f"{part}/{inside}", reason) for inside, reason in unreadable.items())
    for utterance_name in listed.keys() - found:
        if f"{utterance_name}.flac" not in missing:
            corpora.note_missing(f"{utterance_name}.flac", listed[utterance_name], missing)


def _transcribed(root: str, name: str) -> dict[str, str]:
    """Give the utterances that a transcript has, named without ending, each with the transcript's name."""
    folder = name.rpartition("/")[0]
    with open(os.path.join(root, name), encoding="utf-8", errors="surrogateescape") as handle:
        first_words = (line.split(maxsplit=1)[:1] for line in handle)
        return {f"{folder}/{words[0]}": name for words in first_words if words}
