"""The command line: one sub-command per way of building a manifest.

Each sub-command is a module with ``add_parser``, which names its options and the function that runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mae_ast_plugin.errors import PlainError
from manifests import scan


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and give its exit code; a mistake of the user is one sentence and the code 2."""
    parser = argparse.ArgumentParser(prog="manifests", description="Build the lists of clips that training reads.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    scan.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except PlainError as error:
        print(f"manifests: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
