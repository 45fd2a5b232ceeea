"""SSAST's list of clips: JSON with a path and label ids per clip, and a CSV that gives every id its number.

The paths are absolute or relative to wherever SSAST is started. Its loader refuses a clip without a label, also in
pretraining, where the published list gives every clip the id of "Speech" (/m/09x0r).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mae_ast_plugin.audio.manifest import write_atomically
from mae_ast_plugin.errors import PlainError
from manifests.csv_lists import format_row, read_columns
from manifests.foreign_lists import Item, ListFormat

CLASS_COLUMNS = ("index", "mid", "display_name")


def read(path: Path, options: argparse.Namespace) -> Iterator[Item]:
    """Give the clips of a JSON list; PlainError for what it should not hold, and for a label not in ``--classes``."""
    known = _read_classes(options.classes) if options.classes else None
    for number, entry in enumerate(_entries(path), start=1):
        item = _item(path, f"item {number}", entry)
        _check_known(path, item, known, options.classes)
        yield item


def write(path: Path, root: str, items: Sequence[Item], options: argparse.Namespace) -> list[str]:
    """Write the JSON, and the CSV of the classes beside it unless ``--classes`` names one."""
    known = _read_classes(options.classes) if options.classes else None
    labelled = [item if item.label else item._replace(label=options.label) for item in items]
    for item in labelled:
        if not item.label:
            raise PlainError(
                f"{options.list} {item.where} has no label, and SSAST reads no clip without: give --label ID for all "
                "that have none, as /m/09x0r"
            )
        _check_known(options.list, item, known, options.classes)
    left_out = ["lengths and rates are not in it, SSAST's loader finds them out"]
    if known is None:
        classes = path.with_name(f"{path.stem}_labels.csv")
        labels = sorted({label for item in labelled for label in _labels_of(item)})
        write_atomically(classes, map(format_row, [CLASS_COLUMNS, *((str(n), x, x) for n, x in enumerate(labels))]))
        left_out.append(f"its {len(labels)} classes are in {classes}; give that with --classes for your other splits")
    write_atomically(path, _json_lines(labelled))
    return left_out


def _entries(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise PlainError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise PlainError(f"{path} line {error.lineno}: is no JSON ({error.msg}): write it again") from error
    except UnicodeDecodeError as error:
        raise PlainError(f"{path} is no text in UTF-8 and so no JSON: write it again") from error
    entries = content.get("data") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise PlainError(f'{path} is no list of SSAST: expected {{"data": [{{"wav": PATH, "labels": IDS}}, ...]}}')
    return entries


def _item(path: Path, where: str, entry: Any) -> Item:
    wav = entry.get("wav") if isinstance(entry, dict) else None
    if not isinstance(wav, str) or not wav:
        raise PlainError(f'{path} {where} has no path: expected {{"wav": PATH, "labels": IDS}}')
    labels = entry.get("labels")
    if labels is not None and not isinstance(labels, str):
        raise PlainError(f"{path} {where}: its labels are {labels!r}: write one text with commas between the ids")
    return Item(where, wav, labels or None)


def _read_classes(path: str) -> set[str]:
    return {label for _, (_, label, _) in read_columns(Path(path), CLASS_COLUMNS)}


def _check_known(path: Path | str, item: Item, known: set[str] | None, classes: str | None) -> None:
    for label in _labels_of(item):
        if known is not None and label not in known:
            raise PlainError(f"{path} {item.where}: the label {label!r} is not in {classes}: add it or mend the label")


def _labels_of(item: Item) -> list[str]:
    return item.label.split(",") if item.label else []


def _json_lines(items: Sequence[Item]) -> Iterator[bytes]:
    yield b'{"data": ['
    for number, item in enumerate(items):
        entry = json.dumps({"wav": item.path, "labels": item.label})
        yield (",\n" if number else "\n").encode() + entry.encode()
    yield b"\n]}\n"


FORMAT = ListFormat("SSAST", read, write, ("classes", "label"))
