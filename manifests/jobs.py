"""Work on many items: in processes, with a progress bar, going on after a stop, divisible among machines.

A command names a function and its items; results come in any order, so whoever writes them orders them. What was done
before a stop is in a journal beside the output, which the same command reads when it is given again. Knows nothing of
audio.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TypeVar

from tqdm import tqdm

from mae_ast_plugin.errors import PlainError

ITEMS_PER_TASK = 64
TASKS_AHEAD = 4  # per process: enough to keep them busy, few enough for millions of items


Item = TypeVar("Item")


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

    ``of`` says what the results depend on (folder, options); a journal of other work is begun anew. ``version`` (which
    can be pickled) tells in which state an item's files are, as plain data: a result of another state is not used. A
    result that is not ``kept`` (a file that could not be read) is tried again. Used by one process at a time, and left
    when the output is written: what fails before that leaves it there. One that ``stays`` is not removed, so that the
    same work is never done twice.
    """

    def __init__(self, path: Path, of: Any, stays: bool = False, version: Callable[[str], Any] | None = None) -> None:
        self.version = version
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
                for line in progress(iter(handle.readline, b""), "reading what is done", "line"):
                    if not line.endswith(b"\n"):  # a stop in the middle of a line
                        break
                    name, result, *version = json.loads(line)
                    if self.version is None or version == [self.version(name)]:
                        self.done[name] = result
                    end += len(line)
                handle.truncate(end)
        except FileNotFoundError:
            return

    def add(self, results: Iterable[tuple[Any, ...]]) -> None:
        """Note (item, result), or (item, result, version) where the journal has versions."""
        self._file.writelines(json.dumps(result) + "\n" for result in results)
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if kind is None and not self._stays:
            self._path.unlink(missing_ok=True)


def progress(items: Iterable[Item], what: str, unit: str) -> Iterable[Item]:
    """Give the items with a progress bar on a terminal; for work that one process does."""
    return tqdm(items, unit=unit, desc=what, disable=None)


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
    version = journal.version if journal else None
    left = [item for item in items if item not in done] if done else items
    with tqdm(total=len(items), initial=len(items) - len(left), unit=unit, desc=what, disable=None) as bar:
        if done:
            yield from ((item, done[item]) for item in items if item in done)
        work = partial(_with_version, function, version)
        for found in _in_processes(work, left, jobs, per_task) if jobs > 1 else _here(work, left):
            if journal:
                journal.add((item, *result) for item, result in found if kept(result[0]))
            yield from ((item, result[0]) for item, result in found)
            bar.update(len(found))


def _with_version(
    function: Callable[[str], Any], version: Callable[[str], Any] | None, item: str
) -> tuple[Any] | tuple[Any, Any]:
    """Give the result, and where it is asked for the version of before: what changes meanwhile is done again."""
    if version is None:
        return (function(item),)
    before = version(item)
    return function(item), before


def _here(work: Callable[[str], Any], items: Sequence[str]) -> Iterator[list[tuple[str, Any]]]:
    for item in items:
        yield [(item, work(item))]


def _in_processes(
    work: Callable[[str], Any], items: Sequence[str], jobs: int, per_task: int
) -> Iterator[list[tuple[str, Any]]]:
    size = max(1, min(per_task, len(items) // (jobs * TASKS_AHEAD)))
    tasks = iter([items[begin : begin + size] for begin in range(0, len(items), size)])
    running: dict[Future[list[Any]], Sequence[str]] = {}
    with ProcessPoolExecutor(jobs, initializer=_begin_process) as pool:
        try:
            while True:
                for task in islice(tasks, jobs * TASKS_AHEAD - len(running)):
                    running[pool.submit(_many, work, task)] = task
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
        except BaseException:  # an interrupt, or an error of whom the results are for: what runs is of no use
            end_processes()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _many(work: Callable[[str], Any], items: Sequence[str]) -> list[Any]:
    return [work(item) for item in items]


# ------------------------------------------------------------------------------------------------ the end of processes


class Terminated(KeyboardInterrupt):
    """The system or a scheduler asks to end (SIGTERM): to be handled as an interrupt."""


def raise_on_termination() -> None:
    """Make SIGTERM an exception of the main thread, so that it ends as an interrupt does."""

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, end)


def end_processes() -> None:
    """End the processes that work for this one; whatever they are at is lost."""
    for process in multiprocessing.active_children():
        process.terminate()


def _begin_process() -> None:
    """Leave interrupts to the parent, which ends its processes, and end with it where it has no time for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # returns also where the parent was killed
    os._exit(1)
