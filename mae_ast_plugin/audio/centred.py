"""Front ends whose frames are centred on multiples of the hop: power spectrum, mel filters, logarithm.

One class; a convention is what it is made with. The edges of a clip are reflected at its own ends, also inside a padded
batch, so a clip's features do not depend on the clips beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.errors import PlainError

# mel energies (B, T, F) and, where clips differ, the frames that are their own (B, T) -> (B, T, F)
Compression = Callable[[Tensor, Tensor | None], Tensor]


class CentredMel(nn.Module):
    """Waveforms (B, S) to compressed mel energies (B, 1 + S // hop, F), in float32.

    ``window`` (W,) stands in the middle of ``fft_size`` samples; ``filters`` (fft_size // 2 + 1, F) weigh the power
    spectrum; ``preemphasis`` first replaces sample n by sample n + 1 less so much of sample n, which costs one sample.
    """

    CPU_BLOCK_FRAMES = 1000  # what a processor's cache holds; a GPU takes the whole batch at once

    def __init__(
        self,
        *,
        sample_rate: int,
        fft_size: int,
        hop: int,
        window: Tensor,
        filters: Tensor,
        compression: Compression,
        preemphasis: float | None = None,
    ) -> None:
        super().__init__()
        self.sample_rate, self.fft_size, self.hop = sample_rate, fft_size, hop
        self.num_features, self.first_centre = filters.shape[1], 0.0
        self.compression, self.preemphasis = compression, preemphasis
        missing = fft_size - len(window)
        self.window: Tensor
        self.filters: Tensor
        window = F.pad(window.float(), (missing // 2, missing - missing // 2))
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters.float(), persistent=False)

    @property
    def reach(self) -> int:
        """Samples that are reflected at each end."""
        return self.fft_size // 2

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a clip of ``num_samples`` samples; 0 where it is too short to be reflected."""
        used = num_samples - (self.preemphasis is not None)
        return 1 + used // self.hop if used > self.reach else 0

    def num_samples(self, num_frames: int) -> int:
        """Count the samples of the shortest clip with ``num_frames`` frames."""
        return max((num_frames - 1) * self.hop, self.reach + 1) + (self.preemphasis is not None)

    def forward(self, waveforms: Tensor, lengths: Sequence[int] | None = None, filters: Tensor | None = None) -> Tensor:
        """Compute features; ``lengths`` in samples where the clips of a padded batch differ, ``filters`` in place of
        its own.
        """
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = waveforms.float()
            longest = waveforms.shape[-1]
            counts = [longest] if lengths is None else list(lengths)
            if self.num_frames(min(counts)) == 0:
                raise PlainError(
                    f"a clip of {min(counts)} samples is shorter than the {self.num_samples(1)} that a frame needs; "
                    "pad it or leave it out"
                )
            if self.preemphasis is not None:
                waveforms = waveforms[:, 1:] - self.preemphasis * waveforms[:, :-1]
                counts, longest = [count - 1 for count in counts], longest - 1
            own = None
            if min(counts) == longest:
                padded = F.pad(waveforms[:, None], (self.reach, self.reach), mode="reflect")[:, 0]
            else:
                ends = torch.tensor(counts, device=waveforms.device)[:, None]
                padded = _reflected(waveforms, ends, self.reach)
                frames = torch.arange(1 + longest // self.hop, device=waveforms.device)
                own = frames <= ends // self.hop
            return self.compression(self._mel(padded, self.filters if filters is None else filters), own)

    def _mel(self, padded: Tensor, filters: Tensor) -> Tensor:
        frames = padded.unfold(-1, self.fft_size, self.hop)
        if padded.device.type != "cpu" or torch.compiler.is_compiling():  # a graph has no number of blocks
            return self._power(frames) @ filters
        if frames.shape[1] <= 2 * self.CPU_BLOCK_FRAMES:
            block = max(1, self.CPU_BLOCK_FRAMES // frames.shape[1])
            return torch.cat([self._power(part) @ filters for part in frames.split(block)])
        pieces = frames.split(self.CPU_BLOCK_FRAMES, dim=1)
        return torch.cat([self._power(part) @ filters for part in pieces], dim=1)

    def _power(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self.window)
        return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def _reflected(waveforms: Tensor, ends: Tensor, reach: int) -> Tensor:
    """Reflect each waveform (B, S) at its first sample and at its own last one, ``ends`` (B, 1): (B, S + 2 reach)."""
    place = torch.arange(-reach, waveforms.shape[1] + reach, device=waveforms.device).abs()
    index = torch.where(place < ends, place, 2 * (ends - 1) - place)
    taken = waveforms.gather(1, index.clamp(min=0, max=waveforms.shape[1] - 1).expand(len(waveforms), -1))
    return taken.masked_fill((index < 0) | (place >= ends + reach), 0.0)
