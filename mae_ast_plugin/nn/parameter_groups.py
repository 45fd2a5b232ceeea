"""Groups of parameters that an optimiser treats each in its own way.

Lower layers learn slower where that is wanted, and weight decay reaches only what it should.
Which parameter lies how deep, and which are learned tokens, is told by their names; the names are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

OF_A_GROUP = ("params", "lr", "weight_decay")
# By a parameter and whether it is a token: a learned vector that stands among the tokens, or is added to them.
DECAYED: dict[str, Callable[[Tensor, bool], bool]] = {
    "all": lambda parameter, is_token: True,
    "weights_and_tokens": lambda parameter, is_token: is_token or parameter.dim() > 1,
    "weights": lambda parameter, is_token: not is_token and parameter.dim() > 1,
}


class Group(NamedTuple):
    """Parameters by name. Their learning rate is ``lr_scale`` times the run's; ``decays``: so does the weight decay."""

    lr_scale: float
    decays: bool
    members: dict[str, Tensor]


def parameter_groups(
    parameters: Mapping[str, Tensor],
    depths: Mapping[str, int],
    tokens: Sequence[str],
    *,
    layer_decay: float,
    decayed: str,
) -> list[Group]:
    """Put parameters into groups, which come in the order of their first member.

    ``depths`` are those of parameters whose names begin so; all others lie one deeper than the deepest of these and
    learn at the full rate, and what lies n before them at ``layer_decay ** n`` of it. ``tokens`` are beginnings, too.
    ``decayed`` is a name of `DECAYED`.
    """
    last = max(depths.values()) + 1
    found: dict[tuple[int, bool], dict[str, Tensor]] = {}
    for name, parameter in parameters.items():
        depth = next((depth for start, depth in depths.items() if name.startswith(start)), last)
        decays = DECAYED[decayed](parameter, name.startswith(tuple(tokens)))
        found.setdefault((depth, decays), {})[name] = parameter
    return [Group(layer_decay ** (last - depth), decays, members) for (depth, decays), members in found.items()]


def step_in_groups(optimizer: Optimizer, groups: Sequence[Group]) -> None:
    """Let every step of ``optimizer`` take each of ``groups`` by itself; together they are all that it optimises.

    Between steps it has one group, as ever: who sets its learning rate or saves its state need not know of others, and
    a run can go on with other groups. For optimisers whose groups may all begin a step with the same values.
    """
    (whole,) = optimizer.param_groups
    ours = [parameter for group in groups for parameter in group.members.values()]
    assert sorted(map(id, ours)) == sorted(map(id, whole["params"])), "groups and optimiser differ in parameters"
    waiting: list[dict[str, Any]] = []

    def part(optimizer: Optimizer, *_: object) -> None:
        (whole,) = optimizer.param_groups  # another than before where a state was loaded
        waiting.append(whole)
        optimizer.param_groups = [_part_of(whole, group) for group in groups]

    def join(optimizer: Optimizer, *_: object) -> None:
        whole, one = waiting.pop(), optimizer.param_groups[0]
        # some optimisers count their steps here, alike in all groups
        whole.update({name: value for name, value in one.items() if name not in OF_A_GROUP})
        optimizer.param_groups = [whole]

    optimizer.register_step_pre_hook(part)
    optimizer.register_step_post_hook(join)


def _part_of(whole: Mapping[str, Any], group: Group) -> dict[str, Any]:
    return {
        **whole,
        "params": list(group.members.values()),
        "lr": whole["lr"] * group.lr_scale,
        "weight_decay": whole["weight_decay"] if group.decays else 0.0,
    }
