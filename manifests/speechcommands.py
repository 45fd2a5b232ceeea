"""``speechcommands``: one spoken word per clip (v0.01 and v0.02); the word is the label.

The folders are the words; ``validation_list.txt`` and ``testing_list.txt`` name the clips of valid and test, all others
are train. The minutes in ``_background_noise_`` are no clips and are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from mae_ast_plugin.audio.listing import find_files
from mae_ast_plugin.errors import PlainError
from manifests import corpora
from manifests.corpora import AUDIO_ENDINGS, Entry

LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}
UNKNOWN = "unknown"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = corpora.add_parser(commands, "speechcommands", "Speech Commands", list_clips, __doc__)
    parser.add_argument(
        "--words",
        metavar="LIST",
        help="words that are classes, with commas between them, like yes,no,up,down,left,right,on,off,stop,go; all "
        f"others get the label {UNKNOWN!r} (default: every word is a class)",
    )


def list_clips(root: str, options: argparse.Namespace, missing: dict[str, str]) -> Iterator[Entry]:
    """Give the clips below the words' folders."""
    corpora.require(root, LISTS, "Speech Commands")
    splits = _read_lists(root)
    words = _words(root, options.words)
    found = set()
    unreadable: dict[str, str] = {}
    for name in find_files(root, AUDIO_ENDINGS, unreadable):
        word, _, rest = name.partition("/")
        if rest and word in words:
            found.add(_key(name))
            yield Entry(splits.get(_key(name), "train"), name, words[word])
    missing.update((name, reason) for name, reason in unreadable.items() if name.split("/")[0] in words)
    for key in splits.keys() - found - set(map(_key, missing)):
        corpora.note_missing(f"{key}.wav", " or ".join(LISTS), missing)


def _read_lists(root: str) -> dict[str, str]:
    """Give the split of every clip that one of the two lists names, by its name without ending."""
    splits: dict[str, str] = {}
    for listing, split in LISTS.items():
        path = Path(root, listing)
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        for line, name in enumerate(map(str.strip, lines), start=1):
            if splits.get(_key(name), split) != split:
                raise PlainError(
                    f"{path} line {line}: {name} is in validation_list.txt too: remove it from one of them"
                )
            if name:
                splits[_key(name)] = split
    return splits


def _key(name: str) -> str:
    """Drop the ending, so that clips converted to another format stay in their split."""
    return name.rpartition(".")[0]


def _words(root: str, chosen: str | None) -> Mapping[str, str]:
    """Give the label of every folder that is a word."""
    folders = sorted(path.name for path in Path(root).iterdir() if path.is_dir() and path.name[0] not in "_.")
    if not folders:
        raise PlainError(f"{root} is not Speech Commands as it is published: it has no folder of a word")
    if chosen is None:
        return {word: word for word in folders}
    wanted = [word.strip() for word in chosen.split(",") if word.strip()]
    for word in wanted:
        if word not in folders:
            raise PlainError(f"--words: {root} has no folder {word!r}, it has {', '.join(folders)}")
    return {word: word if word in wanted else UNKNOWN for word in folders}
