"""Clip vectors of every layer of an encoder, and of the plain baseline, ready for scoring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.evaluation.knn import log_mel_statistics
from mae_ast_plugin.pooling import POOLINGS, normalised


@torch.no_grad()
def clip_vectors(
    encoder: AudioEncoder,
    waveforms: Sequence[Tensor],
    sample_rate: int,
    pooling: str = "segments",
    batch_seconds: float = 60.0,
) -> dict[str, np.ndarray]:
    """Pool every layer over each clip: layer name ("0" is the tokens' embedding) -> (N, D), in the order given.

    Clips of similar length share a batch of at most ``batch_seconds``; a clip's vector does not depend on its batch.
    """
    order = sorted(range(len(waveforms)), key=lambda row: len(waveforms[row]))
    vectors: dict[str, list[np.ndarray]] = {}
    for batch in _batches(order, waveforms, int(batch_seconds * sample_rate)):
        embedded = encoder([waveforms[row] for row in batch], sample_rate)
        for layer, states in enumerate(embedded.hidden_states):
            pooled = POOLINGS[pooling](normalised(states), embedded.lengths).cpu().numpy()
            vectors.setdefault(str(layer), []).append(pooled)
    place = np.argsort(order)
    return {layer: np.concatenate(parts)[place] for layer, parts in vectors.items()}


def _batches(order: Sequence[int], waveforms: Sequence[Tensor], max_samples: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for row in order:  # from short to long: the newest clip sets the padding
        if not batches or len(waveforms[row]) * (len(batches[-1]) + 1) > max_samples:
            batches.append([])
        batches[-1].append(row)
    return batches


@torch.no_grad()
def baseline_vectors(encoder: AudioEncoder, waveforms: Sequence[Tensor]) -> np.ndarray:
    """Mean and standard deviation of each mel bin over time, from the encoder's own front end: (N, 2 F).

    ``waveforms`` at the front end's rate.
    """
    shortest, device = encoder.shortest, encoder.network.decoder_mask_token.device
    padded = [torch.nn.functional.pad(wave, (0, max(0, shortest - len(wave)))) for wave in waveforms]
    return log_mel_statistics([encoder.frontend(wave[None].to(device))[0].cpu().numpy() for wave in padded])
