"""The one path from waveforms to embeddings.

Everything that looks at a pretrained network from outside goes through :class:`AudioEncoder`: scores, pictures,
upstreams. Needs torch and the rooms below, no fairseq.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.audio.frontend import FrontEnd, pad_waveforms
from mae_ast_plugin.audio.resample import resample
from mae_ast_plugin.checkpoint import Checkpoint, build_network, load_checkpoint
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a batch, one step per column of patches.

    ``hidden_states`` holds the tokens' embedding (with positions) and the output of every layer, each (B, T, C x D):
    the C patches of a column side by side, low frequency first. ``frames`` (B, T, C x D) is the last of them,
    ``lengths`` (B,) says how many steps belong to each clip, ``step_seconds`` how far they are apart.
    """

    hidden_states: list[Tensor]
    lengths: Tensor
    step_seconds: float

    @property
    def frames(self) -> Tensor:
        """Output of the last layer (B, T, C x D)."""
        return self.hidden_states[-1]

    @property
    def clip(self) -> Tensor:
        """Mean of the last layer over each clip's own steps (B, C x D)."""
        return pool_mean(self.frames, self.lengths)


def _valid(frames: Tensor, lengths: Tensor) -> Tensor:
    return (torch.arange(frames.shape[1], device=frames.device) < lengths[:, None])[..., None].to(frames.dtype)


def pool_mean(frames: Tensor, lengths: Tensor) -> Tensor:
    """Average over each clip's own steps: (B, T, D), (B,) -> (B, D)."""
    valid = _valid(frames, lengths)
    return (frames * valid).sum(dim=1) / valid.sum(dim=1)


def pool_statistics(frames: Tensor, lengths: Tensor) -> Tensor:
    """Join mean and standard deviation over each clip's own steps: (B, T, D), (B,) -> (B, 2 D)."""
    mean = pool_mean(frames, lengths)
    variance = pool_mean((frames - mean[:, None]).square(), lengths)
    return torch.cat([mean, (variance + 1e-6).sqrt()], dim=1)


def pool_segments(frames: Tensor, lengths: Tensor, num_segments: int = 3) -> Tensor:
    """Average over equal parts of each clip and join them in order: (B, T, D), (B,) -> (B, num_segments x D).

    Keeps the order of events, which a mean over the clip loses. A clip with fewer steps than segments repeats steps.
    """
    steps = torch.arange(frames.shape[1], device=frames.device)
    parts = []
    for segment in range(num_segments):
        begin = (lengths * segment) // num_segments
        end = torch.maximum((lengths * (segment + 1)) // num_segments, begin + 1)
        inside = ((steps >= begin[:, None]) & (steps < end[:, None]))[..., None].to(frames.dtype)
        parts.append((frames * inside).sum(dim=1) / inside.sum(dim=1))
    return torch.cat(parts, dim=1)


class AudioEncoder(nn.Module):
    """A pretrained network with its front end: waveforms of any length in, :class:`Embeddings` out.

    Clips of a batch do not influence each other: padding is masked, and only patches that a clip fills itself count (a
    clip shorter than one patch is padded with zeros to one).
    """

    def __init__(self, frontend: FrontEnd, network: MaskedAutoencoder, checkpoint: Checkpoint | None = None) -> None:
        super().__init__()
        self.frontend, self.network, self.checkpoint = frontend, network, checkpoint

    @property
    def shortest(self) -> int:
        """Samples of the shortest clip that fills a patch; shorter ones are padded to it."""
        return self.frontend.num_samples(self.network.tokens.num_frames(1))

    def _waveforms(self, waveforms: Sequence[Tensor | np.ndarray], sample_rate: int) -> list[Tensor]:
        if len(waveforms) == 0:
            raise PlainError("there are no waveforms to embed; give at least one")
        device = self.network.decoder_mask_token.device
        ready = []
        for number, waveform in enumerate(waveforms):
            tensor = torch.as_tensor(waveform)
            if tensor.dim() != 1 or tensor.numel() == 0 or not tensor.is_floating_point():
                raise PlainError(
                    f"waveform {number} has shape {tuple(tensor.shape)} and type {tensor.dtype}; it must be one "
                    f"channel of "
                    "at least one floating-point sample"
                )
            if sample_rate != self.frontend.sample_rate:
                tensor = torch.from_numpy(
                    resample(tensor.cpu().float().numpy(), sample_rate, self.frontend.sample_rate)
                )
            ready.append(tensor.to(device, torch.float32))
        return ready

    def forward(
        self, waveforms: Sequence[Tensor | np.ndarray], sample_rate: int = 16000, with_decoder: bool = False
    ) -> Embeddings:
        """Embed 1-D ``waveforms`` of any lengths, all at ``sample_rate``; they are resampled where needed."""
        ready = self._waveforms(waveforms, sample_rate)
        frames = [self.frontend.num_frames(max(self.shortest, len(waveform))) for waveform in ready]
        spectrogram = self.frontend(pad_waveforms(ready, self.shortest), frames)
        clips = self.network.cut(spectrogram, frames)
        encoded = self.network.features(clips, with_decoder=with_decoder)
        columns = self.network.tokens.num_chan
        steps = torch.tensor(clips.num_tokens, device=spectrogram.device) // columns
        hidden = [states.unflatten(1, (-1, columns)).flatten(2) for states in [encoded.tokens, *encoded.stack.hidden]]
        seconds = self.network.tokens.stride_time * self.frontend.hop / self.frontend.sample_rate
        return Embeddings(hidden, steps, seconds)


def load_model(path: str | Path) -> AudioEncoder:
    """Load a checkpoint of any known format as an encoder in evaluation mode; CheckpointError says why it cannot be."""
    checkpoint = load_checkpoint(path)
    return AudioEncoder(frontend_of(checkpoint.task), build_network(checkpoint), checkpoint).eval()


def normalised(frames: Tensor) -> Tensor:
    """Bring each step to mean 0 and variance 1 over its values, so that layers of any scale pool alike."""
    return F.layer_norm(frames, frames.shape[-1:])
