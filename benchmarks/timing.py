"""Time two programs side by side in one run: the machine's noise hits both alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 5


def set_threads(num_threads: int = 2) -> None:
    """Use ``num_threads`` threads, and say on what machine."""
    torch.set_num_threads(num_threads)
    print(f"{platform.machine()}, {num_threads} threads, torch {torch.__version__}, Python {platform.python_version()}")


def seconds_of(work: Callable[[], object], calls: int = 1) -> float:
    """Wall-clock seconds of one call, averaged over ``calls``."""
    begin = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - begin) / calls


def compare(
    what: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    peer: str,
    target: float,
    calls: int = 1,
    repeats: int = REPEATS,
) -> float:
    """Run both alternately after a warm-up, print the medians of ``repeats`` runs, return how many times faster ours
    is.

    Work of less than some milliseconds is timed over several ``calls`` in a row, on both sides.
    """
    ours(), theirs()
    pairs = [(seconds_of(ours, calls), seconds_of(theirs, calls)) for _ in range(repeats)]
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = other / mine
    both = f"ours {1e3 * mine:.1f} ms, {peer} {1e3 * other:.1f} ms"
    print(f"{what}: {both}, ratio {ratio:.2f} (wanted: {target} or more)", flush=True)
    return ratio
