"""``evaluate``: how much a checkpoint's clip vectors tell about labels, layer by layer and beside two baselines.

``knn`` asks the nearest neighbours, ``linear`` fits a logistic regression. Manifests carry a label, or several with
commas between them, in the third column. The baselines are the same network with random weights, and mean and standard
deviation of the log-mel.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mae_ast_plugin.audio.manifest import write_atomically
from mae_ast_plugin.commands.options import add_encoder_options, encoder_from, progress_bar
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.pooling import POOLINGS

if TYPE_CHECKING:
    from mae_ast_plugin.evaluation.probing import Probe

ALL_LAYERS = "all"
SETTINGS = ("pool", "columns", "precision", "window_seconds")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("evaluate", help="score a checkpoint on labelled clips", description=__doc__)
    probes = parser.add_subparsers(dest="probe", required=True, metavar="knn|linear")
    knn = probes.add_parser("knn", help="the nearest neighbours vote", description=__doc__)
    knn.add_argument("--k", type=int, default=5, help="number of neighbours (default 5)")
    knn.set_defaults(make_probe=_knn)
    linear = probes.add_parser("linear", help="logistic regression", description=__doc__)
    linear.add_argument(
        "--C", type=float, help="inverse strength of the regularisation (default: chosen on --valid; 0.1 without it)"
    )
    linear.set_defaults(make_probe=_linear)
    for probe in (knn, linear):
        _add_options(probe)
        probe.set_defaults(run=run)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", required=True, metavar="M", help="labelled manifest of the clips to learn from")
    parser.add_argument("--test", metavar="M", help="labelled manifest of the clips to score")
    parser.add_argument("--valid", metavar="M", help="labelled manifest to choose the layer, and C, on")
    parser.add_argument(
        "--leave-out", metavar="REGEX", help="instead of --test: score each group of --train with the others; the "
        "group is what the first parentheses find in a clip's name"
    )  # fmt: skip
    parser.add_argument("--layers", default=ALL_LAYERS, help="all, or some: 0,3,-1; 0 is the embedding (default all)")
    parser.add_argument(
        "--pool", default="statistics", help=f"steps to one vector: {', '.join(POOLINGS)} (default statistics)"
    )
    parser.add_argument("--no-baselines", action="store_true", help="score the checkpoint only")
    parser.add_argument("--json", metavar="OUT", help="write the results as data, too")
    add_encoder_options(parser)


def run(options: argparse.Namespace) -> None:
    """Check everything that can be checked, then embed, score and print; PlainError says what is wrong."""
    from mae_ast_plugin.evaluation.probing import evaluate
    from mae_ast_plugin.evaluation.report import as_data, as_text
    from mae_ast_plugin.evaluation.splits import read_splits

    if options.pool not in POOLINGS:
        raise PlainError(f"--pool is {options.pool!r}; it must be one of {', '.join(POOLINGS)}")
    if options.json:
        _check_writable(Path(options.json))
    probe = options.make_probe(options)
    splits = read_splits(options.train, options.test, options.valid, options.leave_out)
    encoder = encoder_from(options)
    report = evaluate(
        encoder,
        splits,
        probe,
        pooling=options.pool,
        layers=_layers(options.layers, encoder),
        with_baselines=not options.no_baselines,
        progress=progress_bar,
    )
    assert encoder.checkpoint is not None
    origin, updates = encoder.checkpoint.origin, encoder.checkpoint.num_updates
    print(f"{options.checkpoint} ({origin}, {updates} updates), pool {options.pool}, columns {options.columns}")
    print(as_text(report))
    if options.json:
        made_with = {"path": options.checkpoint, "origin": origin, "num_updates": updates}
        settings = {name: getattr(options, name) for name in SETTINGS}
        data = {"checkpoint": made_with, "options": settings, **as_data(report)}
        write_atomically(options.json, [json.dumps(data, indent=2).encode() + b"\n"])


def _check_writable(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise PlainError(f"--json {path}: the folder {folder} does not exist, make it first")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise PlainError(f"--json {path} cannot be written: name a file in a folder that you may write to")


def _layers(given: str, encoder: AudioEncoder) -> list[int]:
    """The layers to score, each counted from the embedding on and once."""
    count = encoder.num_layers + 1
    if given == ALL_LAYERS:
        return list(range(count))
    try:
        numbers = [int(number) for number in given.split(",")]
    except ValueError as error:
        raise PlainError(f"--layers is {given!r}; give all, or numbers like 0,3,-1") from error
    for number in numbers:
        if not -count <= number < count:
            raise PlainError(
                f"--layers: there is no layer {number}; this network has 0 (the tokens' embedding) to {count - 1}"
            )
    return list(dict.fromkeys(number % count for number in numbers))


def _knn(options: argparse.Namespace) -> Probe:
    from mae_ast_plugin.evaluation.knn import fit_knn
    from mae_ast_plugin.evaluation.probing import Probe

    if options.k < 1:
        raise PlainError(f"--k is {options.k}; it must be 1 or more")
    return Probe(f"{options.k}-NN", {f"k={options.k}": partial(fit_knn, k=options.k)}, least_clips=options.k)


def _linear(options: argparse.Namespace) -> Probe:
    from mae_ast_plugin.evaluation.linear import CHOICES_OF_C, DEFAULT_C, fit_linear
    from mae_ast_plugin.evaluation.probing import Probe

    if options.C is not None:
        if not 0 < options.C < float("inf"):
            raise PlainError(f"--C is {options.C}; it must be more than 0")
        choices: tuple[float, ...] = (options.C,)
    else:
        choices = CHOICES_OF_C if options.valid else (DEFAULT_C,)
    return Probe("linear probe", {f"C={c:g}": partial(fit_linear, c=c) for c in choices})
