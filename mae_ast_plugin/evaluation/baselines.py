"""What a pretrained encoder is compared with: the same network without training, and the log-mel without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mae_ast_plugin.audio.waveforms import as_waveforms
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.arrays import check_vectors
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of


def random_twin(encoder: AudioEncoder, seed: int = 0) -> AudioEncoder:
    """Give the same network fresh random weights; the input's mean and variance, which are no learning, are kept."""
    if encoder.checkpoint is None:
        raise PlainError("this encoder was not loaded from a checkpoint, so its settings are not known")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = autoencoder_of(encoder.checkpoint.model, encoder.frontend.num_features)
    network.norm.load_state_dict(encoder.network.norm.state_dict())
    twin = AudioEncoder(
        frontend_of(encoder.checkpoint.task),
        network,
        encoder.checkpoint,
        columns=encoder.columns,
        window_seconds=encoder.window_seconds,
        batch_seconds=encoder.batch_seconds,
        precision=encoder.precision,
    )
    return twin.eval().to(encoder.device)


@torch.no_grad()
def baseline_vectors(
    encoder: AudioEncoder, waveforms: Sequence[Tensor], sample_rate: int | Sequence[int]
) -> np.ndarray:
    """Mean and standard deviation of each mel bin over time, from the encoder's own front end: (N, 2 F).

    ``sample_rate`` [Hz] is one for all or one for each.
    """
    resampler = encoder.checkpoint.task.resampler if encoder.checkpoint else "soxr"
    clips = as_waveforms(waveforms, sample_rate, encoder.sample_rate, resampler=resampler)
    return np.concatenate([log_mel_statistics([_log_mel(encoder, clip)]) for clip in clips])


def _log_mel(encoder: AudioEncoder, clip: Tensor) -> np.ndarray:
    """Features of one clip (T, F), as the encoder's network is given them."""
    padded = F.pad(clip.to(encoder.device), (0, max(0, encoder.shortest - len(clip))))
    features: np.ndarray = encoder.frontend(padded[None])[0].cpu().numpy()
    return features


def log_mel_statistics(spectrograms: Sequence[np.ndarray]) -> np.ndarray:
    """Describe every spectrogram (T, F) by its mean and spread over time, shape (N, 2F): the plain baseline.

    Raises `PlainError` for an empty list, a spectrogram without frames, NaN or infinity, and differing numbers of bins.
    """
    if not spectrograms:
        raise PlainError("There are no spectrograms to describe; give at least one.")
    checked = [check_vectors(s, f"Spectrogram {index}") for index, s in enumerate(spectrograms)]
    widths = {s.shape[1] for s in checked}
    if len(widths) > 1:
        raise PlainError(f"All spectrograms must have the same number of bins, but found {sorted(widths)}.")
    return np.stack([np.concatenate([s.mean(axis=0), s.std(axis=0)]) for s in checked])
