"""``convert``: lists of SSAST (JSON), Dasheng (delimited text) and MSM-MAE (CSV of log-mels) to manifests, and back.

A manifest has lengths and rates, so on the way to one every clip is probed; interrupted, the same command goes on. The
length of a log-mel (``.npy``) is its number of frames. What the target cannot hold is said.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mae_ast_plugin.audio.features import FRAMES_PER_SECOND, is_features
from mae_ast_plugin.audio.manifest import check_name
from mae_ast_plugin.audio.places import container_of
from mae_ast_plugin.errors import PlainError
from manifests import dasheng_lists, jobs, msm_mae_lists, ssast_lists
from manifests.csv_lists import first_lines
from manifests.foreign_lists import Item, below, choose_root, manifest_items
from manifests.output import (
    UNREADABLE_OF_ONE,
    Clip,
    Findings,
    find_out,
    probing_journal,
    write_split,
    write_unreadable,
)

FORMATS = {"ssast": ssast_lists.FORMAT, "dasheng": dasheng_lists.FORMAT, "msm_mae": msm_mae_lists.FORMAT}
MANIFEST = "tsv"
ENDINGS = {".json": "ssast", ".csv": "msm_mae"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("convert", help="lists of other systems to manifests and back", description=__doc__)
    parser.add_argument("list", metavar="LIST", help="a manifest, or a list of SSAST, Dasheng or MSM-MAE")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    names = [MANIFEST, *FORMATS]
    parser.add_argument("--from", choices=names, dest="source", help="format of LIST (default: told by its contents)")
    parser.add_argument(
        "--to",
        choices=names,
        dest="target",
        help="format of FILE (default: by its ending; .tsv is a manifest, or Dasheng's list when LIST is one)",
    )
    parser.add_argument(
        "--root", metavar="DIR", help="folder of relative paths (default LIST's; of absolute paths the one they share)"
    )
    parser.add_argument(
        "--frame-rate", type=int, metavar="N", help=f"frames a second of log-mels (default {FRAMES_PER_SECOND})"
    )
    parser.add_argument("--classes", metavar="CSV", help="SSAST: its list of classes (index,mid,display_name)")
    parser.add_argument("--label", metavar="ID", help="to SSAST: label of clips that have none, as /m/09x0r")
    parser.add_argument("--filename-column", metavar="NAME", help="Dasheng: column of the paths (default filename)")
    parser.add_argument(
        "--label-column", metavar="NAME", help="Dasheng: column of the labels (default labels or label)"
    )
    jobs.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read, probe where a manifest is to be written, write and report; PlainError for what is wrong with the list."""
    jobs.check_jobs(options.jobs)
    listing, out = Path(options.list), Path(options.out)
    if not listing.is_file():
        raise PlainError(f"{listing} is not a file: give a manifest or a list of SSAST, Dasheng or MSM-MAE")
    source = options.source or _format_of(listing, options.filename_column or dasheng_lists.PATHS)
    target = options.target or _format_for(out, source)
    _check_options(options, source, target)
    items = list(manifest_items(listing) if source == MANIFEST else FORMATS[source].read(listing, options))
    if not items:
        raise PlainError(f"{listing} holds no clip: give a list with at least one")
    root = choose_root(options.root, listing, items)
    items = [item for item in items if options.shard.holds(below(root, item.path))]
    out.parent.mkdir(parents=True, exist_ok=True)
    if target == MANIFEST:
        _write_manifest(out, root, items, options)
    else:
        _write_list(out, root, items, options, target)


def _format_of(listing: Path, filename_column: str) -> str:
    """Tell the format of a list by its ending and first lines."""
    if listing.suffix.lower() == ".json":
        return "ssast"
    first, second = first_lines(listing, 2)
    if "\t" not in first and "\t" in second:
        return MANIFEST
    columns = [name.strip().strip('"') for name in first.replace("\t", ",").split(",")]
    if msm_mae_lists.PATHS in columns:
        return "msm_mae"
    if filename_column in columns:
        return "dasheng"
    raise PlainError(
        f"{listing} line 1: {first[:80]!r} is neither the root folder of a manifest nor a header with "
        f"{filename_column!r} (Dasheng) or {msm_mae_lists.PATHS!r} (MSM-MAE): give --from"
    )


def _format_for(out: Path, source: str) -> str:
    """Tell the format to write by the ending of the file."""
    if out.suffix.lower() == ".tsv":
        return "dasheng" if source == MANIFEST else MANIFEST
    if out.suffix.lower() in ENDINGS:
        return ENDINGS[out.suffix.lower()]
    raise PlainError(f"--out {out} does not tell the format by .tsv, .json or .csv: give --to")


def _check_options(options: argparse.Namespace, source: str, target: str) -> None:
    if source == target:
        raise PlainError(f"{options.list} is a list of the format {source} already: give another --to")
    if os.path.realpath(options.list) == os.path.realpath(options.out):
        raise PlainError(f"--out {options.out} is the list itself: give another file")
    if target == MANIFEST and Path(options.out).suffix != ".tsv":
        raise PlainError(f"--out {options.out}: the name of a manifest ends in .tsv")
    if options.frame_rate is not None and options.frame_rate < 1:
        raise PlainError(f"--frame-rate {options.frame_rate} is no rate: give frames a second, 1 or more")
    heeded = {name for format in (source, target) if format in FORMATS for name in FORMATS[format].options}
    heeded |= {"frame_rate"} if target == MANIFEST else set()
    heeded |= {"root"} if source != MANIFEST else set()
    for name in ("classes", "label", "filename_column", "label_column", "frame_rate", "root"):
        if getattr(options, name) is not None and name not in heeded:
            print(f"--{name.replace('_', '-')} has no effect from {source} to {target}")


def _write_list(out: Path, root: str, items: Sequence[Item], options: argparse.Namespace, target: str) -> None:
    """Write another system's list, with absolute paths."""
    placed = [item._replace(path=os.path.join(root, below(root, item.path))) for item in items]
    for item in placed:
        if container := container_of(item.path):
            raise PlainError(
                f"{options.list} {item.where}: {item.path} is a part of {container}, and {FORMATS[target].name} reads "
                "files: extract them and list those"
            )
    notes = FORMATS[target].write(out, root, placed, options)
    print("\n".join([f"{len(items)} clips in {out}", *notes]))


def _write_manifest(out: Path, root: str, items: Sequence[Item], options: argparse.Namespace) -> None:
    """Probe the clips and write those that can be read, in the order of the list."""
    names = [below(root, item.path) for item in items]
    findings = Findings()
    for name, item in zip(names, items, strict=True):
        if item.label and any(letter in item.label for letter in "\t\r\n"):
            raise PlainError(f"{options.list} {item.where}: the label has a TAB or a line break: rename it")
        if reason := check_name(name):
            findings.unreadable[name] = reason
    wanted = [name for name in dict.fromkeys(names) if name not in findings.unreadable]
    with probing_journal(out.with_name(f".{out.name}.journal"), ["convert", root], root) as journal:
        find_out(root, wanted, findings, jobs=options.jobs, journal=journal)
        path = write_unreadable(out.parent, findings.unreadable, out.stem + UNREADABLE_OF_ONE)
        print(f"{len(findings.unreadable)} unreadable (listed in {path})")
        if not findings.clips:
            raise PlainError(
                f"no clip of {options.list} can be read below {root}: see {path}, and give --root if they lie elsewhere"
            )
        write_split(out.parent, out.stem, root, _rows(names, items, findings, options.frame_rate or FRAMES_PER_SECOND))


def _rows(names: Sequence[str], items: Sequence[Item], findings: Findings, frame_rate: int) -> list[Clip]:
    """Give the rows of the clips that were found, features with their rate in frames a second."""
    rows = []
    for name, item in zip(names, items, strict=True):
        if clip := findings.clips.get(name):
            rate = frame_rate if is_features(name) else clip.sample_rate
            rows.append(clip._replace(label=item.label, sample_rate=rate))
    return rows
