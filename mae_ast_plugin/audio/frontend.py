"""Front ends: batches of waveforms to log-mel spectrograms, on whatever device the waveforms lie.

Each published system fixes one convention; here is Kaldi's (MAE-AST, SSAST), written as batched tensor operations and
always computed in float32. The constants follow ``torchaudio.compliance.kaldi`` with its defaults, see
``docs/methods/mae_ast.md``. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mae_ast_plugin.audio.decibels import decibel_mel
from mae_ast_plugin.audio.emphasised import MP3_LOW_PASS_HZ, EmphasisedMel
from mae_ast_plugin.audio.mel import kaldi_mel_filters
from mae_ast_plugin.audio.slaney_mel import slaney_log_mel
from mae_ast_plugin.errors import PlainError

PREEMPHASIS = 0.97
LOG_FLOOR = torch.finfo(torch.float32).eps


def povey_window(size: int) -> Tensor:
    """Kaldi's default window: a symmetric Hann window to the power 0.85; returns (size,)."""
    return torch.hann_window(size, periodic=False, dtype=torch.float64).pow(0.85).float()


def hann_window(size: int) -> Tensor:
    """The symmetric Hann window, which Kaldi calls hanning; returns (size,)."""
    return torch.hann_window(size, periodic=False, dtype=torch.float64).float()


class KaldiFrames(nn.Module):
    """Cut a batch of waveforms into windowed, DC-free, pre-emphasised frames and take their power spectrum.

    Whole windows only: a clip of n samples has ``1 + (n - window) // hop`` frames.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        window: Callable[[int], Tensor] = povey_window,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.window_size = int(sample_rate * window_ms / 1000)
        self.hop = int(sample_rate * hop_ms / 1000)
        self.first_centre = self.window_size / 2
        self.fft_size = 1 << (self.window_size - 1).bit_length()
        self.window: Tensor
        self.register_buffer("window", window(self.window_size), persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a clip of ``num_samples`` samples."""
        return max(0, 1 + (num_samples - self.window_size) // self.hop)

    def num_samples(self, num_frames: int) -> int:
        """Count the samples that give exactly ``num_frames`` frames and no more."""
        return self.window_size + (num_frames - 1) * self.hop

    def raw_frames(self, waveforms: Tensor) -> Tensor:
        """Cut waveforms (B, S) into overlapping frames (B, T, window), a view."""
        if waveforms.shape[-1] < self.window_size:
            raise PlainError(
                f"a clip of {waveforms.shape[-1]} samples is shorter than one analysis window of {self.window_size} "
                f"samples; pad it or leave it out"
            )
        return waveforms.unfold(-1, self.window_size, self.hop)

    def frames(self, waveforms: Tensor, out: Tensor | None = None) -> Tensor:
        """Cut waveforms (B, S) into frames less their mean, pre-emphasised and windowed (B, T, window - 1).

        ``out`` of this shape is filled where it is given.
        """
        # Pre-emphasis of a frame without its mean m is that of the waveform less (1 - a) m: done once for the waveform
        # instead of for every overlapping frame. A frame's first sample, which has no predecessor, meets the window's
        # zero; it is left out, and a frame that begins a sample later has the same power.
        shift = self.raw_frames(waveforms).mean(dim=-1, keepdim=True) * (1 - PREEMPHASIS)
        emphasised = torch.sub(waveforms[..., 1:], waveforms[..., :-1], alpha=PREEMPHASIS)
        return torch.sub(emphasised.unfold(-1, self.window_size - 1, self.hop), shift, out=out).mul_(self.window[1:])

    def power(self, waveforms: Tensor) -> Tensor:
        """Map waveforms (B, S) to the power spectrum of their frames (B, T, fft_size // 2 + 1)."""
        spectrum = torch.fft.rfft(self.frames(waveforms.float()), n=self.fft_size)
        return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


class KaldiFbank(KaldiFrames):
    """Log-mel filter bank energies, natural logarithm, floored at float32's epsilon (B, S) -> (B, T, num_mel_bins)."""

    CPU_BLOCK_FRAMES = 2000  # twenty seconds: what a processor's cache holds; a GPU takes the whole batch at once
    NUM_BANDS = 8

    def __init__(
        self, num_mel_bins: int = 128, sample_rate: int = 16000, window: Callable[[int], Tensor] = povey_window
    ) -> None:
        super().__init__(sample_rate, window=window)
        self.num_features = num_mel_bins
        self.filters: Tensor
        # Rows twice: the squares of real and imaginary parts lie side by side, and the matrix product also adds them.
        filters = kaldi_mel_filters(num_mel_bins, self.fft_size, sample_rate).repeat_interleave(2, dim=0)
        self.register_buffer("filters", filters, persistent=False)
        self.bands = list(_bands(filters, -(-num_mel_bins // self.NUM_BANDS)))

    def forward(self, waveforms: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = waveforms.float()
            # a graph, of gradients or compiled, has no use for blocks in memory that is written again and again
            if waveforms.device.type != "cpu" or torch.compiler.is_compiling() or waveforms.requires_grad:
                return (self._squares(self.frames(waveforms)) @ self.filters).clamp(min=LOG_FLOOR).log()
            return self._by_blocks(waveforms)

    def _by_blocks(self, waveforms: Tensor) -> Tensor:
        num_frames = self.raw_frames(waveforms).shape[1]
        log_mel = waveforms.new_empty(len(waveforms), num_frames, self.num_features)
        length = min(num_frames, self.CPU_BLOCK_FRAMES)
        clips = self.CPU_BLOCK_FRAMES // length
        padded = waveforms.new_zeros(clips * length, self.fft_size)  # behind a frame zeros remain
        for rows, result in zip(waveforms.split(clips), log_mel.split(clips), strict=True):
            for first in range(0, num_frames, length):
                part = result[:, first : first + length]
                block = padded[: part.shape[0] * part.shape[1]]
                samples = rows[:, first * self.hop : self.num_samples(first + part.shape[1])]
                self.frames(samples, out=block.view(*part.shape[:2], -1)[..., : self.window_size - 1])
                flat = part.flatten(0, 1)  # a view: several clips, or part of one
                squares = self._squares(block)
                for bins, mels in self.bands:
                    torch.mm(squares[:, bins], self.filters[bins, mels], out=flat[:, mels])
                part.clamp_(min=LOG_FLOOR).log_()
        return log_mel

    def _squares(self, frames: Tensor) -> Tensor:
        """Map frames (..., window or more) to the squares of their spectrum's parts (..., fft_size + 2)."""
        return torch.view_as_real(torch.fft.rfft(frames, n=self.fft_size)).square_().flatten(-2)


def _bands(filters: Tensor, width: int) -> Iterator[tuple[slice, slice]]:
    """Split filters (bins, mels) into groups of ``width`` and name the spectrum's bins that each group covers."""
    for first in range(0, filters.shape[1], width):
        mels = slice(first, min(first + width, filters.shape[1]))
        covered = filters[:, mels].any(dim=1).nonzero()
        low, high = (int(covered[0]), int(covered[-1]) + 1) if len(covered) else (0, 1)
        yield slice(low, high), mels


class KaldiSpectrogram(KaldiFrames):
    """Log power spectrum whose first bin is the frame's log energy (B, S) -> (B, T, num_features <= 257 at 16 kHz)."""

    def __init__(self, num_features: int = 257, sample_rate: int = 16000) -> None:
        super().__init__(sample_rate)
        most = self.fft_size // 2 + 1
        if num_features > most:
            raise PlainError(
                f"task.feature_dim is {num_features}, but feature_type spectrogram has {most} columns at "
                f"{sample_rate} Hz; "
                f"set task.feature_dim={most} or less"
            )
        self.num_features = num_features

    def forward(self, waveforms: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        with torch.autocast(waveforms.device.type, enabled=False):
            spectrum = self.power(waveforms).clamp(min=LOG_FLOOR).log()
            raw = self.raw_frames(waveforms.float())
            energy = (raw - raw.mean(dim=-1, keepdim=True)).square().sum(dim=-1, keepdim=True)
            energy = energy.clamp(min=1.0).log()  # Kaldi floors energies at one
            return torch.cat([energy, spectrum[..., 1:]], dim=-1)[..., : self.num_features]


class KaldiMfcc(nn.Module):
    """Thirteen liftered cepstral coefficients of 23 log-mel bins, without log energy (B, S) -> (B, T, num_features)."""

    NUM_MEL_BINS, NUM_CEPS, LIFTER = 23, 13, 22.0

    def __init__(self, num_features: int = 13, sample_rate: int = 16000) -> None:
        super().__init__()
        if num_features > self.NUM_CEPS:
            raise PlainError(
                f"task.feature_dim is {num_features}, but feature_type mfcc has {self.NUM_CEPS} columns; "
                f"set task.feature_dim={self.NUM_CEPS}"
            )
        self.fbank = KaldiFbank(self.NUM_MEL_BINS, sample_rate)
        self.num_features, self.hop, self.first_centre = num_features, self.fbank.hop, self.fbank.first_centre
        bins = torch.arange(self.NUM_MEL_BINS, dtype=torch.float64)
        order = torch.arange(self.NUM_CEPS, dtype=torch.float64)
        dct = torch.cos(math.pi / self.NUM_MEL_BINS * (bins[:, None] + 0.5) * order) * math.sqrt(2 / self.NUM_MEL_BINS)
        dct[:, 0] = math.sqrt(1 / self.NUM_MEL_BINS)
        lifter = 1 + 0.5 * self.LIFTER * torch.sin(math.pi * order / self.LIFTER)
        self.cepstrum: Tensor
        self.register_buffer("cepstrum", (dct * lifter).float()[:, :num_features], persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a clip of ``num_samples`` samples."""
        return self.fbank.num_frames(num_samples)

    def num_samples(self, num_frames: int) -> int:
        """Count the samples that give exactly ``num_frames`` frames and no more."""
        return self.fbank.num_samples(num_frames)

    def forward(self, waveforms: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        with torch.autocast(waveforms.device.type, enabled=False):
            return self.fbank(waveforms) @ self.cepstrum


def add_deltas(features: Tensor, num_frames: Sequence[int] | None = None) -> Tensor:
    """Append first and second differences over five frames, each clip's edges repeated: (B, T, F) -> (B, T, 3 F).

    ``num_frames`` of each clip, None where all have T: what lies behind a clip must not enter its last differences.
    """
    steps = torch.arange(-2, features.shape[1] + 2, device=features.device).clamp(min=0)
    if num_frames is None:
        index = steps.clamp(max=features.shape[1] - 1)[None, :, None]
    else:
        last = torch.tensor([max(1, n) for n in num_frames], device=features.device)[:, None] - 1
        index = torch.minimum(steps, last)[..., None]

    def delta(x_btf: Tensor) -> Tensor:
        padded = x_btf.gather(1, index.expand(x_btf.shape[0], -1, x_btf.shape[2]))
        return (2 * (padded[:, 4:] - padded[:, :-4]) + padded[:, 3:-1] - padded[:, 1:-3]) / 10

    first = delta(features)
    return torch.cat([features, first, delta(first)], dim=2)


class Convention(Protocol):
    """What a front end is made of: how frames follow from samples, and features (B, T, num_features) from waveforms.

    ``first_centre`` is where the middle of the first frame lies [samples]; ``lengths`` of each clip [samples] where
    those of a padded batch differ.
    """

    num_features: int
    hop: int
    first_centre: float

    def num_frames(self, num_samples: int) -> int: ...

    def num_samples(self, num_frames: int) -> int: ...

    def __call__(self, waveforms: Tensor, lengths: Sequence[int] | None = None) -> Tensor: ...


@runtime_checkable
class VaryingConvention(Protocol):
    """One that can vary the features of a batch at random, which augments training."""

    def vary(self, waveforms: Tensor, lengths: Sequence[int] | None, seed: int) -> Tensor: ...


class FrontEnd(nn.Module):
    """One convention plus the optional differences: waveforms (B, S) to features (B, T, num_features), float32."""

    def __init__(self, convention: Convention, sample_rate: int, deltas: bool) -> None:
        super().__init__()
        self.convention = convention
        self.sample_rate = sample_rate
        self.deltas = deltas
        self.num_features = convention.num_features * (3 if deltas else 1)
        self.hop = convention.hop
        self.first_centre = convention.first_centre

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a clip of ``num_samples`` samples."""
        return self.convention.num_frames(num_samples)

    def num_samples(self, num_frames: int) -> int:
        """Count the samples of the shortest clip with ``num_frames`` frames."""
        return self.convention.num_samples(num_frames)

    def forward(self, waveforms: Tensor, lengths: Sequence[int] | None = None, seed: int | None = None) -> Tensor:
        """Compute features of ``waveforms``; ``lengths`` of each clip in samples where the batch is padded.

        Whole numbers of 16 bits stand for as many 32768ths. With a ``seed`` the convention varies features by it, as
        some do in training.
        """
        waveforms = as_float(waveforms)
        if seed is None:
            features = self.convention(waveforms, lengths)
        else:
            assert isinstance(self.convention, VaryingConvention), "settings are checked: task.vary_filters"
            features = self.convention.vary(waveforms, lengths, seed)
        if not self.deltas:
            return features
        return add_deltas(features, None if lengths is None else [self.num_frames(length) for length in lengths])


CONVENTIONS: dict[str, Callable[[int, int], Convention]] = {
    "fbank": KaldiFbank,
    "hanning_fbank": partial(KaldiFbank, window=hann_window),
    "spectrogram": KaldiSpectrogram,
    "mfcc": KaldiMfcc,
    "slaney_mel": slaney_log_mel,
    "emphasised_mel": EmphasisedMel,
    "emphasised_mel_11khz": partial(EmphasisedMel, low_pass_hz=MP3_LOW_PASS_HZ),
    "decibel_mel": decibel_mel,
}

VARYING = ("emphasised_mel", "emphasised_mel_11khz")


def make_frontend(
    feature_type: str = "fbank", num_features: int = 128, sample_rate: int = 16000, deltas: bool = False
) -> FrontEnd:
    """Make the front end of a ``feature_type``; ``num_features`` counts the columns before the differences."""
    if feature_type not in CONVENTIONS:
        raise PlainError(f"task.feature_type is {feature_type!r}; it must be one of {', '.join(CONVENTIONS)}")
    return FrontEnd(CONVENTIONS[feature_type](num_features, sample_rate), sample_rate, deltas)


def as_float(waveforms: Tensor) -> Tensor:
    """Bring whole numbers of 16 bits, of which 32768 is 1, to float32; other waveforms stay as they are."""
    return waveforms.float() / 32768 if waveforms.dtype == torch.int16 else waveforms


def pad_waveforms(waveforms: Sequence[Tensor], shortest: int = 0) -> Tensor:
    """Pad 1-D waveforms with zeros at their ends to the longest of them, at least ``shortest`` samples: (B, S)."""
    longest = max(shortest, max(w.shape[0] for w in waveforms))
    batch = waveforms[0].new_zeros(len(waveforms), longest)
    for row, waveform in enumerate(waveforms):
        batch[row, : waveform.shape[0]] = waveform  # by index: autograd refuses to write into rows of an iteration
    return batch
