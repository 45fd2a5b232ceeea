"""``fsd50k``: 51,000 clips of sound events with one or more of 200 classes; the labels are separated by commas.

Reads ``FSD50K.ground_truth/dev.csv`` and ``eval.csv`` beside ``FSD50K.dev_audio`` and ``FSD50K.eval_audio`` as
published: the development set is train and valid by its own column, the evaluation set is test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from mae_ast_plugin.errors import PlainError
from manifests import corpora
from manifests.corpora import Entry
from manifests.csv_lists import read_columns

DEVELOPMENT = "FSD50K.ground_truth/dev.csv"
EVALUATION = "FSD50K.ground_truth/eval.csv"
SPLITS = {"train": "train", "val": "valid"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = corpora.add_parser(commands, "fsd50k", "FSD50K", list_clips, __doc__)
    parser.add_argument(
        "--mids", action="store_true", help="label with AudioSet's ids (/m/0bt9lr) instead of names (Dog)"
    )


def list_clips(root: str, options: argparse.Namespace, missing: dict[str, str]) -> Iterator[Entry]:
    """Give the clips of the development set, then those of the evaluation set."""
    corpora.require(root, [DEVELOPMENT, EVALUATION], "FSD50K")
    labels = "mids" if options.mids else "labels"
    table = Path(root, DEVELOPMENT)
    for line, (stem, label, split) in read_columns(table, ["fname", labels, "split"]):
        if split not in SPLITS:
            raise PlainError(f"{table} line {line}: the split is {split!r}, expected train or val: mend the line")
        name = f"FSD50K.dev_audio/{stem}.wav"
        if corpora.is_there(root, name, DEVELOPMENT, missing):
            yield Entry(SPLITS[split], name, label)
    for _, (stem, label) in read_columns(Path(root, EVALUATION), ["fname", labels]):
        name = f"FSD50K.eval_audio/{stem}.wav"
        if corpora.is_there(root, name, EVALUATION, missing):
            yield Entry("test", name, label)
