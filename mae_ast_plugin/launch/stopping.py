"""Being asked to stop: SIGTERM and SIGUSR1 (Slurm's notice) let the run save its state and end well.

The handler only makes a note. The trainer looks at it once an update, together with the other processes, so that all
of them stop behind the same one.
"""

from __future__ import annotations

import multiprocessing.process
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A launcher passes on what the processes have already got; a second signal means business only after this [s].
SAME_REQUEST = 3.0


class Stopped(SystemExit):
    """The run was asked to stop, and has saved what it had: ends the process with status 0."""

    def __init__(self) -> None:
        super().__init__(0)


class _Requests:
    """What this process was asked for; one for the whole process, as signals are."""

    listening = False
    hooked = False
    first: tuple[int, float] | None = None  # the signal, and when it came

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note the first, end at once at a later one, pass both on to training processes."""
        now = time.monotonic()
        # not active_children(), which would clear away dead workers before the loader can tell of them
        for child in list(multiprocessing.process._children):  # type: ignore[attr-defined]
            if not child.daemon and child.is_alive():  # not a worker that loads data
                os.kill(child.pid, number)
        if self.first is None:
            self.first = (number, now)
        elif now - self.first[1] > SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_requests = _Requests()


def stop_requested() -> bool:
    """Whether this process was asked to stop."""
    return _requests.first is not None


def stop_signal() -> str:
    """Name the signal that asked for it, or another process's, where only that one was asked."""
    return signal.Signals(_requests.first[0]).name if _requests.first else "a signal to another process"


def nothing_to_save() -> NoReturn:
    """Say that the run ends before there was anything to keep, and end it."""
    print(_nothing(stop_signal()), flush=True)
    raise Stopped


def _nothing(name: str) -> str:
    return f"stopped by {name} before the first update: nothing to save yet; the same command starts again"


def _end(number: int, frame: FrameType | None) -> None:
    """End at once: an exception would come up within an import, or whatever else is being done, and might be caught."""
    os.write(1, f"{_nothing(signal.Signals(number).name)}\n".encode())
    os._exit(0)


def end_when_asked() -> None:
    """Let the signals end this process with status 0 until it listens: it is only being made ready."""
    if threading.current_thread() is threading.main_thread() and not _requests.listening:
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)


def ended_before_listening(name: str | None) -> bool:
    """Whether a training process that this one started was ended by what this one was asked, and passed on too soon."""
    return _requests.first is not None and name in {number.name for number in SIGNALS}


def listen() -> None:
    """Note the signals from now on, where nobody else has taken them (as hydra's submitit launcher has)."""
    if threading.current_thread() is not threading.main_thread() or _requests.listening:
        return
    _requests.listening = True
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, _end):
            signal.signal(number, _requests.note)
    if not _requests.hooked:  # cannot be taken back, so it asks whether anybody listens
        os.register_at_fork(after_in_child=_leave_to_parent)
        _requests.hooked = True


def stop_listening() -> None:
    """Give the signals back and forget what came."""
    for number in SIGNALS:
        if signal.getsignal(number) in (_requests.note, _end):
            signal.signal(number, signal.SIG_DFL)
    _requests.listening, _requests.first = False, None


@contextmanager
def listening() -> Iterator[None]:
    """Note the signals for a while."""
    listen()
    try:
        yield
    finally:
        stop_listening()


def _leave_to_parent() -> None:
    """In a forked process, a worker that loads data: only its parent may end it.

    Slurm signals every process of a job. A worker that followed would take the run with it before it can save.
    """
    if not _requests.listening:
        return
    stop_listening()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid not in (parent, 0):
        pass
    os._exit(0)
