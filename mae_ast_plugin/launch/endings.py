"""What a run that fails says in the end: one sentence for whatever a person can do something about."""

from __future__ import annotations

import re

import torch
from torch import distributed

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.saving import MENDS, unwritable

AGAIN = "start the same command again to go on from the last checkpoint"
INTERRUPTED = 130  # what shells call a program ended by Ctrl-C

_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited unexpectedly)"
)
_PROCESS = re.compile(r"process (\d+) terminated with (?:signal (\w+)|exit code (\d+))")
_LOST = re.compile(r"connection (?:closed|reset|refused|was likely closed)|broken pipe|timed out|timeout|nccl", re.I)


def plain_sentence(error: BaseException) -> str | None:
    """The sentence for an error, also for one that a worker process raised and torch wrapped in a trace; None where
    only the trace will do.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory is used up; lower dataset.max_tokens or dataset.batch_size (in validation "
            "dataset.max_tokens_valid, dataset.batch_size_valid), or set model.checkpoint_activations=true, and "
            f"{AGAIN}"
        )
    return _own_sentence(error) or _of_workers(str(error)) or _of_processes(error) or _of_disks(error)


def _own_sentence(error: BaseException) -> str | None:
    lines = str(error).strip().splitlines()
    if isinstance(error, PlainError) and len(lines) == 1:
        return lines[0]
    for line in reversed(lines):
        kind, _, sentence = line.partition(": ")
        if kind.startswith("mae_ast_plugin.") and kind.endswith("Error"):
            return sentence
    return str(error) if isinstance(error, PlainError) else None


def _of_workers(text: str) -> str | None:
    found = _WORKER.search(text)
    if found is None:
        return None
    workers, signal = found.groups()
    if signal == "Bus error":
        return (
            f"process {workers}, which loads data, found no more shared memory (/dev/shm); enlarge it (docker run "
            f"--shm-size) or lower dataset.num_workers, and {AGAIN}"
        )
    return (
        f"process {workers}, which loads data, was killed{f' ({signal})' if signal else ''}, most often because the "
        f"machine's memory was used up; lower dataset.num_workers or ask for more memory, and {AGAIN}"
    )


def _of_processes(error: BaseException) -> str | None:
    """A process of the run that is gone: told by the one that started it, or by another that waited for it."""
    ended = _PROCESS.search(str(error))
    if ended is not None:
        return (
            f"process {ended[1]} of this run was ended ({ended[2] or f'status {ended[3]}'}), so all of it ends; {AGAIN}"
        )
    if not (distributed.is_available() and distributed.is_initialized() and isinstance(error, RuntimeError)):
        return None
    if not _LOST.search(str(error)):
        return None
    return (
        f"process {distributed.get_rank()} of {distributed.get_world_size()} lost another one, which has ended or "
        f"hangs and whose own output says why; {AGAIN}"
    )


def _of_disks(error: BaseException) -> str | None:
    cause = error if isinstance(error, OSError) else None
    if cause is None or cause.errno not in MENDS or not isinstance(cause.filename, str):
        return None
    return str(unwritable(cause, cause.filename, "so the run ends"))
