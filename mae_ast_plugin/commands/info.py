"""``info``: what a checkpoint is, in words or as JSON."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

from mae_ast_plugin.checkpoint import Checkpoint, load_checkpoint
from mae_ast_plugin.encoder import AudioEncoder, encoder_of
from mae_ast_plugin.nn.autoencoder import Positions
from mae_ast_plugin.nn.stages import StagedTransformer
from mae_ast_plugin.nn.transformer import Transformer


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("info", help="say what a checkpoint is", description=__doc__)
    parser.add_argument("checkpoint", metavar="C", help="checkpoint file or exported folder")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print what `describe` finds."""
    checkpoint = load_checkpoint(options.checkpoint)
    facts = describe(checkpoint, encoder_of(checkpoint))
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(f"{name:<{width}}{value}")


def describe(checkpoint: Checkpoint, encoder: AudioEncoder) -> dict[str, Any]:
    """Collect the facts about a checkpoint that a user of it needs, name by name."""
    task, tokens, network = checkpoint.task, encoder.network.tokens, encoder.network
    columns = f"{tokens.num_chan} patches a column, {1 / encoder.step_seconds:g} columns a second"
    mean = f" ({network.embed.out_features} with --columns mean)" if network.splits_columns else ""
    return {
        "checkpoint": checkpoint.path,
        "format": checkpoint.origin,
        "updates trained": checkpoint.num_updates,
        "parameters": _parameters(encoder),
        "encoder": _stack(network.encoder, network.encoder_positions),
        "decoder": _stack(network.decoder, network.decoder_positions),
        "trained with": f"{task.mask_type}, ratio {checkpoint.model.random_mask_prob:g}",
        "front end": f"{task.feature_type}, {encoder.frontend.num_features} columns, a frame every "
        f"{1000 * encoder.frontend.hop / encoder.sample_rate:g} ms",
        "token grid": f"{tokens.kernel_chan} x {tokens.kernel_time} (mel bins x frames), strides "
        f"{tokens.stride_chan} x {tokens.stride_time}; {columns}",
        "expected input": f"mono, {encoder.sample_rate} Hz (others are resampled), floats between -1 and 1, at least "
        f"{encoder.shortest} samples ({1000 * encoder.shortest / encoder.sample_rate:.0f} ms; shorter is padded)",
        "embeddings": f"{encoder.dim} values a column{mean}, layers 0 (embedding) to {encoder.num_layers}",
    }


def _parameters(encoder: AudioEncoder) -> str:
    counts: Counter[str] = Counter()
    for name, parameter in encoder.network.named_parameters():
        counts["decoder" if name.split(".")[0] in ("decoder", "decoder_positions") else "rest"] += parameter.numel()
    return f"{counts.total() / 1e6:.1f} million ({counts['decoder'] / 1e6:.1f} of them in the decoder)"


def _stack(stack: Transformer | StagedTransformer | None, positions: Positions | None) -> str:
    if stack is None or positions is None:
        return "none"
    settings = stack.settings
    kinds = {"sinusoidal": positions.sinusoid, "convolutional": positions.conv, "tabled": positions.grid}
    used = " and ".join(kind for kind, part in kinds.items() if part is not None) or "no"
    norm = "pre" if settings.pre_norm else "post"
    if isinstance(stack, StagedTransformer):
        layers = "-".join(str(len(stage.layers)) for stage in stack.each_stage)
        return (
            f"stages of {layers} layers, {settings.dim} to {stack.dim} wide, {settings.num_heads} to "
            f"{settings.num_heads * stack.factor} heads, {norm}-norm, {used} positions; attention within windows of "
            f"{stack.window} x {stack.window} tokens; clips are filled up to {stack.size[1]} columns"
        )
    return (
        f"{settings.num_layers} layers, {settings.dim} wide, {settings.num_heads} heads, {norm}-norm, {used} positions"
    )
