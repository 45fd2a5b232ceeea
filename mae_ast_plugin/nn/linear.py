"""The linear layer, which oneDNN computes where a CPU trains in float32.

PyTorch hands matrices of float32 to MKL, and convolutions to oneDNN, whose kernels for AVX-512 are faster on AMD's
processors, by 5 to 25 % (``docs/benchmarks.md``, the step). A linear layer is a convolution of width one over channels
that lie last, as the values of a token do: nothing is copied but the weights. The gradient of the weights, a product
over all tokens, stays with MKL, which is the faster there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply (..., I) with ``weight`` (O, I) and add ``bias`` (O,): (..., O)."""
    if not _is_convolved(x, weight):
        return F.linear(x, weight, bias)
    return _Convolved.apply(x, weight, bias)  # type: ignore[no-any-return]


def _is_convolved(x: Tensor, weight: Tensor) -> bool:
    # inference, exports and graphs that are traced or compiled keep the plain product
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    has_onednn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    is_single = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    fits = x.numel() > 0 and x.shape[-1] == weight.shape[1]  # else torch's own words about it
    return has_onednn and x.device.type == "cpu" and is_single and fits


def _as_image(x: Tensor) -> Tensor:
    """View (..., I) as an image of one column whose channels lie last: (1, I, tokens, 1)."""
    return x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


class _Convolved(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv2d(_as_image(x), weight[:, :, None, None], bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = F.conv_transpose2d(_as_image(rows), weight[:, :, None, None]).permute(0, 2, 3, 1).reshape(x.shape)
        of_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


class Linear(nn.Linear):
    """torch's linear layer with an offset, computed by :func:`linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
