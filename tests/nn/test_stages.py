"""A hierarchy of stages: shapes, stopping early, recomputation, precision, and clips that do not see each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_plugin.nn.stages import StagedTransformer, StageSettings
from mae_ast_plugin.nn.transformer import TransformerSettings

SIZES = TransformerSettings(num_layers=5, dim=8, ffn_dim=16, num_heads=2, pre_norm=True)
STAGES = StageSettings(num_layers=(2, 2, 1), size=(8, 16), window=4)
SHAPES = [(128, 8)] * 2 + [(32, 16)] * 2 + [(8, 32)]


def stack(stages: StageSettings = STAGES, **changes: Any) -> StagedTransformer:
    torch.manual_seed(0)
    made = StagedTransformer(replace(SIZES, **changes), stages)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def tokens(num_clips: int = 2) -> Tensor:
    return torch.randn(num_clips, 128, SIZES.dim, generator=torch.Generator().manual_seed(num_clips))


def test_each_stage_has_a_quarter_of_the_tokens_and_twice_the_width() -> None:
    made = stack()
    found = made(tokens())
    assert [tuple(state.shape[1:]) for state in found.hidden] == SHAPES
    assert found.last.shape == (2, 8, 32) and (made.dim, made.factor) == (32, 4)
    assert [layer.attention.num_heads for layer in made.layers] == [2, 2, 4, 4, 8]  # type: ignore[union-attr]
    torch.testing.assert_close(found.last, made.norm(found.hidden[-1]))


def test_every_second_layer_of_a_stage_is_shifted_where_there_is_room() -> None:
    assert [layer.shift for layer in stack().layers] == [0, 2, 0, 0, 0]
    longer = replace(STAGES, num_layers=(3, 1), size=(16, 16))
    assert [layer.shift for layer in stack(longer).layers] == [0, 2, 0, 0]


@pytest.mark.parametrize("until", range(6))
def test_it_stops_after_the_layer_asked_for(until: int) -> None:
    made, x = stack(), tokens()
    whole, part = made(x), made(x, until=until)
    assert len(part.hidden) == until
    assert all(torch.equal(one, other) for one, other in zip(part.hidden, whole.hidden, strict=False))
    assert torch.equal(part.last, whole.hidden[until - 1] if until else x)


def test_only_the_layers_asked_for_are_kept() -> None:
    whole, part = stack()(tokens()), stack()(tokens(), keep={1, 4})
    assert [state.numel() > 0 for state in part.hidden] == [False, True, False, False, True]
    assert torch.equal(part.hidden[1], whole.hidden[1]) and torch.equal(part.last, whole.last)


def test_a_clip_is_the_same_alone_and_in_a_batch() -> None:
    made, x = stack(), tokens(3)
    torch.testing.assert_close(made(x).last[1:2], made(x[1:2]).last)


def test_time_and_frequency_are_not_mixed_up() -> None:
    """The last layer's windows are the whole of its grid of 2 x 4 from bottom to top, and half of it in time."""
    made, x = stack(replace(STAGES, num_layers=(1, 1, 1))), tokens(1).requires_grad_()
    made(x).last[0, 0].sum().backward()
    reached = (x.grad[0].abs().sum(dim=-1) > 0).view(16, 8)  # type: ignore[index]
    assert bool(reached[:8].all()) and not bool(reached[8:].any())


def test_recomputed_layers_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        made = stack(replace(STAGES, drop_path=0.5), recompute=recompute, dropout=0.1).train()
        torch.manual_seed(1)
        made(tokens()).last.square().sum().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_the_share_of_clips_left_out_grows_with_the_layers() -> None:
    shares = [layer.drop_path for layer in stack(replace(STAGES, drop_path=0.2)).layers]
    assert shares == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_half_precision_stays_near() -> None:
    made, x = stack(), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        half = made(x).last
    torch.testing.assert_close(half.float(), made(x).last, rtol=0.1, atol=0.1)
