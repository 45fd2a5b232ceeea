"""A plain transformer stack, post-norm or pre-norm, with padding, layer drop and recomputation.

Post-norm stacks normalise their input and nothing at the end; pre-norm stacks normalise the last output (facts:
MAE-AST 6.7).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mae_ast_plugin.nn.attention import attention
from mae_ast_plugin.nn.dropout import dropout
from mae_ast_plugin.nn.linear import Linear, linear
from mae_ast_plugin.nn.masking import gather_tokens

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
    "swish": F.silu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """Sizes and regularisation of one stack; widths in values, rates as shares.

    ``layer_scale`` is where a learned factor on the output of each attention and feed-forward begins; 0: there is none.
    ``outer_norm``: the stack normalises what it is given (post-norm) or what it gives (pre-norm).
    """

    num_layers: int
    dim: int
    ffn_dim: int
    num_heads: int
    activation: str = "gelu"
    pre_norm: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    layer_drop: float = 0.0
    norm_eps: float = 1e-5
    layer_scale: float = 0.0
    outer_norm: bool = True
    recompute: bool = False


@dataclass
class StackOutput:
    """What a stack gives: its output and the output of every layer, each (B, N, D)."""

    last: Tensor
    hidden: list[Tensor] = field(default_factory=list)


class SelfAttention(nn.Module):
    """Multi-head self-attention: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.rate = num_heads, dropout
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | None, only: Tensor | None = None) -> Tensor:
        """Attend; ``attend`` (B, 1, 1, N) is true at keys that may be seen, ``only`` (B, M) names the tokens whose
        output is wanted: (B, M, D).
        """
        rate = self.rate if self.training else 0.0
        if only is None:
            query, key, value = self._heads(self.qkv(x), 3)
        else:
            dim = self.out.in_features
            (query,) = self._heads(linear(gather_tokens(x, only), self.qkv.weight[:dim], self.qkv.bias[:dim]), 1)
            key, value = self._heads(linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:]), 2)
        return self.out(attention(query, key, value, attend, rate).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """Take (B, N, count D) apart into ``count`` times (B, H, N, D / H)."""
        return x.unflatten(-1, (count, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual; the norms stand before (pre) or after (post) the sum."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.activation = ACTIVATIONS[settings.activation]
        self.attention = SelfAttention(settings.dim, settings.num_heads, settings.attention_dropout)
        self.norm1 = nn.LayerNorm(settings.dim, settings.norm_eps)
        self.fc1 = Linear(settings.dim, settings.ffn_dim)
        self.fc2 = Linear(settings.ffn_dim, settings.dim)
        self.norm2 = nn.LayerNorm(settings.dim, settings.norm_eps)
        scale = settings.layer_scale
        self.scale1 = nn.Parameter(torch.full((settings.dim,), scale)) if scale else None
        self.scale2 = nn.Parameter(torch.full((settings.dim,), scale)) if scale else None

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        return dropout(x, rate, self.training)

    def _attend(self, x: Tensor, attend: Tensor | None, only: Tensor | None) -> Tensor:
        mixed = self._drop(self.attention(x, attend, only), self.settings.dropout)
        return mixed if self.scale1 is None else mixed * self.scale1

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self._drop(self.activation(self.fc1(x)), self.settings.activation_dropout)
        out = self._drop(self.fc2(hidden), self.settings.dropout)
        return out if self.scale2 is None else out * self.scale2

    def forward(self, x: Tensor, attend: Tensor | None, only: Tensor | None = None) -> Tensor:
        """Run the layer; ``only`` (B, M) names the tokens whose output is wanted: (B, M, D)."""
        own = x if only is None else gather_tokens(x, only)
        if self.settings.pre_norm:
            own = own + self._attend(self.norm1(x), attend, only)
            return own + self._feed_forward(self.norm2(own))
        own = self.norm1(own + self._attend(x, attend, only))
        return self.norm2(own + self._feed_forward(own))


class _WithUnused(torch.autograd.Function):
    """Hand a tensor on; in the backward pass others, which had no part in it, get gradients of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *unused: Tensor) -> Tensor:
        ctx.save_for_backward(*unused)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        wanted = ctx.needs_input_grad[1:]
        unused = zip(ctx.saved_tensors, wanted, strict=True)
        return gradient, *(torch.zeros_like(tensor) if needs else None for tensor, needs in unused)


def keep_in_graph(x: Tensor, unused: Iterable[Tensor]) -> Tensor:
    """Return ``x`` so that ``unused`` tensors, too, get a gradient from it, of zeros.

    A parameter then has a gradient in every update, whatever was left out of it: several processes need not look for
    those without (DistributedDataParallel's find_unused_parameters), and one process steps its optimiser as they do.
    """
    return _WithUnused.apply(x, *unused)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A stack of layers over tokens (B, N, D)."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.layers = nn.ModuleList(TransformerLayer(settings) for _ in range(settings.num_layers))
        self.norm = nn.LayerNorm(settings.dim, settings.norm_eps) if settings.outer_norm else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        x: Tensor,
        padding: Tensor | None = None,
        until: int | None = None,
        keep: Collection[int] | None = None,
        only: Tensor | None = None,
    ) -> StackOutput:
        """Run the stack; ``padding`` (B, N) marks tokens nobody may attend to, ``until`` stops after that layer.

        ``keep`` names the layers, from 0, whose output is to be kept (default all); empty tensors stand for the others.
        ``only`` (B, M) names the tokens whose last output is wanted, of which the last layer then gives no others.
        """
        attend = None if padding is None else ~padding[:, None, None, :]
        if not self.settings.pre_norm:
            x = self.norm(x)
        x = dropout(x, self.settings.dropout, self.training)
        hidden: list[Tensor] = []
        layers = self.layers[:until]
        for number, layer in enumerate(layers, start=1):
            wanted = only if number == len(layers) else None
            if self._skips_layer():
                x = keep_in_graph(x if wanted is None else gather_tokens(x, wanted), layer.parameters())
            elif self.settings.recompute and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, attend, wanted, use_reentrant=False)
            else:
                x = layer(x, attend, wanted)
            kept = x if keep is None or len(hidden) in keep else x.new_empty(0)
            hidden.append(kept)  # a dropped layer hands its input on, so that hidden states keep their numbers
        if self.settings.pre_norm and until is None:
            x = self.norm(x)
        return StackOutput(x, hidden)

    def _skips_layer(self) -> bool:
        # drawn on the host: one number per layer costs nothing there and never waits for the device
        return self.training and self.settings.layer_drop > 0 and float(torch.rand(())) <= self.settings.layer_drop
