"""The masked autoencoder: normalise, cut into tokens, embed, hide, encode, decode, predict what is hidden.

Hidden tokens either leave before the encoder and come back as mask tokens for a decoder, or are mask tokens in the
encoder already, with or without a decoder behind it.

It receives its parts and knows no method. Shapes use the letters of ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.nn.host import on_device
from mae_ast_plugin.nn.masking import TokenMask, gather_tokens, scatter_tokens
from mae_ast_plugin.nn.normalization import ClipNorm, FixedNorm, InputNorm
from mae_ast_plugin.nn.positions import AxisPositions, ConvPositions, GridPositions, SinusoidPositions
from mae_ast_plugin.nn.stages import StagedTransformer
from mae_ast_plugin.nn.tokens import PatchTokens
from mae_ast_plugin.nn.transformer import StackOutput, Transformer

Part = TypeVar("Part")
# Learned vectors that stand among the tokens or are added to them: how names of these parameters begin.
LEARNED_TOKENS = (
    "class_tokens",
    "encoder_mask_token",
    "decoder_mask_token",
    "encoder_positions.grid.",
    "decoder_positions.grid.",
)


@dataclass(frozen=True)
class Clips:
    """A batch of spectrograms cut into patches.

    ``normalized`` (B, T, F), ``patches`` (B, N, P), ``targets`` (B, N, P) what is to be predicted of them,
    ``num_tokens`` of each clip on the host, ``padding`` (B, N) true at tokens that are not the clip's, or None where
    all are.
    """

    normalized: Tensor
    patches: Tensor
    targets: Tensor
    num_tokens: tuple[int, ...]
    padding: Tensor | None


@dataclass(frozen=True)
class Encoded:
    """One pass of the encoder.

    ``tokens`` (B, N, D) with their positions added, ``inputs`` what the stack was given (B, K + V, D), ``padding``
    (B, K + V), and what the stack gave. K class tokens stand in front.
    """

    tokens: Tensor
    inputs: Tensor
    padding: Tensor | None
    stack: StackOutput


@dataclass(frozen=True)
class Predictions:
    """What the network says of the hidden tokens, ascending by token: each (B, M, P); ``padding`` (B, M).

    ``classified`` is ``reconstructed`` where the network has one head for both.
    """

    reconstructed: Tensor
    classified: Tensor
    target: Tensor
    padding: Tensor | None
    num_hidden: tuple[int, ...]


class Positions(nn.Module):
    """Positions of one stack, added up: a convolution over the tokens, a sinusoid by index, a table of the grid."""

    def __init__(
        self,
        sinusoid: SinusoidPositions | None = None,
        conv: ConvPositions | None = None,
        grid: GridPositions | AxisPositions | None = None,
    ) -> None:
        super().__init__()
        self.sinusoid = sinusoid
        self.conv = conv
        self.grid = grid

    def forward(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """Add positions to tokens (B, N, D); padded tokens are emptied before a convolution can see them."""
        if self.conv is not None:
            if padding is not None:
                tokens = tokens.masked_fill(padding[..., None], 0.0)
            tokens = tokens + self.conv(tokens)
        if self.sinusoid is not None:
            tokens = tokens + self.sinusoid(tokens.shape[1], padding)
        if self.grid is not None:
            tokens = tokens + self.grid(tokens.shape[1])
        return tokens

    def of_class(self, tokens: Tensor) -> Tensor:
        """Add their positions to class tokens (..., K, D), where there are any."""
        return tokens if self.grid is None else tokens + self.grid.class_rows


def prediction_head(dim: int, patch_size: int, hidden_layer: bool) -> nn.Module:
    """From a token to the values of its patch: linear, or two layers with a rectifier between."""
    last = nn.Linear(dim, patch_size)
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), last) if hidden_layer else last


def needed(part: Part | None) -> Part:
    """A part of pretraining; PlainError where the network was made without."""
    if part is None:
        raise PlainError("this network holds an encoder alone: it embeds, but has no parts to predict with")
    return part


class MaskedAutoencoder(nn.Module):
    """Encoder and, where there is one, decoder of the tokens of spectrograms.

    ``num_class`` learned tokens go through the encoder beside those of the patches. ``hide_in_encoder``: the encoder
    sees a mask token in place of each hidden one; otherwise it sees the visible ones only. ``two_heads``: one head
    reconstructs and another classifies. ``raw_targets``: patches of the spectrogram before the input's normalisation
    are predicted; ``standard_targets``: each patch brought to mean 0 and variance 1, ``standard_bins``: each mel bin of
    a clip. ``norm_patches``: patches are normalised once they are embedded. For inference: the network sees at most
    ``window_columns`` columns of patches at once (0: any number), and ``fill_windows`` makes all of them full.
    ``embeds_only``: there are no mask tokens and no heads.
    """

    sees_padding = False  # padding is the mean to the encoder, which sees it like audio; else it is hidden from it
    splits_columns = True  # each token of a column has a meaning; else all of them together only

    def __init__(
        self,
        *,
        tokens: PatchTokens,
        norm: InputNorm | FixedNorm | ClipNorm,
        encoder: Transformer | StagedTransformer,
        decoder: Transformer | None,
        encoder_positions: Positions,
        decoder_positions: Positions | None,
        bridge: nn.Linear | None,
        input_dropout: float = 0.0,
        count_partial: bool = False,
        num_class: int = 0,
        hide_in_encoder: bool = False,
        hidden_layer_in_heads: bool = False,
        two_heads: bool = True,
        raw_targets: bool = False,
        standard_targets: bool = False,
        standard_bins: bool = False,
        norm_patches: bool = False,
        window_columns: int = 0,
        fill_windows: bool = False,
        embeds_only: bool = False,
    ) -> None:
        super().__init__()
        encoder_dim = encoder.settings.dim
        decoder_dim = encoder_dim if decoder is None else decoder.settings.dim
        self.tokens, self.norm = tokens, norm
        self.input_dropout, self.count_partial = input_dropout, count_partial
        self.num_class, self.hide_in_encoder = num_class, hide_in_encoder
        self.raw_targets, self.standard_targets, self.standard_bins = raw_targets, standard_targets, standard_bins
        self.window_columns, self.fill_windows = window_columns, fill_windows
        self.embed = nn.Linear(tokens.patch_size, encoder_dim)
        self.embed_norm = nn.LayerNorm(encoder_dim, encoder.settings.norm_eps) if norm_patches else nn.Identity()
        self.encoder_positions, self.encoder = encoder_positions, encoder
        self.class_tokens = nn.Parameter(0.02 * torch.randn(num_class, encoder_dim)) if num_class else None
        self.bridge = bridge
        self.decoder_positions, self.decoder = decoder_positions, decoder
        # hidden tokens that leave before the encoder: only a convolution over neighbours ever sees its mask token
        seen = hide_in_encoder or encoder_positions.conv is not None
        self.encoder_mask_token: Tensor | None = None
        self.decoder_mask_token: Tensor | None = None
        self.reconstruct: nn.Module | None = None
        self.classify: nn.Module | None = None
        if embeds_only:
            return
        self.encoder_mask_token = nn.Parameter(torch.rand(encoder_dim), requires_grad=seen)
        self.decoder_mask_token = nn.Parameter(torch.rand(decoder_dim), requires_grad=not hide_in_encoder)
        self.reconstruct = prediction_head(decoder_dim, tokens.patch_size, hidden_layer_in_heads)
        self.classify = prediction_head(decoder_dim, tokens.patch_size, hidden_layer_in_heads) if two_heads else None

    def cut(
        self,
        spectrogram: Tensor,
        num_frames: Sequence[int] | None = None,
        weight: float = 1.0,
        fill: bool = False,
        is_normalized: bool = False,
    ) -> Clips:
        """Normalise spectrograms (B, T, F) and cut them into patches; ``num_frames`` of each clip, None where all have
        T.

        Only whole patches of a clip's own frames are its tokens, but for ``count_partial``, which also takes a last
        patch that is partly padding, as the original does. ``fill`` puts the mean in the place of padding and makes
        tokens of it all. ``is_normalized``: windows of clips that were normalised as a whole stay as they are.
        """
        num_clips, longest, _ = spectrogram.shape
        frames = [longest] * num_clips if num_frames is None else list(num_frames)
        padding: Tensor | None = None
        ragged = min(frames) < longest
        if ragged:
            counts = on_device(frames, spectrogram.device)
            padding = torch.arange(longest, device=spectrogram.device) >= counts[:, None]
        normalized = spectrogram.float() if is_normalized else self.norm(spectrogram, padding, weight)
        if (fill or self.sees_padding) and padding is not None:
            normalized = normalized.masked_fill(padding[..., None], 0.0)
        if fill:
            frames = [longest] * num_clips
        patches = self.tokens.patchify(normalized)
        predicted = spectrogram.float() if self.raw_targets else normalized
        if self.standard_bins:
            predicted = standardised_bins(predicted, padding)
        targets = patches if predicted is normalized else self.tokens.patchify(predicted)
        present = patches.shape[1]
        num_tokens = tuple(min(present, self.tokens.num_tokens(n, self.count_partial and ragged)) for n in frames)
        if min(num_tokens) == present:
            return Clips(normalized, patches, targets, num_tokens, None)
        counts = on_device(num_tokens, spectrogram.device)
        beyond = torch.arange(present, device=counts.device) >= counts[:, None]
        return Clips(normalized, patches, targets, num_tokens, beyond)

    def depths(self) -> dict[str, int]:
        """How deep parameters lie whose names begin so: 0 before the encoder's first layer, 1 in it; others behind."""
        before = ["norm.", "embed.", "embed_norm.", "class_tokens", "encoder_mask_token", "encoder_positions."]
        if not self.encoder.settings.pre_norm:
            before.append("encoder.norm.")  # normalises what the stack is given
        layers = {f"encoder.layers.{index}.": index + 1 for index in range(len(self.encoder.layers))}
        return dict.fromkeys(before, 0) | layers

    def own_tokens(self, states: Tensor) -> Tensor:
        """Leave the class tokens out: (B, K + N, D) -> (B, N, D)."""
        return states[:, self.num_class :]

    def encode(
        self,
        clips: Clips,
        mask: TokenMask | None = None,
        until: int | None = None,
        keep: Collection[int] | None = None,
    ) -> Encoded:
        """Embed the patches and run the encoder, over the visible tokens of ``mask`` or over all."""
        tokens = self.embed_norm(self.embed(clips.patches))
        if mask is not None:
            tokens = F.dropout(tokens, self.input_dropout, self.training)
            if self.hide_in_encoder or self.encoder_positions.conv is not None:
                mask_token = needed(self.encoder_mask_token)
                hidden = tokens.new_zeros(tokens.shape[0], mask.num_tokens + 1, dtype=torch.bool)
                hidden = hidden.scatter(1, mask.hidden, True)[:, :-1, None]
                tokens = torch.where(hidden, mask_token.to(tokens.dtype), tokens)
        tokens = self.encoder_positions(tokens, clips.padding)
        if mask is None or self.hide_in_encoder:
            inputs, padding = tokens, clips.padding
        else:
            inputs, padding = gather_tokens(tokens, mask.visible), mask.visible_padding
        if self.class_tokens is not None:
            first = self.encoder_positions.of_class(self.class_tokens).to(inputs.dtype)
            inputs, padding = self._behind(first.expand(inputs.shape[0], -1, -1), inputs, padding)
        return Encoded(tokens, inputs, padding, self.encoder(inputs, padding, until, keep))

    def _behind(self, first: Tensor, tokens: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Put class tokens (B, K, D) in front of others; they are never padding."""
        padding = None if padding is None else F.pad(padding, (self.num_class, 0), value=False)
        return torch.cat([first, tokens], dim=1), padding

    def decoder_inputs(
        self, encoded: Tensor, clips: Clips, mask: TokenMask | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Bring the encoder's output (B, K + V, D) to the decoder: rows (B, K + N, D) with the mask token at hidden
        places, and their padding.
        """
        assert self.decoder_positions is not None, "this network has no decoder"
        bridged = encoded if self.bridge is None else self.bridge(encoded)
        first, tokens = bridged[:, : self.num_class], bridged[:, self.num_class :]
        if mask is not None and not self.hide_in_encoder:
            tokens = scatter_tokens(tokens, mask.visible, mask.num_tokens, needed(self.decoder_mask_token))
        tokens = self.decoder_positions(tokens, clips.padding)
        if not self.num_class:
            return tokens, clips.padding
        return self._behind(self.decoder_positions.of_class(first), tokens, clips.padding)

    def decode(self, encoded: Tensor, clips: Clips, mask: TokenMask | None = None) -> StackOutput:
        """Run the decoder over all tokens of the clips; without a decoder, hand the encoder's output on."""
        if self.decoder is None:
            return StackOutput(encoded)
        return self.decoder(*self.decoder_inputs(encoded, clips, mask))

    def predict(self, decoded: Tensor, clips: Clips, mask: TokenMask) -> Predictions:
        """Predict the hidden patches from the decoder's output (B, K + N, D)."""
        return self._predictions(self.heads(decoded, mask.hidden), clips, mask)

    def heads(self, decoded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The values of the patches ``hidden`` (B, M), reconstructed and to be classified: (B, M, P) each."""
        return self._values(gather_tokens(self.own_tokens(decoded), hidden))

    def _values(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads say of the tokens of hidden patches (B, M, D): (B, M, P) each."""
        reconstructed = needed(self.reconstruct)(hidden)
        return reconstructed, reconstructed if self.classify is None else self.classify(hidden)

    def _predictions(self, values: tuple[Tensor, Tensor], clips: Clips, mask: TokenMask) -> Predictions:
        target = gather_tokens(clips.targets, mask.hidden)
        if self.standard_targets:
            target = standardised(target)
        return Predictions(*values, target, mask.hidden_padding, mask.num_hidden)

    def forward(self, clips: Clips, mask: TokenMask) -> Predictions:
        """One pretraining pass."""
        encoded = self.encode(clips, mask).stack.last
        if self.decoder is None:
            return self.predict(encoded, clips, mask)
        # of the decoder's last layer, only what the heads look at
        inputs, padding = self.decoder_inputs(encoded, clips, mask)
        hidden = self.decoder(inputs, padding, keep=(), only=mask.hidden + self.num_class).last
        return self._predictions(self._values(hidden), clips, mask)

    def features(
        self,
        clips: Clips,
        until: int | None = None,
        with_decoder: bool = False,
        keep: Collection[int] | None = None,
    ) -> Encoded:
        """Run the encoder over all tokens, and the decoder after it where asked: hidden states of all layers, in
        order; of the encoder's, only those of the layers in ``keep`` where that is given.
        """
        encoded = self.encode(clips, until=until, keep=keep)
        if not with_decoder:
            return encoded
        decoded = self.decode(encoded.stack.last, clips)
        return replace(encoded, stack=StackOutput(decoded.last, encoded.stack.hidden + decoded.hidden))


def standardised(patches: Tensor) -> Tensor:
    """Bring each patch (..., P) to mean 0 and (unbiased) variance 1, in float32."""
    mean, deviation = _mean_and_deviation(patches.float())
    return (patches.float() - mean) / deviation


def standardised_bins(spectrogram: Tensor, padding: Tensor | None = None) -> Tensor:
    """Bring each mel bin of a clip (B, T, F) to mean 0 and (unbiased) variance 1 over its own frames, in float32."""
    own = spectrogram.new_ones(1, 1, 1) if padding is None else (~padding)[..., None].to(spectrogram.dtype)
    own = own.expand(*spectrogram.shape[:2], 1)
    count = own.sum(dim=1, keepdim=True)
    mean = (spectrogram * own).sum(dim=1, keepdim=True) / count.clamp(min=1)
    variance = ((spectrogram - mean).square() * own).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    return (spectrogram - mean) / (variance + 1e-6).sqrt()


def in_scale_of(standard: Tensor, patches: Tensor) -> Tensor:
    """Undo :func:`standardised`: give each patch (..., P) the mean and variance of one of ``patches``."""
    mean, deviation = _mean_and_deviation(patches.float())
    return standard.float() * deviation + mean


def _mean_and_deviation(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
