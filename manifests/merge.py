"""``merge``: join manifests, or the folders that several machines have written, into one.

Rows are sorted by name, so that the result depends on neither the order nor the number of parts. Names become relative
to the longest folder that all roots have in common. A clip that occurs twice is refused, or dropped when asked.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mae_ast_plugin.audio.manifest import write_atomically
from mae_ast_plugin.audio.reader import sample_rate_of
from mae_ast_plugin.errors import PlainError
from manifests import jobs
from manifests.order import place_order
from manifests.output import UNREADABLE_OF_ONE, Clip
from manifests.tsv import FINDINGS, Rows, is_manifest, is_unreadable, read_rows, read_split, write_rows


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("merge", help="join manifests or folders of them", description=__doc__)
    parser.add_argument("parts", nargs="+", metavar="PART", help="manifests (.tsv), or folders of them")
    parser.add_argument("--out", required=True, help="the manifest to write, or the folder where the parts are folders")
    parser.add_argument("--drop-duplicates", action="store_true", help="keep the first of rows with the same name")
    parser.add_argument("--keep-order", action="store_true", help="leave rows in the order of the parts")
    parser.add_argument("--probe", action="store_true", help="open the clips of parts without .rates to add them")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes of --probe (default all cores)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Join and report; PlainError where the parts do not fit together."""
    jobs.check_jobs(options.jobs)
    places = [os.path.realpath(part) for part in options.parts]
    if twice := [part for number, part in enumerate(options.parts) if places[number] in places[:number]]:
        raise PlainError(f"{twice[0]} is given twice: leave one out")
    folders = [part for part in options.parts if os.path.isdir(part)]
    if not folders:
        if not options.out.endswith(".tsv"):
            raise PlainError(f"--out {options.out} must end in .tsv, because the parts are manifests")
        _merge_manifests(options)
        return
    if len(folders) < len(options.parts):
        other = next(part for part in options.parts if part not in folders)
        raise PlainError(f"{folders[0]} is a folder and {other} is none: give manifests only, or folders only")
    if options.out.endswith(".tsv"):
        raise PlainError(f"--out {options.out} must be a folder, because the parts are folders")
    _merge_folders(folders, options)


def _merge_manifests(options: argparse.Namespace) -> None:
    """Join manifests, and the lists of what could not be read where each belongs to one of them alone."""
    parts = {part: read_rows(part) for part in options.parts}
    joined = _join(parts, options)
    unreadable: dict[str, set[bytes]] = {}
    out = Path(options.out)
    for part, rows in parts.items():
        path = Path(part).with_suffix(UNREADABLE_OF_ONE)
        if path.exists():
            lines = _lines_below(path, _below(joined.root, rows.root))
            unreadable.setdefault(out.with_suffix(UNREADABLE_OF_ONE).name, set()).update(lines)
    write_rows(out, joined)
    _write_unreadable(out.parent, unreadable)


def _merge_folders(folders: Sequence[str], options: argparse.Namespace) -> None:
    """Join manifests of the same file name, and the lists of what could not be read."""
    parts = {folder: _manifests_in(folder) for folder in folders}
    root = _common_root(rows.root for manifests in parts.values() for rows in manifests.values())
    joined = {}
    for name in dict.fromkeys(name for manifests in parts.values() for name in manifests):
        having = {os.path.join(folder, name): found[name] for folder, found in parts.items() if name in found}
        joined[name] = _join(having, options, root)
        if len(having) < len(folders):
            print(f"{name}: only {len(having)} of {len(folders)} folders have it")
    unreadable: dict[str, set[bytes]] = {}
    for folder, manifests in parts.items():
        prefix = _below(root, next(iter(manifests.values())).root)
        for name in os.listdir(folder):
            if is_unreadable(name):
                unreadable.setdefault(name, set()).update(_lines_below(Path(folder, name), prefix))
            elif name == FINDINGS:
                print(f"{os.path.join(folder, name)} is left out, its line numbers hold no longer: check again")
    out = Path(options.out)
    for name, rows in joined.items():
        write_rows(out / name, rows)
    _write_unreadable(out, unreadable)


def _manifests_in(folder: str) -> dict[str, Rows]:
    names = sorted(os.listdir(folder))
    for name in names:
        if name.startswith(".") and name.endswith((".journal", ".plan")):
            raise PlainError(f"{folder} holds unfinished work ({name}): give its command again and let it end")
    found = {name: read_split(os.path.join(folder, name)) for name in names if is_manifest(name)}
    if not found:
        raise PlainError(f"{folder} holds no manifest (.tsv): check the folder")
    return found


def _lines_below(path: Path, prefix: str) -> list[bytes]:
    """Read a list of what could not be read, names relative to the common root."""
    return [os.path.join(os.fsencode(prefix), line) for line in path.read_bytes().splitlines(keepends=True)]


def _write_unreadable(out: Path, unreadable: Mapping[str, set[bytes]]) -> None:
    for name, lines in sorted(unreadable.items()):
        write_atomically(out / name, sorted(lines))
        print(f"{len(lines)} unreadable (listed in {out / name})")


def _join(parts: Mapping[str, Rows], options: argparse.Namespace, root: str | None = None) -> Rows:
    """Join parts (by path) into one; PlainError for duplicates and for rates that only some have."""
    parts = _with_rates(parts, options)
    root = root or _common_root(rows.root for rows in parts.values())
    clips: dict[str, Clip] = {}
    source: dict[str, str] = {}
    num_dropped = num_different = 0
    for path, rows in parts.items():
        prefix = _below(root, rows.root)
        for clip in jobs.progress(rows.clips, f"joining {os.path.basename(path)}", "row"):
            clip = clip._replace(name=os.path.join(prefix, clip.name))
            first = clips.setdefault(clip.name, clip)
            if first is clip:
                source[clip.name] = path
            elif options.drop_duplicates:
                num_dropped += 1
                num_different += first != clip
            else:
                raise PlainError(
                    f"{clip.name} is in {source[clip.name]} and again in {path}: remove it from one of them, "
                    "or give --drop-duplicates"
                )
    if num_dropped:
        print(f"{num_dropped} duplicates dropped, {num_different} of them with another length, rate or label")
    order = list(clips) if options.keep_order else sorted(clips, key=place_order)
    return Rows(root, [clips[name] for name in order])


def _with_rates(parts: Mapping[str, Rows], options: argparse.Namespace) -> Mapping[str, Rows]:
    """Check that all parts or none have rates; with ``--probe`` the rates that lack are read from the clips."""
    without = [path for path, rows in parts.items() if not rows.has_rates]
    if options.probe:
        return {path: _probed(rows, options.jobs) if path in without else rows for path, rows in parts.items()}
    filled = [path for path, rows in parts.items() if rows.clips and rows.has_rates]
    if without and filled:
        raise PlainError(
            f"{without[0]} has no .rates beside it and {filled[0]} has: give --probe to read the rates from the clips"
        )
    return parts


def _probed(rows: Rows, num_jobs: int) -> Rows:
    names = [clip.name for clip in rows.clips]
    rates = dict(jobs.each(partial(_rate_of, rows.root), names, jobs=num_jobs, what="reading rates"))
    return rows._replace(clips=[clip._replace(sample_rate=rates[clip.name]) for clip in rows.clips])


def _rate_of(root: str, name: str) -> int:
    return sample_rate_of(os.path.join(root, name))


def _common_root(roots: Iterable[str]) -> str:
    return os.path.commonpath(list(roots))


def _below(root: str, folder: str) -> str:
    """Give the path from the common root to a folder in it; "" for the root itself."""
    below = os.path.relpath(folder, root)
    return "" if below == os.curdir else below
