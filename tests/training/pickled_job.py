"""Runs one pickled job of a sweep as submitit does: ``pickled_job.py JOB.pkl [OVERRIDE ...]``."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path


def main() -> None:
    launcher, (overrides, *rest) = pickle.loads(Path(sys.argv[1]).read_bytes())
    returned = launcher([*overrides, *sys.argv[2:]], *rest)
    try:
        print(f"returned {returned.return_value}")
    except ValueError as error:  # what a submitting process would be handed
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
