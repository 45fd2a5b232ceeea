"""What a run that fails says in the end: one sentence for whatever a person can do something about."""

from __future__ import annotations

import errno
import os
import re

import torch
from hydra.core.hydra_config import HydraConfig
from torch import distributed

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.saving import MENDS, unwritable

AGAIN = "start the same command again to go on from the last checkpoint"
INTERRUPTED = 130  # what shells call a program ended by Ctrl-C

_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited unexpectedly)"
)
_GPU_MEMORY = re.compile(
    r"(?:CUDA|HIP|CUDNN|NCCL|cublas|cufft)\w*[^\n]*out of memory|out of memory[^\n]*CUDA"
    r"|(?:CUBLAS|CUDNN|CUFFT|CUSOLVER|CUSPARSE|HIPBLAS|MIOPEN)\w*_ALLOC_FAILED",
    re.I,
)
_CPU_MEMORY = re.compile(
    r"DefaultCPUAllocator: (?:can't|not enough)|Caught MemoryError|^MemoryError|Cannot allocate memory|out of memory",
    re.I | re.M,
)
_OPEN_FILES = re.compile(r"too many open files|received \d+ items of ancdata", re.I)
_SYSTEM = re.compile(r"OSError: \[Errno (\d+)\]")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PROCESS = re.compile(r"process (\d+) terminated with (?:signal (\w+)|exit code (\d+))")
_LOST = re.compile(r"connection (?:closed|reset|refused|was likely closed)|broken pipe|timed out|timeout|nccl", re.I)


def plain_sentence(error: BaseException) -> str | None:
    """The sentence for an error, also for one that a worker process raised and torch wrapped in a trace; None where
    only the trace will do.
    """
    return (
        _own_sentence(error)
        or _of_memory(error)
        or _of_workers(str(error))
        or _of_files(error)
        or _of_processes(error)
        or _of_disks(error)
    )


def out_of_gpu_memory(error: BaseException) -> bool:
    """Whether the GPU's memory is used up; CUDA and its libraries say so in their own words, as RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _GPU_MEMORY.search(str(error)) is not None


def _own_sentence(error: BaseException) -> str | None:
    lines = str(error).strip().splitlines()
    if isinstance(error, PlainError) and len(lines) == 1:
        return lines[0]
    for line in reversed(lines):
        kind, _, sentence = line.partition(": ")
        if kind.startswith("mae_ast_plugin.") and kind.endswith("Error"):
            return sentence
    return str(error) if isinstance(error, PlainError) else None


def _of_memory(error: BaseException) -> str | None:
    if out_of_gpu_memory(error):
        return (
            "the GPU's memory is used up; lower dataset.max_tokens or dataset.batch_size (in validation "
            "dataset.max_tokens_valid, dataset.batch_size_valid), or set model.checkpoint_activations=true, and "
            f"{AGAIN}"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _CPU_MEMORY.search(str(error))):
        return (
            "the machine's memory is used up; lower dataset.num_workers or dataset.max_tokens, or ask for more memory, "
            f"and {AGAIN}"
        )
    return None


def _of_files(error: BaseException) -> str | None:
    """Too many open files, told by the system or by torch, whose workers hand batches over as open files."""
    if not isinstance(error, OSError | RuntimeError):
        return None
    told = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    if told or _OPEN_FILES.search(str(error)):
        return (
            "too many files are open at once; allow more (ulimit -n 65536, or LimitNOFILE, --ulimit of a container) or "
            f"lower dataset.num_workers, and {AGAIN}"
        )
    return None


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
    """A file that cannot be written; where the system does not say which, only for what a disk has no room for."""
    if isinstance(error, OSError) and error.errno in MENDS and isinstance(error.filename, str):
        return str(unwritable(error, error.filename, "so the run ends"))
    number = error.errno if isinstance(error, OSError) else _number_in(str(error))
    if number not in NO_ROOM:
        return None
    folder = HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else "the run's folder"
    return str(unwritable(OSError(number, os.strerror(number)), folder, "so the run ends"))


def _number_in(trace: str) -> int | None:
    """The system's number in the last line of a trace, in which torch wraps the error of a process it started."""
    found = _SYSTEM.match((trace.strip().splitlines() or [""])[-1])
    return int(found[1]) if found else None
