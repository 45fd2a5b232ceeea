"""The stack against torch's own layers, and its laws: padding, recomputation, layer drop, stopping early."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from mae_ast_plugin.nn.transformer import (
    ACTIVATIONS,
    Transformer,
    TransformerLayer,
    TransformerSettings,
    keep_in_graph,
)

SMALL = TransformerSettings(num_layers=3, dim=12, ffn_dim=20, num_heads=3)
norm_orders = pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])


def stack(**changes: object) -> Transformer:
    """A stack whose weights are far from their small beginnings, so that a swapped norm or a missing bias shows."""
    torch.manual_seed(0)
    made = Transformer(replace(SMALL, **changes))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def tokens(num_clips: int, num_tokens: int) -> torch.Tensor:
    return torch.randn(num_clips, num_tokens, SMALL.dim, generator=torch.Generator().manual_seed(num_tokens))


def torch_layer(layer: TransformerLayer) -> nn.TransformerEncoderLayer:
    settings = layer.settings
    theirs = nn.TransformerEncoderLayer(
        settings.dim, settings.num_heads, settings.ffn_dim, 0.0, ACTIVATIONS[settings.activation],
        batch_first=True, norm_first=settings.pre_norm,
    )  # fmt: skip
    names = {
        "self_attn.in_proj_": layer.attention.qkv, "self_attn.out_proj.": layer.attention.out, "linear1.": layer.fc1,
        "linear2.": layer.fc2, "norm1.": layer.norm1, "norm2.": layer.norm2,
    }  # fmt: skip
    theirs.load_state_dict({f"{name}{kind}": value for name, part in names.items() for kind, value in
                            part.state_dict().items()})  # fmt: skip
    return theirs


def run_torch_layers(ours: Transformer, x: torch.Tensor, padding: torch.Tensor | None) -> list[torch.Tensor]:
    outputs = []
    for layer in ours.layers:
        assert isinstance(layer, TransformerLayer)
        x = torch_layer(layer)(x, src_key_padding_mask=padding)
        outputs.append(x)
    return outputs


@norm_orders
@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 31)])
def test_a_stack_equals_torchs_layers(pre_norm: bool, activation: str, shape: tuple[int, int]) -> None:
    ours, x = stack(pre_norm=pre_norm, activation=activation), tokens(*shape)
    expected = run_torch_layers(ours, x if pre_norm else ours.norm(x), None)
    output = ours(x)
    torch.testing.assert_close(output.hidden, expected, rtol=1e-4, atol=1e-5)
    last = ours.norm(expected[-1]) if pre_norm else expected[-1]
    torch.testing.assert_close(output.last, last, rtol=1e-4, atol=1e-5)


@norm_orders
def test_a_padded_stack_equals_torchs_layers_at_the_clips_own_tokens(pre_norm: bool) -> None:
    ours, x = stack(pre_norm=pre_norm), tokens(3, 11)
    padding = torch.arange(11) >= torch.tensor([11, 1, 4])[:, None]
    expected = run_torch_layers(ours, x if pre_norm else ours.norm(x), padding)
    torch.testing.assert_close(ours(x, padding).hidden[-1][~padding], expected[-1][~padding], rtol=1e-4, atol=1e-5)


@norm_orders
def test_padding_changes_nothing_for_the_tokens_of_a_clip(pre_norm: bool) -> None:
    ours, x = stack(pre_norm=pre_norm), tokens(3, 13)
    counts = [13, 1, 6]
    padding = torch.arange(13) >= torch.tensor(counts)[:, None]
    padded = ours(x, padding).last
    assert torch.equal(ours(x.masked_fill(padding[..., None], 77.0), padding).last[~padding], padded[~padding])
    for row, count in enumerate(counts):
        torch.testing.assert_close(padded[row, :count], ours(x[row : row + 1, :count]).last[0], rtol=1e-5, atol=1e-5)


@norm_orders
def test_a_row_of_padding_only_stays_finite_and_so_do_its_gradients(pre_norm: bool) -> None:
    ours, x = stack(pre_norm=pre_norm), tokens(2, 5).requires_grad_()
    padding = torch.tensor([[False] * 5, [True] * 5])
    output = ours(x, padding).last
    output[0].sum().backward()
    assert torch.isfinite(output).all()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in ours.parameters())


@norm_orders
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputation_gives_the_same_output_and_gradients(pre_norm: bool, dropout: float) -> None:
    x, padding = tokens(2, 7), torch.tensor([[False] * 7, [False] * 3 + [True] * 4])
    results = []
    for recompute in (False, True):
        ours = stack(
            pre_norm=pre_norm,
            dropout=dropout,
            attention_dropout=dropout,
            activation_dropout=dropout,
            recompute=recompute,
        ).train()
        torch.manual_seed(5)
        output = ours(x, padding).last
        output[~padding].square().sum().backward()
        results.append((output.detach(), [parameter.grad for parameter in ours.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@norm_orders
def test_dropping_every_layer_returns_the_input_and_keeps_the_number_of_hidden_states(pre_norm: bool) -> None:
    ours, x = stack(pre_norm=pre_norm, layer_drop=1.0).train(), tokens(2, 5)
    output = ours(x)
    assert len(output.hidden) == SMALL.num_layers
    assert torch.equal(output.last, ours.norm(x))
    assert all(torch.equal(hidden, x if pre_norm else ours.norm(x)) for hidden in output.hidden)


@norm_orders
def test_a_dropped_layer_has_gradients_of_zeros_and_leaves_those_of_the_others(pre_norm: bool) -> None:
    whole, dropping, x = stack(pre_norm=pre_norm, num_layers=2), stack(pre_norm=pre_norm), tokens(2, 5)
    for layer, index in ((0, 0), (1, 2)):
        whole.layers[layer].load_state_dict(dropping.layers[index].state_dict())
    whole.norm.load_state_dict(dropping.norm.state_dict())
    draws = iter([False, True, False])
    dropping._skips_layer = lambda: next(draws)  # type: ignore[method-assign]
    for ours in (whole, dropping):
        ours(x).last.square().sum().backward()
    for layer, index in ((0, 0), (1, 2)):
        for one, other in zip(whole.layers[layer].parameters(), dropping.layers[index].parameters(), strict=True):
            assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in dropping.layers[1].parameters())


def test_what_is_kept_in_the_graph_changes_neither_values_nor_gradients() -> None:
    x = tokens(2, 5).requires_grad_()
    used, frozen = torch.full((3,), torch.inf, requires_grad=True), torch.ones(2)
    out = keep_in_graph(x, [used, frozen])
    assert torch.equal(out, x)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))
    assert used.grad is not None and torch.equal(used.grad, torch.zeros(3))  # zeros, although its value is infinite
    assert frozen.grad is None


def test_layers_are_dropped_as_often_as_said_and_only_in_training() -> None:
    ours, x = stack(num_layers=20, layer_drop=0.3), tokens(1, 1)
    torch.manual_seed(1)
    kept = 0
    for _ in range(50):
        states = [ours.norm(x), *ours.train()(x).hidden]
        kept += sum(not torch.equal(before, after) for before, after in pairwise(states))
    assert abs(kept / 1000 - 0.7) < 0.06
    whole = stack(num_layers=20)
    assert torch.equal(ours.eval()(x).last, whole.eval()(x).last)


@norm_orders
@pytest.mark.parametrize("until", [1, 2, 3])
def test_stopping_early_gives_the_hidden_state_of_that_layer(pre_norm: bool, until: int) -> None:
    ours, x = stack(pre_norm=pre_norm), tokens(2, 5)
    whole, part = ours(x), ours(x, until=until)
    assert len(whole.hidden) == 3 and len(part.hidden) == until
    torch.testing.assert_close(part.hidden, whole.hidden[:until], rtol=0, atol=0)
    assert torch.equal(part.last, whole.hidden[until - 1])  # also before the last norm of a pre-norm stack


def test_dropout_acts_in_training_only() -> None:
    ours, x = stack(dropout=0.5, attention_dropout=0.5, activation_dropout=0.5), tokens(2, 5)
    assert torch.equal(ours.eval()(x).last, stack().eval()(x).last)
    assert not torch.equal(ours.train()(x).last, ours(x).last)


def test_the_order_of_the_tokens_does_not_matter_to_the_stack() -> None:
    ours, x = stack(), tokens(2, 9)
    torch.testing.assert_close(ours(x.flip(1)).last.flip(1), ours(x).last, rtol=1e-5, atol=1e-5)


def test_a_new_stack_has_small_weights_and_no_biases() -> None:
    torch.manual_seed(0)
    for name, parameter in Transformer(replace(SMALL, dim=48, ffn_dim=96)).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            assert abs(float(parameter.detach().std()) - 0.02) < 0.002


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_runs(activation: str) -> None:
    assert torch.isfinite(stack(activation=activation)(tokens(1, 3)).last).all()


@norm_orders
def test_without_its_outer_norm_a_stack_has_none_and_is_otherwise_the_same(pre_norm: bool) -> None:
    plain, normed = stack(pre_norm=pre_norm, outer_norm=False), stack(pre_norm=pre_norm)
    assert not [name for name, _ in plain.named_parameters() if name.startswith("norm.")]
    normed.layers.load_state_dict(plain.layers.state_dict())
    x = tokens(2, 7)
    if pre_norm:
        assert torch.equal(normed.norm(plain(x).last), normed(x).last)
    else:
        assert torch.equal(plain(normed.norm(x)).last, normed(x).last)


@pytest.mark.parametrize("layer_drop", [0.0, 1.0])
@pytest.mark.parametrize("recompute", [False, True])
@norm_orders
def test_the_tokens_that_are_wanted_are_those_of_the_whole_output(
    pre_norm: bool, recompute: bool, layer_drop: float
) -> None:
    made = stack(pre_norm=pre_norm, recompute=recompute, layer_drop=layer_drop).train()
    x, padding = tokens(2, 7), torch.arange(7) >= torch.tensor([7, 5])[:, None]
    only = torch.tensor([[0, 3, 6], [1, 4, 7]])  # 7: no token, which gives some token
    results = []
    for wanted in (None, only):
        made.zero_grad()
        last = made(x, padding, only=wanted).last
        picked = last if wanted is not None else last.gather(1, only.clamp(max=6)[..., None].expand(-1, -1, SMALL.dim))
        picked.square().sum().backward()
        results.append([picked, *(parameter.grad for parameter in made.parameters())])
    for some, whole in zip(*results, strict=True):
        torch.testing.assert_close(some, whole, rtol=1e-4, atol=1e-5)
