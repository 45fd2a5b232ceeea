"""``esc50``: environmental sounds of 50 classes, 5 folds; the class is the label.

Reads ``meta/esc50.csv`` and ``audio/`` as published. One fold is the test split, one the validation split, the others
train. For the usual score over five folds write one manifest (``--test-fold 0 --valid-fold 0``) and let
`evaluate --leave-out '^audio/(.)-'` leave out each fold in turn: every clip's name begins with its fold.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from mae_ast_plugin.errors import PlainError
from manifests import corpora
from manifests.corpora import Entry
from manifests.csv_lists import read_columns

TABLE = "meta/esc50.csv"
FOLDS = "12345"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = corpora.add_parser(commands, "esc50", "ESC-50", list_clips, __doc__)
    parser.add_argument(
        "--test-fold", type=int, default=5, help="fold of the test split, 1 to 5, 0 for none (default 5)"
    )
    parser.add_argument("--valid-fold", type=int, default=4, help="fold of the validation split, likewise (default 4)")


def list_clips(root: str, options: argparse.Namespace, missing: dict[str, str]) -> Iterator[Entry]:
    """Give the clips of all folds."""
    _check_folds(options.test_fold, options.valid_fold)
    corpora.require(root, [TABLE, "audio"], "ESC-50")
    splits = {str(options.test_fold): "test", str(options.valid_fold): "valid"}
    table = Path(root, TABLE)
    for line, (filename, fold, category) in read_columns(table, ["filename", "fold", "category"]):
        if fold not in FOLDS or not fold:
            raise PlainError(f"{table} line {line}: the fold is {fold!r}, and ESC-50 has 1 to 5: mend the line")
        name = f"audio/{filename}"
        if corpora.is_there(root, name, TABLE, missing):
            yield Entry(splits.get(fold, "train"), name, category)


def _check_folds(test: int, valid: int) -> None:
    for option, fold in (("--test-fold", test), ("--valid-fold", valid)):
        if not 0 <= fold <= 5:
            raise PlainError(f"{option} {fold}: ESC-50 has the folds 1 to 5, give one of them, or 0 for no such split")
    if test == valid != 0:
        raise PlainError(f"--test-fold and --valid-fold are both {test}: give two folds")
