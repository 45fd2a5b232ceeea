"""``doctor``: measure reading, features and the training step on this machine, and say which of them limits.

Clips are read in the order of training, the front end and the network are those of the recipe. It takes about a
minute; run it while nothing else does, with the audio where training will read it from. ``--set`` takes what the
training is given beside the recipe, as ``model.encoder_layers=6``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.errors import PlainError

if TYPE_CHECKING:
    from mae_ast_plugin.launch.rehearsal import Measured

SPARE = 1.25  # workers above the average need, because clips and disks are uneven


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("doctor", help="what limits training on this machine", description=__doc__)
    parser.add_argument("manifest", metavar="MANIFEST", help="the manifest of the training (train.tsv)")
    parser.add_argument("--recipe", default="mae_ast", help="the recipe to be run (default mae_ast)")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING=VALUE", help="changes to the recipe")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--seconds", type=float, default=45.0, help="about how long to measure (default 45)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and say; PlainError where manifest, recipe or device are not there."""
    if not options.seconds > 0:
        raise PlainError(f"--seconds is {options.seconds}; it must be more than 0")
    manifest, device = Manifest.load(options.manifest), _device(options.device)
    try:
        from mae_ast_plugin.launch.recipe_settings import recipe_settings
        from mae_ast_plugin.launch.rehearsal import rehearse
    except ImportError as error:
        raise PlainError(
            f'doctor rehearses the training, which needs {error.name}: pip install "mae-ast-plugin[train]"'
        ) from error
    recipe = recipe_settings(options.recipe, options.set)
    measured = rehearse(manifest, recipe, device, options.seconds)
    print("\n".join([*figures(measured), "", *verdict(measured, int(recipe.dataset.get("num_workers", 1)))]))


def _device(name: str | None) -> torch.device:
    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PlainError(f"--device {wanted} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def figures(measured: Measured) -> Iterator[str]:
    """The measured figures, a line each."""
    for kind, (count, seconds) in measured.reading.items():
        yield f"reading      {_speed(seconds)} per worker: {kind}, {count} clips"
    if measured.feature_seconds:
        yield f"features     {_speed(measured.feature_seconds)} on {measured.device}, part of the step"
    batch, most = round(measured.clips_per_batch), max(measured.steps)
    of = f"batches of {batch} clips" + (f", from steps of up to {most}" if most < batch else "")
    yield f"step         {_speed(measured.step_seconds)} on {measured.device}, {of}"
    kind = "of this process" if measured.device == "cpu" else f"of {measured.device}"
    yield f"memory       {measured.memory_bytes / 2**30:.2f} GiB {kind} at the most, with {most} clips"
    if measured.num_unreadable:
        yield f"unreadable   {measured.num_unreadable} clips: `python -m manifests check` lists all"


def _speed(seconds: float) -> str:
    return f"{1000 * seconds:9.2f} ms a clip, {1 / seconds:8.1f} clips/s"


def verdict(measured: Measured, workers_set: int) -> Iterator[str]:
    """Say what limits, how many workers are needed and how long an epoch takes; the recipe has ``workers_set``."""
    read, step, cores = measured.read_seconds, measured.step_seconds, measured.cores
    if measured.clips_too_many is not None:
        yield (
            f"A batch of {measured.clips_too_many} clips does not fit into the memory of {measured.device}: lower "
            "dataset.max_tokens or dataset.batch_size, or set model.checkpoint_activations=true."
        )
    wanted = max(1, math.ceil(SPARE * read / step))
    workers = min(wanted, cores)
    if measured.device == "cpu":
        clips_a_second = 1 / (step + read / cores)
        share = read / cores * clips_a_second
        part = "The training step limits" if share < 0.5 else "Reading limits"
        yield f"{part}: step and workers share the {cores} cores, of whose time reading takes {share:.0%}."
    elif wanted > cores and read / cores > step:
        clips_a_second = cores / read
        yield (
            f"Reading limits: the {cores} cores read {clips_a_second:.1f} clips/s, the step would take {1 / step:.1f}. "
            "Pack the clips (`python -m manifests pack`) at task.sample_rate, or use more cores."
        )
    else:
        clips_a_second = 1 / step
        yield f"The training step limits: it takes {1 / step:.1f} clips/s, and a worker reads {1 / read:.1f}."
    yield f"Set dataset.num_workers={workers} (the recipe has {workers_set})."
    epoch = _readable(measured.num_clips / clips_a_second)
    yield f"An epoch of {measured.num_clips} clips takes about {epoch} at {clips_a_second:.1f} clips/s."


def _readable(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
