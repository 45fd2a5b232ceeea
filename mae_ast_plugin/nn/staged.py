"""The masked autoencoder with an encoder in stages, whose last tokens each hold a cell of many patches.

It sees full windows only: shorter clips are filled up with the mean, which the encoder sees like audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.nn.autoencoder import Clips, MaskedAutoencoder, needed
from mae_ast_plugin.nn.masking import gather_tokens
from mae_ast_plugin.nn.stages import StagedTransformer


class StagedAutoencoder(MaskedAutoencoder):
    """A `MaskedAutoencoder` around a `StagedTransformer`; what is hidden are mask tokens in it, it has no decoder."""

    encoder: StagedTransformer
    sees_padding = True
    splits_columns = False

    def __init__(self, *, encoder: StagedTransformer, **parts: Any) -> None:
        super().__init__(encoder=encoder, **parts)
        if self.reconstruct is not None:
            self.reconstruct = nn.Linear(encoder.dim, encoder.factor**2 * self.tokens.patch_size)

    def cut(
        self,
        spectrogram: Tensor,
        num_frames: Sequence[int] | None = None,
        weight: float = 1.0,
        fill: bool = False,
        is_normalized: bool = False,
    ) -> Clips:
        """As `MaskedAutoencoder.cut`, of clips that are first brought to a full window; PlainError for longer ones."""
        num_clips, present, _ = spectrogram.shape
        frames = [present] * num_clips if num_frames is None else list(num_frames)
        full = self.tokens.num_frames(self.window_columns)
        if max(frames) > full:
            raise PlainError(
                f"a clip has {max(frames)} frames and the network sees {full}; crop clips to task.max_sample_size or "
                "set model.window_columns higher"
            )
        whole = F.pad(spectrogram, (0, 0, 0, full - present))  # or cut, where a batch is padded to more than a window
        return super().cut(whole, frames, weight, fill, is_normalized)

    def depths(self) -> dict[str, int]:
        """As `MaskedAutoencoder.depths`; a merging lies as deep as the layer before it, the norm as the last layer."""
        before = [start for start, depth in super().depths().items() if depth == 0]
        found, depth = dict.fromkeys(before, 0), 0
        for number, stage in enumerate(self.encoder.each_stage):
            for index in range(len(stage.layers)):
                depth += 1
                found[f"encoder.stages.{number}.layers.{index}."] = depth
            found[f"encoder.stages.{number}.merge."] = depth
        return {**found, "encoder.norm.": depth}

    def own_tokens(self, states: Tensor) -> Tensor:
        """Lay the tokens of any stage out like those of the first: (B, N / 4^s, 2^s D) -> (B, N, D).

        Joined, the tokens of a column are the states of the cells it lies in, low frequency first; in time a cell is
        repeated. A single one of them is a part of a state and means nothing.
        """
        factor, num_chan = states.shape[2] // self.embed.out_features, self.tokens.num_chan
        columns = states.unflatten(1, (-1, num_chan // factor)).flatten(2)
        return columns.repeat_interleave(factor, dim=1).unflatten(2, (num_chan, -1)).flatten(1, 2)

    def heads(self, decoded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As `MaskedAutoencoder.heads`, from the tokens of the last stage."""
        values = gather_tokens(self.patches_of(needed(self.reconstruct)(decoded)), hidden)
        return values, values

    def patches_of(self, cells: Tensor) -> Tensor:
        """Take cells apart, whose values run bin by bin and in a bin by time: (B, N / f², f² P) -> (B, N, P)."""
        tokens, factor = self.tokens, self.encoder.factor
        # (B, columns, rows, patches by frequency, bins, patches by time, frames)
        split = cells.unflatten(2, (factor, tokens.kernel_chan, factor, tokens.kernel_time))
        split = split.unflatten(1, (-1, tokens.num_chan // factor))
        # time first: (B, columns, patches by time, rows, patches by frequency, frames, bins)
        return split.permute(0, 1, 5, 2, 3, 6, 4).flatten(5).flatten(1, 4)
