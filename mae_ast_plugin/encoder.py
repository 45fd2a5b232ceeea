"""The one path from waveforms to embeddings.

Everything that looks at a pretrained network from outside goes through :class:`AudioEncoder`: scores, pictures,
upstreams. Needs torch and the rooms below, no fairseq.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mae_ast_plugin.audio.frontend import FrontEnd, pad_waveforms
from mae_ast_plugin.audio.waveforms import Clip, as_waveforms
from mae_ast_plugin.checkpoint import Checkpoint, build_network, load_checkpoint
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.nn.autoencoder import Encoded, MaskedAutoencoder
from mae_ast_plugin.pooling import pool_mean
from mae_ast_plugin.segments import Segment, batches_of, segments_of, windows_of

# What becomes of the C patches of one time step, low frequency first: (B, N, D), C -> (B, steps, width).
COLUMNS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "join": lambda tokens, num_chan: tokens.unflatten(1, (-1, num_chan)).flatten(2),
    "mean": lambda tokens, num_chan: tokens.unflatten(1, (-1, num_chan)).mean(dim=2),
    "flat": lambda tokens, num_chan: tokens,
}
# Audio in a batch that keeps a processor busy; beyond that, padding costs more than a further pass of the network.
ENOUGH_SECONDS = 5.0
PRECISIONS = ("float32", "bfloat16")
ENDLESS = 2**62  # samples: what an infinite number of seconds holds


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a batch; what lies behind a clip's own steps is zero.

    ``frames`` (B, T, W) is the output of the network (after the last norm, where it ends in one), ``hidden_states`` the
    tokens' embedding with positions and the output of every layer, each (B, T, W), ``lengths`` (B,) how many steps
    belong to each clip, ``times_seconds`` (T,) where the middle of each step lies, ``step_seconds`` how far they are
    apart.
    """

    frames: Tensor
    hidden_states: list[Tensor]
    lengths: Tensor
    times_seconds: Tensor
    step_seconds: float

    @property
    def clip(self) -> Tensor:
        """Mean of ``frames`` over each clip's own steps (B, W)."""
        return pool_mean(self.frames, self.lengths)


class AudioEncoder(nn.Module):
    """A pretrained network with its front end: waveforms of any length in, :class:`Embeddings` out.

    Clips of a batch do not influence each other: padding is masked, and only patches that a clip fills itself count (a
    clip shorter than one patch is padded with zeros to one). A clip longer than ``window_seconds`` is embedded in equal
    windows of at most that, each of which sees itself only; the batches the network is run on hold at most
    ``batch_seconds`` of audio, so that memory does not grow with the number of clips but for the result itself.

    ``columns`` says what becomes of the C patches of one time step: ``join`` (side by side, W = C D), ``mean`` (their
    average, W = D) or ``flat`` (a step each, low frequency first, W = D); a network that merges patches from layer to
    layer has ``join`` only, and repeats what it has for several columns. ``precision`` bfloat16 computes with
    autocast; results are float32.
    """

    def __init__(
        self,
        frontend: FrontEnd,
        network: MaskedAutoencoder,
        checkpoint: Checkpoint | None = None,
        *,
        columns: str = "join",
        window_seconds: float = 60.0,
        batch_seconds: float = 120.0,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        for name, value, choices in (("columns", columns, tuple(COLUMNS)), ("precision", precision, PRECISIONS)):
            if value not in choices:
                raise PlainError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
        if not network.splits_columns and columns != "join":
            raise PlainError(
                f"columns is {columns!r}; patches of this network are merged from stage to stage, so that only all of "
                "a column together have states (join)"
            )
        for name, seconds in (("window_seconds", window_seconds), ("batch_seconds", batch_seconds)):
            if not isinstance(seconds, int | float) or not seconds > 0:
                raise PlainError(f"{name} is {seconds!r}; it must be more than 0")
        self.frontend, self.network, self.checkpoint = frontend, network, checkpoint
        self.columns, self.precision = columns, precision
        self.window_seconds, self.batch_seconds = window_seconds, batch_seconds

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.network.embed.weight.device

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that the network was trained on [Hz]; others are resampled to it."""
        return self.frontend.sample_rate

    @property
    def shortest(self) -> int:
        """Samples of the shortest clip that fills a patch; shorter ones are padded to it."""
        return self.frontend.num_samples(self.network.tokens.num_frames(1))

    @property
    def steps_per_column(self) -> int:
        """Steps that one column of patches gives."""
        return self.network.tokens.num_chan if self.columns == "flat" else 1

    @property
    def samples_per_step(self) -> int:
        """Samples (at ``sample_rate``) between two steps; with ``flat`` columns, a column's share."""
        return self.network.tokens.stride_time * self.frontend.hop // self.steps_per_column

    @property
    def step_seconds(self) -> float:
        """Seconds between two columns of patches."""
        return self.network.tokens.stride_time * self.frontend.hop / self.frontend.sample_rate

    @property
    def dim(self) -> int:
        """Width W of a step."""
        return self.network.embed.out_features * (self.network.tokens.num_chan if self.columns == "join" else 1)

    @property
    def num_layers(self) -> int:
        """Layers of the encoder: ``hidden_states`` has one entry more."""
        return len(self.network.encoder.layers)

    def num_steps(self, num_samples: int) -> int:
        """Count the steps of a clip of ``num_samples`` samples at ``sample_rate``."""
        return self._num_columns(num_samples) * self.steps_per_column

    def forward(
        self,
        waveforms: Clip | Sequence[Clip],
        sample_rate: int | Sequence[int] = 16000,
        lengths: Sequence[int] | Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
        with_decoder: bool = False,
    ) -> Embeddings:
        """Embed a list of 1-D ``waveforms`` of any lengths, or a padded batch (B, S) with ``lengths`` in samples.

        ``sample_rate`` [Hz] is one for all or one for each. ``layers`` keeps only these entries of ``hidden_states``
        (0 is the embedding, -1 the last layer; ``()`` none) and runs no layer above them; ``frames`` is then the output
        of the last layer that was run. ``with_decoder`` goes on through the decoder's layers. PlainError says what is
        wrong with the waveforms.
        """
        resampler = self.checkpoint.task.resampler if self.checkpoint else "soxr"
        clips = as_waveforms(waveforms, sample_rate, self.sample_rate, lengths=lengths, resampler=resampler)
        wanted, until = self._wanted(layers, with_decoder)
        spectrograms = self._spectrograms(clips)
        num_columns = [self._num_columns(len(clip)) for clip in clips]
        steps = [count * self.steps_per_column for count in num_columns]
        layers_kept = [_Layer(steps) for _ in range(len(wanted) + 1)]  # the frames last
        for batch in self._batches(num_columns):
            parts = [self._part(spectrograms[segment.clip], segment) for segment in batch]
            self._embed(parts, batch, wanted, until, with_decoder, layers_kept)
        del spectrograms, parts
        own = layers_kept[-1].own
        layers_kept.reverse()  # each layer's pieces are let go as soon as they are joined
        hidden_states = [layers_kept.pop().joined() for _ in wanted]
        frames = layers_kept.pop().joined()
        times = self._times(frames.shape[1])
        return Embeddings(frames, hidden_states, torch.tensor(own, device=frames.device), times, self.step_seconds)

    @property
    def _num_decoder_layers(self) -> int:
        return len(self.network.decoder.layers) if self.network.decoder is not None else 0

    def _num_columns(self, num_samples: int) -> int:
        tokens, frames = self.network.tokens, self.frontend.num_frames(max(self.shortest, num_samples))
        if self.network.fill_windows:  # windows are filled up, so a patch that the clip only begins is one too
            return -(-frames // tokens.stride_time)
        return tokens.num_time(frames)

    def _wanted(self, layers: Sequence[int] | None, with_decoder: bool) -> tuple[list[int], int | None]:
        """The entries of the hidden states to keep, and the layer to stop after (None: run to the end)."""
        count = 1 + self.num_layers + (self._num_decoder_layers if with_decoder else 0)
        if layers is None:
            return list(range(count)), None
        try:
            numbers = [operator.index(layer) for layer in layers]
        except TypeError as error:
            raise PlainError(f"layers is {layers!r}; it must be a sequence of whole numbers, like (0, -1)") from error
        for layer in numbers:
            if not -count <= layer < count:
                raise PlainError(
                    f"there is no layer {layer}; this network has 0 (the tokens' embedding) to {count - 1}"
                )
        wanted = [layer % count for layer in numbers]
        stops_early = bool(wanted) and not with_decoder and max(wanted) < self.num_layers
        return wanted, max(wanted) if stops_early else None

    @property
    def _depends_on_company(self) -> bool:
        """Whether a clip's result hangs on its batch: the original's tokens, or statistics of the input in training."""
        return self.network.count_partial or self.training

    def _columns_in(self, seconds: float) -> int:
        samples = int(min(seconds * self.sample_rate, ENDLESS))
        return max(1, samples // (self.network.tokens.stride_time * self.frontend.hop))

    def _spectrograms(self, clips: list[Tensor]) -> list[Tensor]:
        """Features (T, F) of each clip, on the device of the network; clips of similar length share a batch."""
        found: dict[int, Tensor] = {}
        whole = [Segment(number, 0, self._num_columns(len(clip))) for number, clip in enumerate(clips)]
        for batch in batches_of(whole, self._columns_in(self.batch_seconds)):
            waves = [clips[segment.clip].to(self.device) for segment in batch]
            lengths = [max(self.shortest, len(wave)) for wave in waves]
            features = self.frontend(pad_waveforms(waves, self.shortest), lengths)
            for segment, length, rows in zip(batch, lengths, features, strict=True):
                found[segment.clip] = rows[: self.frontend.num_frames(length)]
        return [found[number] for number in range(len(clips))]

    def _batches(self, num_columns: list[int]) -> list[list[Segment]]:
        if self._depends_on_company:  # all in one pass; only what the network cannot see at once is cut
            most = self.network.window_columns or max(num_columns)
            return [[part for clip, count in enumerate(num_columns) for part in windows_of(clip, count, most)]]
        window, batch = self._columns_in(self.window_seconds), self._columns_in(self.batch_seconds)
        if self.network.window_columns:
            cut = partial(windows_of, window=min(window, self.network.window_columns))
        else:
            cut = partial(segments_of, most_steps=window)
        segments = [part for clip, count in enumerate(num_columns) for part in cut(clip, count)]
        if self.network.fill_windows:  # each is as long as a full one once it is filled up
            together = max(1, batch // self.network.window_columns)
            return [segments[first : first + together] for first in range(0, len(segments), together)]
        return batches_of(segments, batch, self._columns_in(ENOUGH_SECONDS))

    def _part(self, spectrogram: Tensor, segment: Segment) -> Tensor:
        """The frames of a segment; a clip's last segment keeps what fills no patch, as the clip alone would."""
        tokens = self.network.tokens
        begin, frames = segment.first_step * tokens.stride_time, tokens.num_frames(segment.num_steps)
        behind = begin + tokens.num_frames(segment.num_steps + 1)
        is_last = behind > len(spectrogram) and not self.network.fill_windows  # there the rest is a patch of its own
        return spectrogram[begin:] if is_last else spectrogram[begin : begin + frames]

    def _embed(
        self,
        parts: list[Tensor],
        batch: list[Segment],
        wanted: list[int],
        until: int | None,
        with_decoder: bool,
        layers_kept: list[_Layer],
    ) -> None:
        """Run the network on the features of a batch of segments; hand on what is wanted, the frames last."""
        encoded, steps = self._encode(parts, until, with_decoder, keep={index - 1 for index in wanted})
        if self.network.fill_windows:
            steps = [segment.num_steps * self.steps_per_column for segment in batch]
        hidden, own_tokens = encoded.stack.hidden, self.network.own_tokens
        states_of = [own_tokens(hidden[index - 1]) if index else encoded.tokens for index in wanted]
        for layer, states in zip(layers_kept, [*states_of, own_tokens(encoded.stack.last)], strict=True):
            laid_out = COLUMNS[self.columns](states, self.network.tokens.num_chan).float()
            for row, (segment, count) in enumerate(zip(batch, steps, strict=True)):
                layer.add(segment.clip, segment.first_step * self.steps_per_column, laid_out[row, :count])

    def _encode(
        self, parts: list[Tensor], until: int | None, with_decoder: bool, keep: Collection[int]
    ) -> tuple[Encoded, list[int]]:
        frames = [len(part) for part in parts]
        if self.network.fill_windows:
            full = self.network.tokens.num_frames(self.network.window_columns)
            spectrogram = parts[0].new_zeros(len(parts), max(full, *frames), parts[0].shape[1])
            for row, part in enumerate(parts):
                spectrogram[row, : len(part)] = part  # by index: autograd refuses to write into rows of an iteration
        else:
            spectrogram = pad_sequence(parts, batch_first=True)
        clips = self.network.cut(spectrogram, frames, fill=self.network.fill_windows)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            encoded = self.network.features(clips, until, with_decoder, keep)
        per_column = self.network.tokens.num_chan // self.steps_per_column
        return encoded, [count // per_column for count in clips.num_tokens]

    def _times(self, num_steps: int) -> Tensor:
        tokens, frontend = self.network.tokens, self.frontend
        column = torch.arange(num_steps, dtype=torch.float64) // self.steps_per_column
        middle = (tokens.kernel_time - 1) / 2 * frontend.hop + frontend.first_centre
        return (column * tokens.stride_time * frontend.hop + middle) / frontend.sample_rate


class _Layer:
    """The steps of all clips in one layer, collected segment by segment: (B, T, W), zero behind each clip.

    Where no gradient is wanted, they are written to their places as they come: pieces that are kept to be joined take
    as much memory again. ``own`` counts the steps of each clip.
    """

    def __init__(self, num_steps: Sequence[int]) -> None:
        self.num_steps, self.at_once = num_steps, not torch.is_grad_enabled()
        self.own = [0] * len(num_steps)
        self.whole: Tensor | None = None
        self.pieces: list[dict[int, Tensor]] = [{} for _ in num_steps]

    def add(self, clip: int, first: int, part: Tensor) -> None:
        """Take the steps (steps, W) of a clip that begin at its step ``first``."""
        self.own[clip] += len(part)
        if not self.at_once:
            self.pieces[clip][first] = part
            return
        if self.whole is None:
            self.whole = part.new_zeros(len(self.num_steps), max(self.num_steps), part.shape[1])
        self.whole[clip, first : first + len(part)] = part

    def joined(self) -> Tensor:
        """Give all of them; after that, nothing can be added."""
        if self.whole is not None:
            return self.whole
        rows = [torch.cat([pieces[first] for first in sorted(pieces)]) for pieces in self.pieces]
        return pad_sequence(rows, batch_first=True)


def encoder_of(checkpoint: Checkpoint, **options: Any) -> AudioEncoder:
    """Build the encoder of a checkpoint, in evaluation mode; ``options`` are those of :class:`AudioEncoder`."""
    network = build_network(checkpoint)
    # the tensors are in the network now; a second copy would take as much memory again
    return AudioEncoder(frontend_of(checkpoint.task), network, replace(checkpoint, state={}), **options).eval()


def load_model(path: str | Path, *, device: str | torch.device = "cpu", **options: Any) -> AudioEncoder:
    """Load a checkpoint of any known format as an encoder in evaluation mode.

    ``path`` is a checkpoint of this plugin's training, a published one, or a folder written by ``export``; ``options``
    are those of :class:`AudioEncoder`. CheckpointError says why a file cannot be used; nothing in it is executed.
    """
    return encoder_of(load_checkpoint(path), **options).to(device)
