"""Groups of parameters: how deep each lies, what the weight decay reaches, and steps that keep to it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings
from mae_ast_plugin.nn.autoencoder import LEARNED_TOKENS, MaskedAutoencoder
from mae_ast_plugin.nn.parameter_groups import DECAYED, Group, parameter_groups, step_in_groups

SMALL = ModelSettings(
    encoder_layers=12,
    encoder_embed_dim=8,
    encoder_ffn_embed_dim=8,
    encoder_attention_heads=2,
    decoder_embed_dim=8,
    decoder_layers=2,
    layer_norm_first=True,
    class_tokens=1,
    enc_sine_pos=False,
    enc_table_pos="learned",
    dec_table_pos="axes",
    max_columns=4,
    input_norm="bins",
    hide_in_encoder=True,
    layer_scale=0.1,
)


def groups_of(network: MaskedAutoencoder, layer_decay: float = 1.0, decayed: str = "all") -> list[Group]:
    return parameter_groups(
        dict(network.named_parameters()), network.depths(), LEARNED_TOKENS, layer_decay=layer_decay, decayed=decayed
    )


def scales(network: MaskedAutoencoder) -> dict[str, float]:
    return {name: group.lr_scale for group in groups_of(network, 0.5) for name in group.members}


def decaying(network: MaskedAutoencoder, decayed: str) -> set[str]:
    return {name for group in groups_of(network, decayed=decayed) if group.decays for name in group.members}


@pytest.fixture(scope="module")
def network() -> MaskedAutoencoder:
    return autoencoder_of(SMALL, 128)


# ---- which group


def test_each_layer_learns_at_a_share_of_the_next_one(network: MaskedAutoencoder) -> None:
    found = scales(network)
    for name, scale in found.items():
        parts = name.split(".")
        if name.startswith("encoder.layers."):
            assert scale == 0.5 ** (12 - int(parts[2])), name
        elif parts[0] in ("norm", "embed", "encoder_positions", "class_tokens", "encoder_mask_token"):
            assert scale == 0.5**13, name
        else:  # the encoder's last norm, the decoder, the heads
            assert scale == 1, name
    assert found["encoder.norm.weight"] == found["decoder.layers.0.fc1.weight"] == found["reconstruct.weight"] == 1
    assert found["norm.weight"] == 0.5**13


def test_the_norm_of_a_post_norm_encoder_stands_before_its_layers() -> None:
    found = scales(autoencoder_of(replace(SMALL, layer_norm_first=False), 128))
    assert found["encoder.norm.weight"] == found["embed.weight"]
    assert found["decoder.norm.weight"] == 1


def test_offsets_and_norms_are_not_decayed_but_tokens_may_be(network: MaskedAutoencoder) -> None:
    parameters = dict(network.named_parameters())
    matrices = {name for name, parameter in parameters.items() if parameter.dim() > 1}
    positions = {name for name in parameters if ".grid." in name}
    tokens = {"class_tokens", "encoder_mask_token", "decoder_mask_token"} | positions
    assert len(positions) == 5
    assert decaying(network, "all") == set(parameters)
    assert decaying(network, "weights_and_tokens") == matrices | tokens
    assert decaying(network, "weights") == matrices - tokens
    for name in ("encoder.norm.weight", "encoder.layers.0.scale1", "norm.weight", "embed.bias"):
        assert name not in decaying(network, "weights_and_tokens")


@given(
    shapes=st.lists(st.integers(1, 3), min_size=1, max_size=12),
    depths=st.lists(st.integers(0, 4), min_size=12, max_size=12),
    decayed=st.sampled_from(sorted(DECAYED)),
)
@settings(deadline=None, max_examples=50)
def test_every_parameter_is_in_one_group_in_the_order_it_came(
    shapes: list[int], depths: list[int], decayed: str
) -> None:
    parameters = {f"part{index}.weight": torch.zeros([2] * dim) for index, dim in enumerate(shapes)}
    table = {f"part{index}.": depth for index, depth in enumerate(depths) if index % 3}
    groups = parameter_groups(parameters, table, ["part1."], layer_decay=0.5, decayed=decayed)
    members = [list(group.members) for group in groups]
    place = {name: number for number, name in enumerate(parameters)}
    assert sorted((name for names in members for name in names), key=place.__getitem__) == list(parameters)
    assert all(names == sorted(names, key=place.__getitem__) for names in members)
    assert [names[0] for names in members] == sorted((names[0] for names in members), key=place.__getitem__)
    assert len({(group.lr_scale, group.decays) for group in groups}) == len(groups)


# ---- steps


def weights() -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return {name: nn.Parameter(torch.randn(2, 3, generator=draw)) for name in "abcd"}


def with_gradients(parameters: dict[str, nn.Parameter], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def split(parameters: dict[str, nn.Parameter], **of: tuple[float, bool]) -> list[Group]:
    """A group for each ``names=(scale, decays)``."""
    return [Group(*values, {name: parameters[name] for name in names}) for names, values in of.items()]


MIXED = {"db": (0.5, True), "a": (1.0, False), "c": (0.25, True)}


def adam(parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.5)


def train(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], first: int, last: int) -> None:
    """Steps with a learning rate that changes at each, as schedulers do it."""
    for number in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (number + 1)
        with_gradients(parameters, number)
        optimizer.step()


def values(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def test_groups_that_are_all_alike_change_nothing() -> None:
    plain, grouped = weights(), weights()
    optimizers = adam(plain), adam(grouped)
    step_in_groups(optimizers[1], split(grouped, ca=(1.0, True), bd=(1.0, True)))
    for optimizer, parameters in zip(optimizers, (plain, grouped), strict=True):
        train(optimizer, parameters, 0, 4)
    for name in plain:
        assert torch.equal(plain[name], grouped[name])
    state, expected = optimizers[1].state_dict(), optimizers[0].state_dict()
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


def test_every_step_scales_rates_and_decays_by_group_whatever_the_schedule() -> None:
    parameters, expected = weights(), weights()
    optimizer = adam(parameters)
    step_in_groups(optimizer, split(parameters, **MIXED))
    train(optimizer, parameters, 0, 4)
    for names, (scale, decays) in MIXED.items():
        of_group = {name: expected[name] for name in names}
        alone = torch.optim.AdamW(of_group.values(), lr=0.1, weight_decay=0.5 if decays else 0.0)
        for number in range(4):
            with_gradients(expected, number)
            alone.param_groups[0]["lr"] = 0.01 * (number + 1) * scale
            alone.step()
    for name in parameters:
        assert torch.equal(parameters[name], expected[name]), name


def test_what_does_not_decay_stays_without_a_gradient_of_its_own() -> None:
    parameters = weights()
    before = values(parameters)
    optimizer = adam(parameters)
    step_in_groups(optimizer, split(parameters, a=(1.0, False), bcd=(1.0, True)))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(parameters["a"], before["a"])
    assert all(not torch.equal(parameters[name], before[name]) for name in "bcd")


def test_a_state_that_was_saved_goes_on_with_the_same_groups_as_if_it_had_not_been() -> None:
    whole, part = weights(), weights()
    optimizer = adam(whole)
    step_in_groups(optimizer, split(whole, **MIXED))
    train(optimizer, whole, 0, 6)

    first = adam(part)
    step_in_groups(first, split(part, **MIXED))
    train(first, part, 0, 3)
    stored = copy.deepcopy(first.state_dict())
    again = {name: nn.Parameter(value) for name, value in values(part).items()}
    second = adam(again)
    step_in_groups(second, split(again, **MIXED))
    second.load_state_dict(stored)
    train(second, again, 3, 6)
    for name in whole:
        assert torch.equal(whole[name], again[name]), name
    torch.testing.assert_close(second.state_dict(), optimizer.state_dict(), rtol=0, atol=0)


def test_a_state_is_that_of_one_group_whatever_the_groups() -> None:
    parameters = weights()
    optimizer = adam(parameters)
    step_in_groups(optimizer, split(parameters, **MIXED))
    train(optimizer, parameters, 0, 2)
    (group,) = optimizer.state_dict()["param_groups"]
    assert (group["params"], group["lr"], group["weight_decay"]) == ([0, 1, 2, 3], 0.02, 0.5)


class Counting(torch.optim.SGD):
    """Counts its steps by group, as optimisers for GPUs do."""

    seen: list[list[int]]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
        self.seen = [*getattr(self, "seen", []), [group["step"] for group in self.param_groups]]


def test_what_an_optimiser_counts_in_its_groups_goes_on() -> None:
    parameters = weights()
    optimizer = Counting(parameters.values(), lr=0.1)
    step_in_groups(optimizer, split(parameters, **MIXED))
    for _ in range(3):
        optimizer.step()
    assert optimizer.seen == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert optimizer.state_dict()["param_groups"][0]["step"] == 3


def test_groups_of_other_parameters_are_a_mistake_of_ours() -> None:
    parameters = weights()
    with pytest.raises(AssertionError, match="differ in parameters"):
        step_in_groups(adam(parameters), split(parameters, ab=(1.0, True)))
