"""Work on many items: in processes, with a progress bar, going on after a stop, divisible among machines.

A command names a function and its items; results come in any order, so whoever writes them orders them. What was done
before a stop is in a journal beside the output, which the same command reads when it is given again. Knows nothing of
audio.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tqdm import tqdm

from mae_ast_plugin.errors import PlainError

ITEMS_PER_TASK = 64
TASKS_AHEAD = 4  # per process: enough to keep them busy, few enough for millions of items


class Share(NamedTuple):
    """The part of the work that one of several machines does: ``number`` of ``total``, from 1."""

    number: int
    total: int

    def holds(self, name: str) -> bool:
        """Tell whether an item is this machine's, by its name alone: all machines agree, also when items are added."""
        if self.total == 1:
            return True
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8, person=b"share").digest()
        return int.from_bytes(digest, "big") % self.total == self.number - 1


def share(text: str) -> Share:
    """Read ``I/N``; for argparse."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not I/N with I from 1 to N, as 3/8 for the third of eight machines"
        )
    return Share(int(number), int(count))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs`` and ``--shard``, which every command that works on many items has."""
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes (default all cores)")
    parser.add_argument(
        "--shard",
        type=share,
        default=Share(1, 1),
        metavar="I/N",
        help="do the I-th of N parts, one per machine, each with its own --out; `merge` joins them (default 1/1)",
    )


def check_jobs(jobs: int) -> None:
    """Refuse a number of processes below one."""
    if jobs < 1:
        raise PlainError(f"--jobs {jobs} is too few: give 1 or more")


class Journal:
    """Results that are already there, one line of JSON each, in a file that is removed when the work is complete.

    ``of`` says what the results depend on (folder, options); a journal of other work is begun anew. A result that is
    not ``kept`` (a file that could not be read) is tried again. Used by one process at a time. One that ``stays`` is
    not removed, so that the same work is never done twice.
    """

    def __init__(self, path: Path, of: Any, stays: bool = False) -> None:
        self._path, self._stays = path, stays
        self._head = json.dumps(of, sort_keys=True) + "\n"
        self.done: dict[str, Any] = {}
        self._read()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a" if self.done else "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        if not self.done:
            self._file.write(self._head)
            self._file.flush()

    def _read(self) -> None:
        try:
            with open(self._path, "rb+") as handle:
                if handle.readline().decode("utf-8", "replace") != self._head:
                    return
                end = handle.tell()
                for line in handle:
                    if not line.endswith(b"\n"):  # a stop in the middle of a line
                        break
                    name, result = json.loads(line)
                    self.done[name] = result
                    end += len(line)
                handle.truncate(end)
        except FileNotFoundError:
            return

    def add(self, results: Iterable[tuple[str, Any]]) -> None:
        self._file.writelines(json.dumps(list(pair)) + "\n" for pair in results)
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if kind is None and not self._stays:
            self._path.unlink(missing_ok=True)


def each(
    function: Callable[[str], Any],
    items: Sequence[str],
    *,
    jobs: int,
    what: str,
    journal: Journal | None = None,
    kept: Callable[[Any], bool] = lambda result: True,
    unit: str = "file",
    per_task: int = ITEMS_PER_TASK,
) -> Iterator[tuple[str, Any]]:
    """Give every item with ``function(item)``, in any order; what a journal holds is not computed again.

    ``function`` must be picklable and its results plain data. ``what`` stands before the progress bar,
    which counts in ``unit``; a process is handed at most ``per_task`` items at a time, fewer where each takes long.
    Raises PlainError where a process dies, naming an item near the place.
    """
    done = journal.done if journal else {}
    left = [item for item in items if item not in done] if done else items
    with tqdm(total=len(items), initial=len(items) - len(left), unit=unit, desc=what, disable=None) as progress:
        if done:
            yield from ((item, done[item]) for item in items if item in done)
        for results in _in_processes(function, left, jobs, per_task) if jobs > 1 else _here(function, left):
            if journal:
                journal.add(pair for pair in results if kept(pair[1]))
            yield from results
            progress.update(len(results))


def _here(function: Callable[[str], Any], items: Sequence[str]) -> Iterator[list[tuple[str, Any]]]:
    for item in items:
        yield [(item, function(item))]


def _in_processes(
    function: Callable[[str], Any], items: Sequence[str], jobs: int, per_task: int
) -> Iterator[list[tuple[str, Any]]]:
    size = max(1, min(per_task, len(items) // (jobs * TASKS_AHEAD)))
    tasks = iter([items[begin : begin + size] for begin in range(0, len(items), size)])
    running: dict[Future[list[Any]], Sequence[str]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        try:
            while True:
                for task in islice(tasks, jobs * TASKS_AHEAD - len(running)):
                    running[pool.submit(_many, function, task)] = task
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield list(zip(running[future], future.result(), strict=True))
                    del running[future]
        except BrokenProcessPool as error:
            near = min(task[0] for task in running.values())
            raise PlainError(
                f"a process died (a decoder crashed or memory ran out), perhaps near {near!r}: "
                "find the file with --jobs 1"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _many(function: Callable[[str], Any], items: Sequence[str]) -> list[Any]:
    return [function(item) for item in items]
