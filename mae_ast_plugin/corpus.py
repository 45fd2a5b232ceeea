"""Many files through an encoder: read ahead, embedded in groups, memory bounded, nothing lost to a bad file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from mae_ast_plugin.audio.listing import Listed
from mae_ast_plugin.audio.outcomes import AudioError, Waveform
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.encoder import AudioEncoder, Embeddings

# A group of clips is embedded once it holds so many batches of audio or so many clips: enough for batches of clips of
# similar length, few enough to lose little when a program is stopped.
GROUP_BATCHES, GROUP_CLIPS = 4, 512
READ_AHEAD = 32


@dataclass
class Group:
    """Consecutive clips of a list: ``rows`` that were read, their embeddings, and why the others were not."""

    rows: list[int] = field(default_factory=list)
    waveforms: list[Tensor] = field(default_factory=list)
    rates: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.rows) + len(self.unreadable)


def read_groups(clips: Sequence[Listed], group_seconds: float, readers: int = 2) -> Iterator[Group]:
    """Read ``clips`` in order, each at its own rate, in groups of about ``group_seconds`` of audio."""
    with ThreadPoolExecutor(readers) as pool:
        remaining = iter(enumerate(clips))
        ahead: deque[tuple[int, Future[tuple[Waveform, int]]]] = deque()
        group = Group()
        while True:
            for row, clip in islice(remaining, READ_AHEAD - len(ahead)):
                ahead.append((row, pool.submit(read, clip.path)))
            if not ahead:
                break
            row, future = ahead.popleft()
            try:
                waveform, rate = future.result()
            except AudioError as error:
                group.unreadable[row] = error.reason
            else:
                group.rows.append(row)
                group.waveforms.append(torch.from_numpy(waveform))
                group.rates.append(rate)
                group.seconds += len(waveform) / rate
            if group.seconds >= group_seconds or len(group) >= GROUP_CLIPS:
                yield group
                group = Group()
        if len(group):
            yield group


@torch.no_grad()
def embed_groups(
    encoder: AudioEncoder,
    clips: Sequence[Listed],
    use: Callable[[Group, Embeddings], None],
    *,
    layers: Sequence[int] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[int, str]:
    """Embed ``clips`` group by group and hand each group to ``use``; returns the reason of each row left out.

    ``layers`` as in `AudioEncoder.forward`; ``progress`` is told the number of clips done since last time.
    """
    unreadable: dict[int, str] = {}
    for group in read_groups(clips, GROUP_BATCHES * encoder.batch_seconds):
        unreadable |= group.unreadable
        if group.rows:
            use(group, encoder(group.waveforms, group.rates, layers=layers))
        progress(len(group))
    return unreadable


def as_arrays(states: Tensor, lengths: Tensor) -> list[np.ndarray]:
    """Take each clip's own steps out of a padded batch: (B, T, W) -> B arrays (steps, W)."""
    return [row[:length].cpu().numpy() for row, length in zip(states, lengths.tolist(), strict=True)]
