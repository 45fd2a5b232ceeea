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
    """Keeps path and reason by (split, row), in the order of the manifests whatever order workers met them in."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.found: SortedDict = SortedDict()
        self.num_read: Counter[str] = Counter()
        self.num_unreadable: Counter[str] = Counter()

    def report(self, split: str, unreadable: Iterable[tuple[int, str]]) -> None:
        """Tell of each unreadable clip that a batch met, once."""
        for row, reason in unreadable:
            if (split, row) not in self.found:
                self.found[split, row] = reason
                logger.warning(f"unreadable clip, replaced by its neighbour: row {row} of {split}: {reason}")

    def judge(self, kind: str, num_unreadable: int, num_read: int, num_clips: int) -> None:
        """Count clips of a ``kind`` (training, validation) that has ``num_clips``, over all processes.

        Raises PlainError when too large a share of those read so far is unreadable.
        """
        self.num_read[kind] += num_read
        self.num_unreadable[kind] += num_unreadable
        read, unreadable = self.num_read[kind], self.num_unreadable[kind]
        if read >= min(JUDGE_FROM, num_clips) and unreadable > self.max_share * read:
            first = f"; the first is {next(iter(self.found.values()))}" if self.found else ""
            raise PlainError(
                f"{unreadable} of the {read} clips read so far for {kind} are unreadable, more than "
                f"task.max_unreadable={self.max_share}{first}"
            )
