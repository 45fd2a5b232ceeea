"""From clips to one vector each, ready for scoring: the layers of an encoder, of waveforms in memory or of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mae_ast_plugin.audio.listing import Listed
from mae_ast_plugin.corpus import read_groups
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.pooling import POOLINGS, normalised
from mae_ast_plugin.segments import Segment, batches_of

# Waveforms of about this much audio are held at once, so that clips of similar length are found among them.
GROUP_SECONDS = 600.0

# Waveforms and the sample rate of each [Hz] -> vectors (N, D) by name.
Describe = Callable[[Sequence[Tensor], Sequence[int]], dict[str, np.ndarray]]


@torch.no_grad()
def clip_vectors(
    encoder: AudioEncoder,
    waveforms: Sequence[Tensor],
    sample_rate: int | Sequence[int],
    pooling: str = "segments",
    layers: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Pool layers over each clip: layer name ("0" is the tokens' embedding) -> (N, D), in the order given.

    Each step is brought to mean 0 and variance 1 over its values first. ``sample_rate`` [Hz] is one for all or one for
    each; ``layers`` names some (default all). A clip's vector does not depend on the others.
    """
    if pooling not in POOLINGS:
        raise PlainError(f"there is no pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
    rates = list(np.broadcast_to(sample_rate, len(waveforms)).tolist())
    wanted = list(range(encoder.num_layers + 1)) if layers is None else list(layers)
    # The encoder takes lists of any length and keeps every step of every layer of them: it is given a batch at a time.
    durations = [
        Segment(row, 0, len(waveform) * encoder.sample_rate // rate)
        for row, (waveform, rate) in enumerate(zip(waveforms, rates, strict=True))
    ]
    rows: list[int] = []
    pooled: list[list[np.ndarray]] = [[] for _ in wanted]
    for batch in batches_of(durations, int(min(encoder.batch_seconds, GROUP_SECONDS) * encoder.sample_rate)):
        members = [segment.clip for segment in batch]
        embedded = encoder([waveforms[row] for row in members], [rates[row] for row in members], layers=wanted)
        rows += members
        for parts, states in zip(pooled, embedded.hidden_states, strict=True):
            parts.append(POOLINGS[pooling](normalised(states), embedded.lengths).cpu().numpy())
    place = np.argsort(rows)
    return {str(layer): np.concatenate(parts)[place] for layer, parts in zip(wanted, pooled, strict=True)}


def file_vectors(
    clips: Sequence[Listed],
    describe: Describe,
    progress: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Read ``clips`` and describe them group by group, so that memory holds some minutes of audio and the vectors.

    Returns the vectors, by name, of the rows that could be read, in their order, and for each other row the reason.
    ``progress`` is told the number of clips done since last time.
    """
    parts: list[dict[str, np.ndarray]] = []
    unreadable: dict[int, str] = {}
    for group in read_groups(clips, GROUP_SECONDS):
        unreadable |= group.unreadable
        if group.rows:
            parts.append(describe(group.waveforms, group.rates))
        progress(len(group))
    names = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}, unreadable
