"""Windows cut from the waveform, as the upstream of SSAST cuts them.

Each waveform is padded with silence to whole windows; each window is a clip of its own, filled up with the mean of
spectrograms to a round number of frames; what is filled is seen like audio. The steps of the windows are put behind
each other, so that positions slip by what a window's last patch leaves over (facts: SSAST 11).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mae_ast_plugin.encoder import COLUMNS, AudioEncoder
from mae_ast_plugin.nn.autoencoder import Clips


def cut_windows(wavs: Sequence[Tensor], window: int) -> Tensor:
    """Cut 1-D waveforms into windows of ``window`` samples: (number of windows x B, window), window by window."""
    count = -(-max(len(wav) for wav in wavs) // window)
    padded = wavs[0].new_zeros(len(wavs), count * window)
    for row, wav in zip(padded, wavs, strict=True):
        row[: len(wav)] = wav
    return padded.unflatten(1, (count, window)).transpose(0, 1).flatten(0, 1)


def filled_clips(encoder: AudioEncoder, windows: Tensor) -> Clips:
    """Patches of windows (N, samples), each filled up to as many frames as its samples have hops."""
    features = encoder.frontend(windows)
    frames = features.shape[1]
    whole = windows.shape[1] // encoder.frontend.hop
    features = torch.nn.functional.pad(features, (0, 0, 0, whole - frames))
    return encoder.network.cut(features, [frames] * len(features), fill=True)


def window_states(encoder: AudioEncoder, clips: Clips) -> list[Tensor]:
    """The tokens' embedding, every layer, and the output of the network, each (N, steps of a window, W)."""
    encoded, num_chan = encoder.network.features(clips), encoder.network.tokens.num_chan
    own = map(encoder.network.own_tokens, [*encoded.stack.hidden, encoded.stack.last])
    return [COLUMNS[encoder.columns](states, num_chan) for states in (encoded.tokens, *own)]


def windowed_states(encoder: AudioEncoder, wavs: Sequence[Tensor], window: int) -> list[Tensor]:
    """Those states of whole waveforms: (B, steps, W) each, as many steps as the windows give."""
    clips = filled_clips(encoder, cut_windows(wavs, window))
    return [
        states.unflatten(0, (-1, len(wavs))).transpose(0, 1).flatten(1, 2) for states in window_states(encoder, clips)
    ]
