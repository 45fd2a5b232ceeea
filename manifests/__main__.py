"""The command line: one sub-command per way of building a manifest.

Each sub-command is a module with ``add_parser``, which names its options and the function that runs it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.programs import run_program
from manifests import (
    audioset,
    check,
    convert,
    doctor,
    esc50,
    fsd50k,
    hdf5,
    jobs,
    librispeech,
    merge,
    pack,
    scan,
    speechcommands,
    split,
    stats,
    tar,
)

MODULES = (
    *(scan, librispeech, audioset, esc50, speechcommands, fsd50k),
    *(tar, hdf5, pack, convert, merge, split),
    *(check, stats, doctor),
)
COMMANDS = {module.__name__.rpartition(".")[2]: module for module in MODULES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and give its exit code, 0 or what it says; a mistake of the user is one sentence and 2."""
    parser = argparse.ArgumentParser(
        prog="python -m manifests", description="Build the lists of clips that training reads."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        module.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except PlainError as error:
        print(f"manifests: {error}", file=sys.stderr)
    except BrokenPipeError:  # nobody reads the output any more, which run_program tells
        raise
    except OSError as error:  # reading clips has sentences of its own, this is a place that cannot be written
        # a full disk is found while writing, when no file is named
        place = error.filename or getattr(options, "out", None)
        print(f"manifests: {place}: {error.strerror}: choose another --out or mend it", file=sys.stderr)
    return 2


def run() -> int:
    """Run as a program: SIGTERM ends it as Ctrl-C does, with what is done kept and its processes gone."""
    jobs.raise_on_termination()
    try:
        return main()
    except KeyboardInterrupt as interrupt:
        jobs.end_processes()
        print(
            "manifests: interrupted; most commands go on where they stopped when they are given again", file=sys.stderr
        )
        return 128 + (signal.SIGTERM if isinstance(interrupt, jobs.Terminated) else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(run_program(run))
