"""What a zip file holds: its audio members, stored or compressed, and the labels in the small files beside them.

Names follow WebDataset as in tars (``shards.py``). Reads the list of members and labels, never audio.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator

from mae_ast_plugin.audio.manifest import check_name
from manifests.shards import MAX_LABEL_BYTES, Contents, Member, contents_of, is_audio, may_be_label

ENCRYPTED = 1
MAC_FOLDER = "__MACOSX/"  # what macOS puts beside each file: names of audio, contents that are none


def read_zip(path: str, label_field: str) -> Contents:
    """List a zip file's clips and what is wrong in it; as `read_shard`."""
    problems: list[tuple[str, str]] = []
    return contents_of(_members(path, problems), problems, label_field)


def _members(path: str, problems: list[tuple[str, str]]) -> Iterator[tuple[Member, bytes | None]]:
    """Give every file in a zip, with its contents where it may hold a label."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename
                if info.is_dir() or name.startswith(MAC_FOLDER):
                    continue
                if reason := _problem_of(info):
                    problems.append((name, reason))
                else:
                    yield Member(name, name, None), _text_of(archive, info, problems)
    except (zipfile.BadZipFile, ValueError) as error:
        problems.append(("", f"is truncated or damaged ({error}), nothing in it can be reached: copy it again"))


def _problem_of(info: zipfile.ZipInfo) -> str | None:
    if not is_audio(info.filename):
        return None
    if info.flag_bits & ENCRYPTED:
        return "is encrypted: pack the zip file again without a password"
    if info.file_size == 0:
        return "is empty (0 bytes): leave it out"
    return check_name(info.filename)


def _text_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo, problems: list[tuple[str, str]]) -> bytes | None:
    if not may_be_label(info.filename):
        return None
    try:
        with archive.open(info) as handle:
            return handle.read(MAX_LABEL_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: a password, a method
        problems.append((info.filename, f"cannot be read ({error}), its clip has no label: pack the zip file again"))
        return b""
