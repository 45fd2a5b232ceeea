"""The masked autoencoder: normalise, cut into tokens, embed, hide, encode what is visible, decode all, predict what is
hidden.

It receives its parts and knows no method. Shapes use the letters of ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.nn.host import on_device
from mae_ast_plugin.nn.masking import TokenMask, gather_tokens, scatter_tokens
from mae_ast_plugin.nn.normalization import InputNorm
from mae_ast_plugin.nn.positions import ConvPositions, SinusoidPositions
from mae_ast_plugin.nn.tokens import PatchTokens
from mae_ast_plugin.nn.transformer import StackOutput, Transformer


@dataclass(frozen=True)
class Clips:
    """A batch of spectrograms cut into patches.

    ``normalized`` (B, T, F), ``patches`` (B, N, P), ``num_tokens`` of each clip on the host, ``padding`` (B, N) true
    at tokens that are not the clip's, or None where all are.
    """

    normalized: Tensor
    patches: Tensor
    num_tokens: tuple[int, ...]
    padding: Tensor | None


@dataclass(frozen=True)
class Encoded:
    """One pass of the encoder.

    ``tokens`` (B, N, D) with their positions added, ``inputs`` what the stack was given (B, V, D), ``padding`` (B, V),
    and what the stack gave.
    """

    tokens: Tensor
    inputs: Tensor
    padding: Tensor | None
    stack: StackOutput


@dataclass(frozen=True)
class Predictions:
    """What the decoder says of the hidden tokens, ascending by token: each (B, M, P); ``padding`` (B, M)."""

    reconstructed: Tensor
    classified: Tensor
    target: Tensor
    padding: Tensor | None
    num_hidden: tuple[int, ...]


class Positions(nn.Module):
    """Positions of one stack: a convolution over the tokens, a sinusoid by index, either or both."""

    def __init__(self, sinusoid: SinusoidPositions | None, conv: ConvPositions | None) -> None:
        super().__init__()
        self.sinusoid = sinusoid
        self.conv = conv

    def forward(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """Add positions to tokens (B, N, D); padded tokens are emptied before a convolution can see them."""
        if self.conv is not None:
            if padding is not None:
                tokens = tokens.masked_fill(padding[..., None], 0.0)
            tokens = tokens + self.conv(tokens)
        if self.sinusoid is not None:
            tokens = tokens + self.sinusoid(tokens.shape[1], padding)
        return tokens


class MaskedAutoencoder(nn.Module):
    """Encoder of visible tokens and decoder of all tokens (MAE-AST, arXiv 2203.16691, section 3)."""

    def __init__(
        self,
        *,
        tokens: PatchTokens,
        norm: InputNorm,
        encoder: Transformer,
        decoder: Transformer,
        encoder_positions: Positions,
        decoder_positions: Positions,
        bridge: nn.Linear | None,
        input_dropout: float = 0.0,
        count_partial: bool = False,
    ) -> None:
        super().__init__()
        encoder_dim, decoder_dim = encoder.settings.dim, decoder.settings.dim
        self.tokens, self.norm = tokens, norm
        self.input_dropout, self.count_partial = input_dropout, count_partial
        self.embed = nn.Linear(tokens.patch_size, encoder_dim)
        self.encoder_positions, self.encoder = encoder_positions, encoder
        self.bridge = bridge
        self.decoder_positions, self.decoder = decoder_positions, decoder
        # hidden tokens leave before the encoder: only a convolution over neighbours ever sees the encoder's mask token
        self.encoder_mask_token = nn.Parameter(
            torch.rand(encoder_dim), requires_grad=encoder_positions.conv is not None
        )
        self.decoder_mask_token = nn.Parameter(torch.rand(decoder_dim))
        self.reconstruct = nn.Linear(decoder_dim, tokens.patch_size)
        self.classify = nn.Linear(decoder_dim, tokens.patch_size)

    def cut(self, spectrogram: Tensor, num_frames: Sequence[int] | None = None, weight: float = 1.0) -> Clips:
        """Normalise spectrograms (B, T, F) and cut them into patches; ``num_frames`` of each clip, None where all have
        T.

        Only whole patches of a clip's own frames are its tokens, but for ``count_partial``, which also takes a last
        patch that is partly padding, as the original does.
        """
        num_clips, longest, _ = spectrogram.shape
        frames = [longest] * num_clips if num_frames is None else list(num_frames)
        padding: Tensor | None = None
        ragged = min(frames) < longest
        if ragged:
            counts = on_device(frames, spectrogram.device)
            padding = torch.arange(longest, device=spectrogram.device) >= counts[:, None]
        normalized = self.norm(spectrogram, padding, weight)
        patches = self.tokens.patchify(normalized)
        present = patches.shape[1]
        num_tokens = tuple(min(present, self.tokens.num_tokens(n, self.count_partial and ragged)) for n in frames)
        if min(num_tokens) == present:
            return Clips(normalized, patches, num_tokens, None)
        counts = on_device(num_tokens, spectrogram.device)
        return Clips(normalized, patches, num_tokens, torch.arange(present, device=counts.device) >= counts[:, None])

    def encode(self, clips: Clips, mask: TokenMask | None = None, until: int | None = None) -> Encoded:
        """Embed the patches and run the encoder, over the visible tokens of ``mask`` or over all."""
        tokens = self.embed(clips.patches)
        if mask is not None:
            tokens = F.dropout(tokens, self.input_dropout, self.training)
            if self.encoder_positions.conv is not None:
                hidden = tokens.new_zeros(tokens.shape[0], mask.num_tokens + 1, dtype=torch.bool)
                hidden = hidden.scatter(1, mask.hidden, True)[:, :-1, None]
                tokens = torch.where(hidden, self.encoder_mask_token.to(tokens.dtype), tokens)
        tokens = self.encoder_positions(tokens, clips.padding)
        if mask is None:
            inputs, padding = tokens, clips.padding
        else:
            inputs, padding = gather_tokens(tokens, mask.visible), mask.visible_padding
        return Encoded(tokens, inputs, padding, self.encoder(inputs, padding, until))

    def decoder_inputs(self, encoded: Tensor, clips: Clips, mask: TokenMask | None = None) -> Tensor:
        """Bring the encoder's output (B, V, D) to the decoder: full rows (B, N, D) with the mask token at hidden
        places.
        """
        bridged = encoded if self.bridge is None else self.bridge(encoded)
        if mask is not None:
            bridged = scatter_tokens(bridged, mask.visible, mask.num_tokens, self.decoder_mask_token)
        return self.decoder_positions(bridged, clips.padding)

    def decode(self, encoded: Tensor, clips: Clips, mask: TokenMask | None = None) -> StackOutput:
        """Run the decoder over all tokens of the clips."""
        return self.decoder(self.decoder_inputs(encoded, clips, mask), clips.padding)

    def predict(self, decoded: Tensor, clips: Clips, mask: TokenMask) -> Predictions:
        """Predict the hidden patches from the decoder's output (B, N, D)."""
        hidden = gather_tokens(decoded, mask.hidden)
        target = gather_tokens(clips.patches, mask.hidden)
        return Predictions(
            self.reconstruct(hidden), self.classify(hidden), target, mask.hidden_padding, mask.num_hidden
        )

    def forward(self, clips: Clips, mask: TokenMask) -> Predictions:
        """One pretraining pass."""
        encoded = self.encode(clips, mask)
        return self.predict(self.decode(encoded.stack.last, clips, mask).last, clips, mask)

    def features(self, clips: Clips, until: int | None = None, with_decoder: bool = False) -> Encoded:
        """Run the encoder over all tokens, and the decoder after it where asked: hidden states of all layers, in
        order.
        """
        encoded = self.encode(clips, until=until)
        if not with_decoder:
            return encoded
        decoded = self.decode(encoded.stack.last, clips)
        return replace(encoded, stack=StackOutput(decoded.last, encoded.stack.hidden + decoded.hidden))
