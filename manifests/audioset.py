"""``audioset``: ten-second clips of videos with one or more of 527 classes; the labels are ids like /m/09x0r.

Reads the published lists of segments (``balanced_train_segments.csv``, ``unbalanced_train_segments.csv``,
``eval_segments.csv``) and finds the clips wherever they lie below the folder, named by the video's id with any ending,
with or without a ``Y`` before it and ``_START_END`` (seconds or milliseconds) behind it. Videos disappear, so clips
that are listed and not there are usual; they are counted and named. The evaluation set is test.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mae_ast_plugin.audio.listing import find_files
from mae_ast_plugin.errors import PlainError
from manifests import corpora
from manifests.corpora import AUDIO_ENDINGS, Entry
from manifests.csv_lists import read_rows
from manifests.splits import hashed_share

LISTS = {
    "balanced": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
# A video's id is 11 letters, digits, "-" or "_".
CLIP = re.compile(r"Y?([\w-]{11})(?:_(\d+(?:\.\d+)?))?(?:_\d+(?:\.\d+)?)?", re.ASCII)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = corpora.add_parser(commands, "audioset", "AudioSet", list_clips, __doc__)
    parser.add_argument("--lists", metavar="DIR", help="folder of the lists of segments (default the corpus' folder)")
    parser.add_argument(
        "--train", metavar="SETS", help="balanced, unbalanced or both with a comma (default those whose list is there)"
    )
    parser.add_argument("--valid", type=float, default=0.0, help="share of train for validation, 0 to 1 (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another validation split (default 0)")


def list_clips(root: str, options: argparse.Namespace, missing: dict[str, str]) -> Iterator[Entry]:
    """Give the clips of the chosen sets."""
    if not 0 <= options.valid < 1:
        raise PlainError(f"--valid {options.valid} leaves nothing to train on: give 0 or more and less than 1")
    tables = _choose_lists(options.lists or root, options.train)
    names = list(find_files(root, AUDIO_ENDINGS, missing))
    files, num_used = _index(names), 0
    for name, table in tables.items():
        for line, row in read_rows(table, skip_spaces=True):
            if row[0].startswith("#"):
                continue
            video, start, labels = _segment(table, line, row)
            clip = _find(files.get(video, []), start)
            if clip is None:
                corpora.note_missing(video, table.name, missing)
                continue
            num_used += 1
            yield Entry(_split_of(name, video, options), clip, labels)
    if num_used < len(names):
        print(f"{len(names) - num_used} files below {root} are of no listed segment, or a second copy, and left out")


def _split_of(name: str, video: str, options: argparse.Namespace) -> str:
    if name == "eval":
        return "test"
    return "valid" if hashed_share(options.seed, video) < options.valid else "train"


def _choose_lists(folder: str, train: str | None) -> dict[str, Path]:
    """Give the lists to read by the name of their set; the evaluation set wherever its list is there."""
    there = {name: Path(folder, file) for name, file in LISTS.items() if os.path.exists(os.path.join(folder, file))}
    if train is None:
        chosen = there
    else:
        wanted = [name.strip() for name in train.split(",") if name.strip()]
        for name in wanted:
            if name not in ("balanced", "unbalanced"):
                raise PlainError(f"--train {name}: give balanced, unbalanced or both with a comma between them")
            if name not in there:
                raise PlainError(f"--train {name}: {folder} has no {LISTS[name]}: fetch it, or say --lists DIR")
        chosen = {name: path for name, path in there.items() if name in (*wanted, "eval")}
    if not chosen:
        raise PlainError(f"{folder} has none of {', '.join(LISTS.values())}: fetch them, or say --lists DIR")
    return chosen


def _segment(table: Path, line: int, row: list[str]) -> tuple[str, float, str]:
    """Give video id, start [seconds] and labels of a row."""
    try:
        video, start, _, labels = row
        return video, float(start), labels.replace(" ", "")
    except ValueError as error:
        raise PlainError(
            f'{table} line {line}: expected YTID, start, end, "labels" and found {",".join(row)!r}: fetch it again'
        ) from error


def _clip_of(name: str) -> re.Match[str] | None:
    return CLIP.fullmatch(os.path.splitext(os.path.basename(name))[0])


def _index(names: Iterable[str]) -> dict[str, list[str]]:
    """Give the files of every video."""
    files: dict[str, list[str]] = {}
    for name in names:
        if clip := _clip_of(name):
            files.setdefault(clip[1], []).append(name)
    return files


def _find(files: Iterable[str], start: float) -> str | None:
    """Give the first file, by name, that is of the segment at ``start`` [seconds]: it states that start, or none."""
    return min((name for name in files if _may_start(name, start)), default=None)


def _may_start(name: str, start: float) -> bool:
    """Compare the start in a file's name, if any, with that of the list; from 1000 on it may be milliseconds."""
    clip = _clip_of(name)
    stated = float(clip[2]) if clip and clip[2] else start
    return abs(stated - start) < 1 or (stated >= 1000 and abs(stated / 1000 - start) < 1)
