"""``export``: a checkpoint as plain files: ``model.safetensors`` and ``config.json``, and ONNX where asked.

The folder holds the whole network, decoder included, and nothing that could run code; `load_model` reads it like the
checkpoint it came from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mae_ast_plugin.checkpoint import load_checkpoint, save_checkpoint
from mae_ast_plugin.encoder import COLUMNS, encoder_of
from mae_ast_plugin.errors import PlainError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("export", help="write a checkpoint as plain files", description=__doc__)
    parser.add_argument("checkpoint", metavar="C", help="checkpoint file or exported folder")
    parser.add_argument("out", metavar="OUT", help="folder to write, new or empty")
    parser.add_argument("--onnx", action="store_true", help="also model.onnx: waveform in, hidden states out")
    parser.add_argument(
        "--columns", choices=list(COLUMNS), default="join", help="patches of one time step, in the ONNX model"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the folder, read it back and compare; the same with ONNX."""
    checkpoint = load_checkpoint(options.checkpoint)
    encoder = encoder_of(checkpoint, columns=options.columns)  # before anything is written: it may not fit
    out = Path(options.out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise PlainError(f"{out} exists and is not empty; give a new folder")
    save_checkpoint(checkpoint, out)
    again = load_checkpoint(out)
    same = again.state.keys() == checkpoint.state.keys() and all(
        torch.equal(again.state[name], tensor) for name, tensor in checkpoint.state.items()
    )
    if not same or (again.model, again.task) != (checkpoint.model, checkpoint.task):
        raise PlainError(f"{out} does not read back as what was written; is the disk full or faulty?")
    print(f"{out}: model.safetensors and config.json, {len(again.state)} tensors, read back equal")
    if options.onnx:
        from mae_ast_plugin.onnx import export_checked  # its packages are an extra

        difference = export_checked(encoder, out / "model.onnx")
        print(f"{out / 'model.onnx'}: within {difference:.1e} of PyTorch")
