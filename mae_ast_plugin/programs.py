"""How every program here ends where nobody reads its output any more, as in ``python -m manifests stats M | head``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def run_program(main: Callable[[], int]) -> int | str | None:
    """Run ``main`` and give its exit status, or that of a program ended by SIGPIPE where its reader is gone."""
    try:
        try:
            status: int | str | None = main()
        except SystemExit as end:  # argparse's, which has written its help
            status = end.code
        print(end="", flush=True)  # here, for the interpreter would fail on it after everything
        return status
    except BrokenPipeError:
        # what is left to write must go somewhere when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
