"""The clips of a run that could not be read: told once each, counted, and too many of them end the run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from sortedcontainers import SortedDict

from mae_ast_plugin.errors import PlainError

logger = logging.getLogger(__name__)

JUDGE_FROM = 100  # clips read before a share means anything


class UnreadableClips:
    """Keeps path and reason by (split, row), in the order of the manifest whatever order workers met them in."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.found: SortedDict = SortedDict()
        self.num_read: Counter[str] = Counter()
        self.num_found: Counter[str] = Counter()

    def report(self, split: str, unreadable: Iterable[tuple[int, str]], num_read: int, num_clips: int) -> None:
        """Note what a batch of ``num_read`` clips met; PlainError when the share of a split is too large."""
        self.num_read[split] += num_read
        for row, reason in unreadable:
            if (split, row) not in self.found:
                self.found[split, row] = reason
                self.num_found[split] += 1
                logger.warning(f"unreadable clip, replaced by its neighbour: row {row} of {split}: {reason}")
        self._judge(split, num_clips)

    def _judge(self, split: str, num_clips: int) -> None:
        read, found = self.num_read[split], self.num_found[split]
        if found > self.max_share * read and read >= min(JUDGE_FROM, num_clips):
            row = next(self.found.irange(minimum=(split, -1)))
            raise PlainError(
                f"{found} of the {read} clips read so far from {split} are unreadable, more than task.max_unreadable="
                f"{self.max_share}; the first is {self.found[row]}"
            )
