"""The linear layer as a convolution, against torch's product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from mae_ast_plugin.nn.linear import Linear, linear

TOKENS, INPUTS, OUTPUTS = (3, 5), 8, 6


def layer() -> Linear:
    torch.manual_seed(0)
    return Linear(INPUTS, OUTPUTS)


def tokens(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*TOKENS, INPUTS, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)], ids=["in order", "transposed"])
def test_output_and_gradients_are_torchs(order: tuple[int, int, int]) -> None:
    own, results = layer(), []
    above = torch.randn(*(TOKENS[place] for place in order[:2]), OUTPUTS)
    for way in (linear, F.linear):
        x = tokens()
        y = way(x.permute(order), own.weight, own.bias)
        results.append([y, *torch.autograd.grad(y, (x, own.weight, own.bias), above)])
    for ours, expected in zip(*results, strict=True):
        assert ours.stride() == expected.stride()  # DistributedDataParallel wants gradients as the weights lie
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_only_wanted_gradients_are_computed() -> None:
    own = layer()
    own.weight.requires_grad_(False)
    own(tokens().detach()).sum().backward()
    assert own.weight.grad is None
    torch.testing.assert_close(own.bias.grad, torch.full((OUTPUTS,), 15.0))


def test_no_tokens_give_no_tokens() -> None:
    assert layer()(torch.zeros(2, 0, INPUTS, requires_grad=True)).shape == (2, 0, OUTPUTS)


def test_inference_other_precisions_and_compiled_graphs_keep_the_plain_product() -> None:
    own = layer()
    with patch.object(F, "conv2d", side_effect=AssertionError("a convolution")):
        with torch.no_grad():
            own(tokens())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert own(tokens()).dtype == torch.bfloat16
        linear(tokens(torch.float64), own.weight.double(), own.bias.double())
        with patch.object(torch.compiler, "is_compiling", return_value=True):
            own(tokens())
        with torch.backends.mkldnn.flags(enabled=False):
            own(tokens())
        torch.jit.trace(own, tokens())
        with pytest.raises(AssertionError, match="a convolution"):
            own(tokens())


def test_weights_carry_the_names_of_torchs_layer() -> None:
    assert layer().state_dict().keys() == torch.nn.Linear(INPUTS, OUTPUTS).state_dict().keys()


def test_function_transforms_and_second_derivatives_are_torchs() -> None:
    own, x = layer(), tokens().detach()
    weights = (own.weight.detach(), own.bias.detach())

    def loss(way: Callable[..., torch.Tensor], *given: torch.Tensor) -> torch.Tensor:
        return way(x, *given).square().sum()

    for ours, expected in zip(
        *(torch.func.grad(partial(loss, way), argnums=(0, 1))(*weights) for way in (linear, F.linear)), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.func.vmap(own)(x), F.linear(x, *weights))
    inputs = (tokens(), own.weight, own.bias)
    first = [torch.autograd.grad(way(*inputs).square().sum(), inputs, create_graph=True) for way in (linear, F.linear)]
    for ours, expected in zip(*(torch.autograd.grad(each[1].square().sum(), inputs) for each in first), strict=True):
        torch.testing.assert_close(ours, expected)


def test_another_width_is_told_in_torchs_words() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        layer()(torch.zeros(2, INPUTS + 1))
