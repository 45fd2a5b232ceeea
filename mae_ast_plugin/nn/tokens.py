"""Spectrogram to patches and back.

A patch is ``kernel_time`` frames high in time and ``kernel_chan`` mel bins in frequency; a "frame" token is a patch as
high as the spectrogram. Knows nothing of what is done with the patches.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PatchTokens:
    """The grid of patches; token index = time block x channels + channel block, low frequency first.

    Inside a patch values run time-major: (frame within patch) x kernel_chan + (bin within patch).
    """

    num_mel_bins: int
    kernel_time: int
    kernel_chan: int
    stride_time: int
    stride_chan: int

    @property
    def num_chan(self) -> int:
        """Patches along frequency."""
        return (self.num_mel_bins - self.kernel_chan) // self.stride_chan + 1

    @property
    def patch_size(self) -> int:
        """Values in one patch."""
        return self.kernel_time * self.kernel_chan

    def num_time(self, num_frames: int, count_partial: bool = False) -> int:
        """Patches along time; ``count_partial`` also counts a last patch that is only partly filled."""
        beyond_first = max(0, num_frames - self.kernel_time)
        steps = -(-beyond_first // self.stride_time) if count_partial else beyond_first // self.stride_time
        return int(num_frames >= self.kernel_time or (count_partial and num_frames > 0)) + steps

    def num_tokens(self, num_frames: int, count_partial: bool = False) -> int:
        """Tokens of a clip of ``num_frames`` frames."""
        return self.num_time(num_frames, count_partial) * self.num_chan

    def num_frames(self, num_time: int) -> int:
        """Frames that ``num_time`` patches along time cover."""
        return self.kernel_time + (num_time - 1) * self.stride_time if num_time else 0

    def patchify(self, spectrogram: Tensor) -> Tensor:
        """Cut spectrograms (B, T, F) into patches (B, N, P); frames and bins that fill no patch are dropped."""
        blocks = spectrogram.unfold(1, self.kernel_time, self.stride_time).unfold(2, self.kernel_chan, self.stride_chan)
        # (B, n_time, n_chan, kernel_time, kernel_chan) -> (B, N, P)
        return blocks.flatten(3).flatten(1, 2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Put patches (B, N, P) back into spectrograms (B, T, F); values that several patches cover are averaged."""
        num_time = patches.shape[1] // self.num_chan
        size = (self.num_frames(num_time), self.kernel_chan + (self.num_chan - 1) * self.stride_chan)
        kernel, stride = (self.kernel_time, self.kernel_chan), (self.stride_time, self.stride_chan)
        columns = patches.transpose(1, 2)
        total = F.fold(columns, size, kernel, stride=stride)
        count = F.fold(columns.new_ones(columns.shape), size, kernel, stride=stride)
        return (total / count.clamp(min=1)).squeeze(1)
