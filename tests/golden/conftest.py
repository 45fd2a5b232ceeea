"""Says after a run how much was compared with the original programs, and what was not."""

from __future__ import annotations

from typing import Any

import pytest


def _golden(reports: list[Any]) -> list[pytest.TestReport]:
    return [report for report in reports if "test_the_original_is_reproduced" in getattr(report, "nodeid", "")]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    stats = terminalreporter.stats
    checked = _golden(stats.get("passed", [])) + _golden(stats.get("failed", []))
    skipped = _golden(stats.get("skipped", []))
    if not checked and not skipped:
        return
    tensors = sum(value for report in checked for name, value in report.user_properties if name == "golden_tensors")
    terminalreporter.section("golden cases")
    terminalreporter.line(
        f"{len(checked)} cases checked, {tensors} tensors and values compared with the original programs"
    )
    for report in skipped:
        name = report.nodeid.split("[", 1)[-1].rstrip("]")
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        terminalreporter.line(f"not checked: {name}: {reason.removeprefix('Skipped: ')}")
