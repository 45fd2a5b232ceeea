"""The optimisers of the originals: groups of parameters, and their learning rates.

MaskSpec's cases of fine-tuning bring no network: parameters have the original's names and as many dimensions as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from math import isclose
from typing import Any, NamedTuple

import torch
from case import Case
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule, CosineLRScheduleConfig
from maskspec_published import drop
from omegaconf import OmegaConf
from torch import nn

from mae_ast_plugin.nn.autoencoder import LEARNED_TOKENS, MaskedAutoencoder
from mae_ast_plugin.nn.parameter_groups import Group, parameter_groups, step_in_groups

UPDATES_PER_EPOCH = 100


# ---- one step of pretraining


def mae_groups(network: MaskedAutoencoder) -> list[Group]:
    """The groups of those recipes whose originals decay weights and learned tokens; of parameters with a gradient."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.grad is not None}
    options: dict[str, Any] = {"layer_decay": 1.0, "decayed": "weights_and_tokens"}
    return parameter_groups(trained, network.depths(), LEARNED_TOKENS, **options)


def step_of_adamw(groups: Sequence[Group], options: Mapping[str, Any]) -> None:
    """One step of torch's AdamW, which is the originals' own."""
    names = ("lr", "eps", "weight_decay")
    parameters = [parameter for group in groups for parameter in group.members.values()]
    values = {name: options[name] for name in names}
    optimizer = torch.optim.AdamW(parameters, betas=tuple(options["betas"]), **values)
    step_in_groups(optimizer, groups)
    optimizer.step()


# ---- fine-tuning


class Original(NamedTuple):
    """A classifier of the original: its parameters' dimensions, how deep they lie, and which are tokens."""

    dimensions: dict[str, int]
    depths: dict[str, int]
    tokens: Sequence[str]


def _layer(name: str, bias: bool = True) -> Iterator[tuple[str, int]]:
    yield f"{name}.weight", 2
    if bias:
        yield f"{name}.bias", 1


def _norm(name: str) -> Iterator[tuple[str, int]]:
    yield from ((f"{name}.weight", 1), (f"{name}.bias", 1))


def _block(name: str, *own: tuple[str, int]) -> Iterator[tuple[str, int]]:
    yield from _norm(f"{name}.norm1")
    yield from ((f"{name}.attn.{part}", dimensions) for part, dimensions in own)
    for layer in ("attn.qkv", "attn.proj"):
        yield from _layer(f"{name}.{layer}")
    yield from _norm(f"{name}.norm2")
    for layer in ("mlp.fc1", "mlp.fc2"):
        yield from _layer(f"{name}.{layer}")


def _patches() -> list[tuple[str, int]]:
    return [("patch_embed.proj.weight", 4), ("patch_embed.proj.bias", 1)]


def vit(depth: int) -> Original:
    """The classifier of one stack, which averages its tokens."""
    found = [("cls_token", 3), ("pos_embed", 3), *_patches()]
    for index in range(depth):
        found += _block(f"blocks.{index}")
    found += [*_layer("head"), *_norm("fc_norm")]
    first = dict.fromkeys(("cls_token", "pos_embed", "patch_embed."), 0)
    depths = first | {f"blocks.{index}.": index + 1 for index in range(depth)}
    return Original(dict(found), depths, ("cls_token", "dist_token", "pos_embed"))


def swin(stages: Sequence[int]) -> Original:
    """The classifier of stages between which patches are merged; its head lies as deep as its last block."""
    found = [*_patches(), *_norm("patch_embed.norm")]
    depths, before = {"patch_embed.": 0}, 0
    for stage, num_blocks in enumerate(stages):
        for index in range(num_blocks):
            found += _block(f"layers.{stage}.blocks.{index}", ("relative_position_bias_table", 2))
            depths[f"layers.{stage}.blocks.{index}."] = before + index + 1
        before += num_blocks
        if stage < len(stages) - 1:
            found += [*_norm(f"layers.{stage}.downsample.norm")]
            found += [*_layer(f"layers.{stage}.downsample.reduction", bias=False)]
            depths[f"layers.{stage}.downsample."] = before
    found += [*_norm("norm"), *_layer("head")]
    return Original(dict(found), depths | {"norm.": before, "head.": before}, ("absolute_pos_embed",))


def check_groups(case: Case) -> None:
    """Compare every group and its rate at every epoch of the case, as steps of the engine's optimiser have them."""
    config = case.config
    original = vit(config["depth"]) if config["model_type"] == "vit" else swin(config["depths"])
    parameters = {name: nn.Parameter(torch.zeros([1] * number)) for name, number in original.dimensions.items()}
    groups = parameter_groups(
        parameters, original.depths, original.tokens, layer_decay=config["layer_decay"], decayed="weights"
    )
    adam = _optimizer(config, list(parameters.values()))
    step_in_groups(adam.optimizer, groups)
    steps: list[list[dict[str, Any]]] = []
    adam.optimizer.register_step_pre_hook(lambda optimizer, *_: steps.append(list(optimizer.param_groups)))
    schedule = _schedule(config, adam)
    rates = []
    for epoch in case.expected["epoch"].tolist():
        rates.append(schedule.step_update(epoch * UPDATES_PER_EPOCH))
        adam.step()
    near = config["tolerances"]["rel"]
    case.open_tensors.discard("epoch")  # which is what the case asks for
    case.within("lr", torch.tensor(rates, dtype=torch.float64), {"rtol": near})
    of_groups = [[group["lr"] for group in step] for step in steps]
    case.within("lr_per_group", torch.tensor(of_groups, dtype=torch.float64), {"rtol": near})
    told = [
        {"lr_scale": group.lr_scale, "weight_decay": step["weight_decay"], "params": list(group.members)}
        for group, step in zip(groups, steps[0], strict=True)
    ]
    case.scalar("groups", [_rounded(*pair, near) for pair in zip_longest(told, config["groups"], fillvalue={})])
    case.scalar("no_weight_decay", list(original.tokens))
    drop(case, "model_type", "depth", "depths", "layer_decay", "weight_decay", "lr", "epochs", "warmup_epochs")
    drop(case, "min_lr", "tolerances")


def _rounded(found: Mapping[str, Any], wanted: Mapping[str, Any], near: float) -> dict[str, Any]:
    """Put the numbers of the case in the place of those that are as good as equal."""
    numbers = [name for name in ("lr_scale", "weight_decay") if name in found and name in wanted]
    equal = {name: wanted[name] for name in numbers if isclose(found[name], wanted[name], rel_tol=near)}
    return {**found, **equal}


def _optimizer(config: Mapping[str, Any], parameters: list[nn.Parameter]) -> FairseqAdam:
    settings = FairseqAdamConfig(lr=[config["lr"]], weight_decay=config["weight_decay"], tpu=False)
    return FairseqAdam(OmegaConf.structured(settings), parameters)


def _schedule(config: Mapping[str, Any], optimizer: FairseqAdam) -> CosineLRSchedule:
    settings = CosineLRScheduleConfig(
        lr=[config["lr"]],
        min_lr=config["min_lr"],
        warmup_init_lr=0.0,
        warmup_updates=config["warmup_epochs"] * UPDATES_PER_EPOCH,
        max_update=config["epochs"] * UPDATES_PER_EPOCH,
        lr_shrink=config["min_lr"] / config["lr"],  # at its end the cosine begins again, there from its smallest rate
    )
    return CosineLRSchedule(settings, optimizer)
