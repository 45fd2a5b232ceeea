"""A transformer in stages: attention within windows, and between two stages 2 x 2 tokens become one of twice the width.

The hierarchy of Swin (Liu et al. 2021, https://arxiv.org/abs/2103.14030) with this program's own layers. Knows nothing
of masks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mae_ast_plugin.nn.transformer import StackOutput, TransformerSettings
from mae_ast_plugin.nn.windows import Merging, WindowLayer


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """``num_layers`` of each stage, the grid of the first (rows of frequency, columns of time), the side of windows
    [tokens], and the share of clips for which the last layer is left out in training, growing from 0 at the first.
    """

    num_layers: tuple[int, ...]
    size: tuple[int, int]
    window: int
    drop_path: float = 0.0


class Stage(nn.Module):
    """Layers over one grid, every second with shifted windows, and the merging that follows, if any."""

    def __init__(
        self, settings: TransformerSettings, size: tuple[int, int], window: int, drop_path: list[float], merges: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            WindowLayer(settings, size, window, number % 2 == 1, share) for number, share in enumerate(drop_path)
        )
        self.merge = Merging(settings.dim, settings.norm_eps) if merges else None


class StagedTransformer(nn.Module):
    """Stages over tokens (B, N, D), time-major: N and D become N / 4 and 2 D from stage to stage.

    ``settings`` are those of the first stage, but for ``num_layers``, which counts all; widths and heads double.
    """

    def __init__(self, settings: TransformerSettings, stages: StageSettings) -> None:
        super().__init__()
        self.settings, self.size, self.window = settings, stages.size, stages.window
        self.factor = 2 ** (len(stages.num_layers) - 1)  # patches along each side of a token of the last stage
        self.dim = settings.dim * self.factor
        shares = torch.linspace(0, stages.drop_path, sum(stages.num_layers), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for number, num_layers in enumerate(stages.num_layers):
            own, shares = shares[:num_layers], shares[num_layers:]
            size = (stages.size[0] >> number, stages.size[1] >> number)
            self.stages.append(Stage(_widened(settings, 2**number), size, stages.window, own, bool(shares)))
        self.norm = nn.LayerNorm(self.dim, settings.norm_eps) if settings.outer_norm else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def layers(self) -> list[nn.Module]:
        """The layers of all stages, in order."""
        return [layer for stage in self.each_stage for layer in stage.layers]

    @property
    def each_stage(self) -> list[Stage]:
        """The stages as what they are."""
        return [stage for stage in self.stages if isinstance(stage, Stage)]

    def forward(
        self, x: Tensor, padding: Tensor | None = None, until: int | None = None, keep: Collection[int] | None = None
    ) -> StackOutput:
        """Run the stages as a `Transformer` runs its layers; a layer's output has the tokens of its stage.

        What is ``padding`` makes no difference: it is seen like the rest.
        """
        x = F.dropout(x, self.settings.dropout, self.training)
        grid = x.unflatten(1, self.size[::-1]).transpose(1, 2)  # (B, T C, D) -> (B, C, T, D)
        hidden: list[Tensor] = []
        for stage in self.each_stage:
            for layer in stage.layers:
                if len(hidden) == until:
                    return StackOutput(_tokens(grid), hidden)
                grid = self._run(layer, grid)
                hidden.append(_tokens(grid) if keep is None or len(hidden) in keep else grid.new_empty(0))
            if stage.merge is not None and len(hidden) != until:
                grid = stage.merge(grid)
        return StackOutput(_tokens(self.norm(grid) if until is None else grid), hidden)

    def _run(self, layer: nn.Module, grid: Tensor) -> Tensor:
        if self.settings.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(layer, grid, use_reentrant=False)  # type: ignore[no-any-return]
        return layer(grid)  # type: ignore[no-any-return]


def _widened(settings: TransformerSettings, factor: int) -> TransformerSettings:
    dim, ffn_dim, num_heads = (factor * size for size in (settings.dim, settings.ffn_dim, settings.num_heads))
    return replace(settings, dim=dim, ffn_dim=ffn_dim, num_heads=num_heads)


def _tokens(grid: Tensor) -> Tensor:
    return grid.transpose(1, 2).flatten(1, 2)
