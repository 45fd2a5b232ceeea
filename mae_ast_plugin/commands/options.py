"""Options that several commands share, and the progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mae_ast_plugin.encoder import COLUMNS, PRECISIONS, AudioEncoder, load_model
from mae_ast_plugin.errors import PlainError


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Add what is needed to load an encoder and run it over files."""
    parser.add_argument("--checkpoint", required=True, metavar="C", help="checkpoint file or exported folder")
    parser.add_argument(
        "--columns", choices=list(COLUMNS), default="join", help="patches of one time step (default join)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="arithmetic (default float32)")
    parser.add_argument(
        "--batch-seconds", type=float, default=120.0, help="audio in one pass of the network (default 120)"
    )
    parser.add_argument(
        "--window-seconds", type=float, default=60.0, help="longer clips are embedded in windows (default 60)"
    )


def encoder_from(options: argparse.Namespace) -> AudioEncoder:
    """Load the encoder that the options describe; PlainError where checkpoint or device are not there."""
    try:
        device = torch.device(options.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PlainError(f"--device {options.device} cannot be used here: {str(error).splitlines()[0]}") from error
    return load_model(
        options.checkpoint,
        device=device,
        columns=options.columns,
        precision=options.precision,
        batch_seconds=options.batch_seconds,
        window_seconds=options.window_seconds,
    )


@contextmanager
def progress_bar(total: int, what: str, done: int = 0, unit: str = "clip") -> Iterator[Any]:
    """Show a bar on a terminal; it yields the function that is told how many more are done."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise PlainError('the progress is shown with tqdm: pip install "mae-ast-plugin[evaluation]"') from error
    with tqdm(total=total, initial=done, unit=unit, desc=what, disable=None) as bar:
        yield bar.update
