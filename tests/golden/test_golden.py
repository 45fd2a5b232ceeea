"""Every SYSTEM/CASE folder under --golden-dir: outputs of the original programs, reproduced tensor by tensor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import dasheng_cases
import mae_ast_cases
import maskspec_cases
import msm_mae_cases
import ssast_cases
from case import Case

SYSTEMS: dict[str, Callable[[Case], str | None]] = {
    "dasheng": dasheng_cases.check,
    "mae_ast": mae_ast_cases.check,
    "maskspec": maskspec_cases.check,
    "msm_mae": msm_mae_cases.check,
    "ssast": ssast_cases.check,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_folder" in metafunc.fixturenames:
        root = Path(metafunc.config.getoption("--golden-dir"))
        folders = sorted(path for path in root.glob("*/*") if path.is_dir())
        metafunc.parametrize("case_folder", folders, ids=[f"{path.parent.name}/{path.name}" for path in folders])


def test_the_original_is_reproduced(case_folder: Path, record_property: Callable[[str, object], None]) -> None:
    case = Case(case_folder)
    if case.system not in SYSTEMS:
        pytest.skip(f"system {case.system} is not supported yet")
    pending = SYSTEMS[case.system](case)
    if pending is not None:
        pytest.skip(pending)
    record_property("golden_tensors", len(case.expected) - len(case.open_tensors))
    record_property("golden_difference", case.largest_difference)
    wrong = case.verdict()
    assert not wrong, "\n".join([f"{case_folder.name}: {len(wrong)} results differ from the original", *wrong])
