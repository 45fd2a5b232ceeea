"""Files that hold named tensors and their configuration, opened as data and never as code.

Two containers: what ``torch.save`` wrote (fairseq's checkpoints), and a folder of ``model.safetensors`` and
``config.json``. What the tensors mean is told elsewhere.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mae_ast_plugin.errors import PlainError

TENSORS, CONFIG = "model.safetensors", "config.json"
# What published files hold beside tensors: records of options and paths, which do nothing when they are made.
PLAIN_RECORDS: list[Any] = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
# An old file of torch.save is a row of pickles; the fourth holds the objects.
NUM_PICKLES = 4
OF_TENSORS = ("torch.", "collections.")


class CheckpointError(PlainError):
    """A checkpoint file that cannot be used; the message begins with its path."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def read_container(path: str | Path, map_location: str = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a file written by torch.save as plain data; CheckpointError says why where that is impossible or unsafe."""
    if not Path(path).is_file():
        raise CheckpointError(path, "there is no such file")
    if Path(path).suffix == Path(TENSORS).suffix:
        raise CheckpointError(path, f"it holds tensors alone; give the folder that it and its {CONFIG} lie in")
    try:
        with torch.serialization.safe_globals(PLAIN_RECORDS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what comes of it is told below
            content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        what = _refused_object(error) or _first_object(Path(path))
        if what and what.startswith(OF_TENSORS):
            raise CheckpointError(
                path, "it is pickled in a protocol that torch.load refuses; save it again without pickle_protocol="
            ) from error
        if what:
            raise CheckpointError(
                path,
                f"it holds code, not only data ({what}), and is not opened; "
                "convert it to plain tensors where you trust its source",
            ) from error
        raise CheckpointError(path, "it is not a checkpoint, or it is damaged") from error
    except PermissionError as error:
        raise CheckpointError(path, f"it cannot be opened: {error.strerror}") from error
    except Exception as error:  # what damaged bytes make of a pickle fails in any way there is
        raise CheckpointError(
            path, "it is truncated or not a checkpoint; copy it again or take an older one"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(path, f"it holds a {type(content).__name__}, not the dictionary of a checkpoint")
    return content


def _refused_object(error: pickle.UnpicklingError) -> str | None:
    """What torch names where an object is none of those that it makes."""
    if "Weights only load failed" not in str(error) or "global" not in str(error).lower():
        return None
    named = (line.strip().rstrip(".") for line in str(error).splitlines() if "GLOBAL" in line)
    return next(named, "a Python object")


def _first_object(path: Path) -> str | None:
    """Name an object of a pickle that torch gives up before, such as one of protocol 4; None where it is damaged."""
    names: list[str] = []
    try:
        with path.open("rb") as file:
            pickles: IO[bytes] = file
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    pickles = io.BytesIO(archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl"))))
            pickles.seek(0)
            for _ in range(NUM_PICKLES):
                names += list(_objects(pickles))
    except Exception:  # as above: damaged bytes fail in any way; what was found in whole pickles stays
        pass
    return next((name for name in names if not name.startswith(OF_TENSORS)), next(iter(names), None))


def _objects(pickled: IO[bytes]) -> Iterator[str]:
    """Name the objects that one pickle asks for, without making any; ValueError where it is cut or none."""
    last: tuple[Any, Any] = (None, None)
    remembered: dict[Any, Any] = {}
    for operation, value, _ in pickletools.genops(pickled):
        match operation.name:
            case "GLOBAL" | "INST":
                yield str(value).replace(" ", ".")
            case "STACK_GLOBAL":  # made of the two strings before it
                yield f"{last[0]}.{last[1]}"
                last = (None, None)
            case "MEMOIZE":
                remembered[len(remembered)] = last[1]
            case "BINGET" | "LONG_BINGET":
                last = (last[1], remembered.get(value))
            case _:
                last = (last[1], value)


def read_folder(path: str | Path) -> dict[str, Any]:
    """Read a folder written by `write_folder`: its configuration, with the tensors under ``state``."""
    folder = Path(path)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise CheckpointError(
                path, f"this folder has no {name}, so it is no exported model; give a checkpoint file or such a folder"
            )
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(folder / CONFIG, f"it is not valid JSON ({error}); export the model again") from error
    except OSError as error:
        raise CheckpointError(folder / CONFIG, f"it cannot be opened: {error.strerror}") from error
    if not isinstance(content, dict):
        raise CheckpointError(folder / CONFIG, f"it holds a {type(content).__name__}, not a configuration")
    try:
        return {**content, "state": load_file(folder / TENSORS)}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(folder / TENSORS, f"it is truncated or damaged ({error}); export it again") from error


def write_folder(path: str | Path, content: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a configuration and named tensors into a folder; the configuration last, so that a cut one is not taken."""
    folder = Path(path)
    tensors, config = folder / f".{TENSORS}.tmp", folder / f".{CONFIG}.tmp"
    # copies, because tensors that share memory (a tied table) cannot stand in this format
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        # each replaced as a whole: whoever has read the old file still looks into it
        config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_file(copies, tensors)
        tensors.chmod(config.stat().st_mode)  # safetensors lets nobody else read it
        tensors.replace(folder / TENSORS)
        config.replace(folder / CONFIG)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"it cannot be written: {error}") from error
