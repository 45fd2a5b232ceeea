"""Many files through an encoder: read ahead, embedded in groups, memory bounded, nothing lost to a bad file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mae_ast_plugin.audio.listing import Listed
from mae_ast_plugin.audio.outcomes import AudioError, Waveform
from mae_ast_plugin.audio.places import size_of
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.audio.waveforms import FASTEST, SLOWEST

# A group of clips is embedded once it holds so many batches of audio, padding included, or so many clips: enough for
# batches of clips of similar length, few enough to lose little when a program is stopped.
GROUP_BATCHES, GROUP_CLIPS = 4, 512
READ_AHEAD = 32


@dataclass
class Group:
    """Consecutive clips of a list: ``rows`` that were read, their embeddings, and why the others were not."""

    rows: list[int] = field(default_factory=list)
    waveforms: list[Tensor] = field(default_factory=list)
    rates: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    longest_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.rows) + len(self.unreadable)

    def add(self, row: int, waveform: Tensor, rate: int) -> None:
        """Take one more clip in."""
        self.rows.append(row)
        self.waveforms.append(waveform)
        self.rates.append(rate)
        self.longest_seconds = max(self.longest_seconds, len(waveform) / rate)

    def padded_seconds(self, another: float = 0.0) -> float:
        """Say how much audio it is once all are padded to the longest, with ``another`` clip of so many seconds."""
        return (len(self.rows) + (another > 0)) * max(self.longest_seconds, another)


def read_groups(clips: Sequence[Listed], group_seconds: float, readers: int = 2) -> Iterator[Group]:
    """Read ``clips`` in order, each at its own rate, in groups of at most ``group_seconds``, or of one longer clip.

    A clip counts with the length of the longest in its group, to which it will be padded.
    """
    group = Group()
    for row, future in _read_ahead(clips, group_seconds, readers):
        try:
            waveform, rate = future.result()
        except AudioError as error:
            group.unreadable[row] = error.reason
        else:
            if not SLOWEST <= rate <= FASTEST:
                group.unreadable[row] = f"has a sample rate of {rate} Hz in its header, which no audio has: mend it"
                continue
            if group.rows and group.padded_seconds(len(waveform) / rate) > group_seconds:
                yield group
                group = Group()
            group.add(row, torch.from_numpy(waveform), rate)
        if group.padded_seconds() >= group_seconds or len(group) >= GROUP_CLIPS:
            yield group
            group = Group()
    if len(group):
        yield group


def _read_ahead(
    clips: Sequence[Listed], seconds: float, readers: int
) -> Iterator[tuple[int, Future[tuple[Waveform, int]]]]:
    """Have the next files read while the last ones are in use: as many as last ``seconds``, by their sizes."""
    ahead: deque[tuple[int, int, Future[tuple[Waveform, int]]]] = deque()
    seconds_per_byte, next_row = float("inf"), 0  # of the most compressed file so far
    pool = ThreadPoolExecutor(readers)
    try:
        while ahead or next_row < len(clips):
            while next_row < len(clips) and len(ahead) < READ_AHEAD:
                waiting = sum(size for _, size, _ in ahead)
                if len(ahead) >= readers and not waiting * seconds_per_byte < seconds:
                    break
                path = clips[next_row].path
                ahead.append((next_row, size_of(path), pool.submit(read, path)))
                next_row += 1
            row, size, future = ahead.popleft()
            if size and future.exception() is None:
                waveform, rate = future.result()
                found = len(waveform) / rate / size
                seconds_per_byte = found if seconds_per_byte == float("inf") else max(seconds_per_byte, found)
            yield row, future
    finally:
        pool.shutdown(cancel_futures=True)  # whoever stops early does not wait for files that nobody wants


def as_arrays(states: Tensor, lengths: Tensor) -> list[np.ndarray]:
    """Take each clip's own steps out of a padded batch: (B, T, W) -> B arrays (steps, W)."""
    return [row[:length].cpu().numpy() for row, length in zip(states, lengths.tolist(), strict=True)]
