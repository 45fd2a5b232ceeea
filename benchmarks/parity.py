"""How close to the originals? A table of every golden case: ``python benchmarks/parity.py --golden-dir DIR``.

Writes ``docs/parity.md``: tensors and values compared in each case, and the largest difference of them. The same checks
as ``pytest tests/golden``, which fails where a difference is larger than the case allows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "golden"))
sys.path.insert(0, str(REPOSITORY))

HEAD = """# How close to the originals

Made by `python benchmarks/parity.py`: outputs of the original programs on tiny networks, and ours from the same
checkpoints and inputs. "Compared" counts tensors and values; "largest difference" is over all tensors, as a share of
the largest value in the tensor (gradients that are zero but for rounding make it look large). What a case allows
stands in the case. Torch {torch}.

| system | case | compared | largest difference |
|---|---|---|---|
"""


def row(folder: Path) -> str:
    """Check a case and describe it in a row of the table."""
    from case import Case
    from test_golden import SYSTEMS

    case = Case(folder)
    name = f"| {case.system} | {folder.name} |"
    if case.system not in SYSTEMS:
        return f"{name} | not supported |"
    scalars = len(case.open_scalars)
    pending = SYSTEMS[case.system](case)
    if pending is not None:
        return f"{name} | waits: {pending} |"
    if wrong := case.verdict():
        return f"{name} | **{len(wrong)} wrong**, first: {wrong[0]} |"
    compared = len(case.expected) - len(case.open_tensors) + scalars - len(case.open_scalars)
    return f"{name} {compared} | {case.largest_difference:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden-dir", type=Path, default=REPOSITORY.parent / "shared" / "golden")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "parity.md")
    options = parser.parse_args()
    folders = sorted(path for path in options.golden_dir.glob("*/*") if path.is_dir())
    if not folders:
        raise SystemExit(f"{options.golden_dir} holds no SYSTEM/CASE folders")
    rows = [row(folder) for folder in folders]
    options.out.write_text(HEAD.format(torch=torch.__version__) + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(rows)} cases")


if __name__ == "__main__":
    main()
