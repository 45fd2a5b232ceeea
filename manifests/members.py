"""Clips inside containers: their rows are places by which nobody knows them, so what is wrong is said with a name."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from manifests.jobs import Journal
from manifests.order import place_order
from manifests.output import Clip, Findings, find_out, report_findings, write_splits


class Member(NamedTuple):
    """What a container says of a clip: its name and its label."""

    name: str
    label: str | None


def probe_members(
    root: str, members: Mapping[str, Member], findings: Findings, journal: Journal, options: argparse.Namespace
) -> dict[str, Clip]:
    """Probe the clips at the rows of ``members`` and report what could not be read; gives the others in order."""
    rows = sorted(members, key=place_order)
    find_out(root, rows, findings, jobs=options.jobs, journal=journal, label_of=lambda row: members[row].label)
    for row in findings.unreadable.keys() & members.keys():
        findings.unreadable[row] += f" ({members[row].name})"
    report_findings(Path(options.out), root, findings)
    return {row: findings.clips[row] for row in rows if row in findings.clips}


def write_members(root: str, clips: Mapping[str, Clip], options: argparse.Namespace) -> None:
    """Write the manifests of the splits that ``options`` ask for."""
    write_splits(Path(options.out), root, clips, valid=options.valid, test=options.test, seed=options.seed)
