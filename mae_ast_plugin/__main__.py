"""The command line of a checkpoint: ``python -m mae_ast_plugin COMMAND``.

Each command is a module with ``add_parser``, which names its options and the function that runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mae_ast_plugin.commands import embed, evaluate, export, info, statistics
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.programs import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code; a mistake of the user is one sentence and the code 2."""
    parser = argparse.ArgumentParser(prog="mae_ast_plugin", description="Use a pretrained checkpoint.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (embed, info, export, evaluate, statistics):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except PlainError as error:
        print(f"mae_ast_plugin: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_program(main))
