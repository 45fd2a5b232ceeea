"""Which labelled clips are learned from, chosen on and scored: train, valid and test, or each group in turn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from mae_ast_plugin.audio.listing import Listed
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.labels import (
    LabelledClips,
    check_apart,
    check_classes,
    check_groups,
    check_known,
    groups_of,
    read_labelled,
)
from mae_ast_plugin.evaluation.scores import Division, leave_out_each, targets_of


@dataclass(frozen=True)
class Splits:
    """Labelled clips by split, ``train`` first; with ``leave_out`` there is no other, see `groups_of`.

    Rows count through all splits.
    """

    parts: dict[str, LabelledClips]
    leave_out: str | None = None

    @property
    def clips(self) -> list[Listed]:
        """All clips, split after split."""
        return [clip for part in self.parts.values() for clip in part.clips]

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """The labels of all clips."""
        return [labels for part in self.parts.values() for labels in part.labels]

    @property
    def has_several(self) -> bool:
        """Whether any clip has more than one label."""
        return any(part.has_several for part in self.parts.values())

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split."""
        names, sizes = list(self.parts), [len(part) for part in self.parts.values()]
        first = sum(sizes[: names.index(split)])
        return np.arange(first, first + len(self.parts[split]))

    def without(self, rows: Collection[int]) -> Splits:
        """Leave out some rows."""
        parts = {
            split: part.without({number for number, row in enumerate(self.rows(split)) if row in rows})
            for split, part in self.parts.items()
        }
        return replace(self, parts=parts)

    def targets(self) -> np.ndarray:
        """What is to be predicted of each row, see `scores.py`."""
        return targets_of(self.labels, self.has_several)

    def division(self) -> Division:
        """Say which rows are fitted on and which scored."""
        if self.leave_out is not None:
            return leave_out_each(groups_of(self.parts["train"], self.leave_out))
        valid = self.rows("valid") if "valid" in self.parts else None
        return Division({"test": (self.rows("train"), self.rows("test"))}, valid)

    def check(self, least_clips: int, which: str = "row") -> None:
        """Raise PlainError where these clips cannot be scored; ``which`` (row, readable clip) says what they are."""
        train = self.parts["train"]
        check_classes(train)
        if self.leave_out is not None:
            check_groups(train, groups_of(train, self.leave_out))
        for split, part in self.parts.items():
            if split != "train":
                check_known(part, train, which)
                check_apart(part, train)
        for name, (fitted, _) in self.division().folds.items():
            if len(fitted) < least_clips:
                without = "" if self.leave_out is None else f" without the group {name!r}"
                raise PlainError(
                    f"k is {least_clips}, and {train.path} has {len(fitted)} clips{without}: give a smaller --k"
                )


def read_splits(train: str, test: str | None = None, valid: str | None = None, leave_out: str | None = None) -> Splits:
    """Read the manifests; PlainError where they are not labelled or do not go together."""
    if leave_out is not None and (test or valid):
        raise PlainError("--leave-out scores each group of --train in turn: leave out --test and --valid")
    if leave_out is None and not test:
        raise PlainError(
            "there is nothing to score: give --test, or --leave-out to score the groups of --train in turn"
        )
    given = {"train": train, "valid": valid, "test": test}
    return Splits({split: read_labelled(path) for split, path in given.items() if path}, leave_out)
