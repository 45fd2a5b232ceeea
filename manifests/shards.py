"""What a tar shard holds: its audio members, where their bytes lie, and the labels in the small files beside them.

Names follow WebDataset: the path up to the first dot of the base name is the key of a clip, and what lies beside it has
the same key. Reads headers and labels, never audio, and only uncompressed tars: in others nothing can be reached alone.
``zips.py`` does the same for zip files.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mae_ast_plugin.audio.listing import EXTENSIONS
from mae_ast_plugin.errors import PlainError

AUDIO = frozenset(EXTENSIONS.split(","))
LABELS = ("json", "cls", "txt")
MAX_LABEL_BYTES = 2**20
BLOCK = 512
TRAILER_BYTES = 2**20  # looked through behind the end mark, where a tar has only padding
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # with members, without
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
}


class Member(NamedTuple):
    """An audio member: its name in the shard, what stands behind the shard in its row, and its label."""

    name: str
    place: str
    label: str | None


class Contents(NamedTuple):
    """The clips of a shard in their order, what is wrong in it as (member or "", reason), and how much is neither."""

    clips: list[Member]
    problems: list[tuple[str, str]]
    num_without_audio: int
    num_dotted: int


def check_shard(path: str) -> None:
    """Refuse what is neither uncompressed tar nor zip by its first bytes; PlainError says what it is and what to do.

    Readers know containers by the endings of their names.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(BLOCK)
    except OSError as error:
        raise PlainError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(ZIP):
        if not is_zip(path):
            raise PlainError(f"{path} is a zip file, and readers know it by its name: rename it to end in .zip")
        return
    if is_zip(path):
        raise PlainError(f"{path} does not begin as a zip file does: copy it again or leave it out")
    for magic, (kind, command) in COMPRESSED.items():
        if head.startswith(magic):
            raise PlainError(
                f"{path} is compressed with {kind}, so no clip in it can be reached alone: unpack it with `{command}`"
            )
    if not path.lower().endswith(".tar"):
        raise PlainError(f"{path} ends in neither .tar nor .zip: give shards, or folders of them")
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return
    except tarfile.HeaderError as error:
        raise PlainError(f"{path} is no tar ({error}): copy it again or leave it out") from error


def read_shard(path: str, label_field: str) -> Contents:
    """List a shard's clips; what is damaged or lost in it stands in the problems, and all clips before that are kept.

    ``label_field`` is the field of a ``.json`` that is the label. OSError where the file cannot be read.
    """
    problems: list[tuple[str, str]] = []
    return contents_of(_members(path, problems), problems, label_field)


def contents_of(
    members: Iterable[tuple[Member, bytes | None]], problems: list[tuple[str, str]], label_field: str
) -> Contents:
    """Sort the files of a shard, each with its contents where it may hold a label, into clips and labels."""
    clips: dict[str, Member] = {}
    texts: dict[str, dict[str, bytes]] = {}
    keys = set()
    for member, text in members:
        stem, _, ending = member.name.rpartition(".")
        keys.add(key_of(member.name))
        if text is not None:
            texts.setdefault(stem, {})[ending.lower()] = text
        elif is_audio(member.name):
            if member.name in clips:
                problems.append((member.name, "is replaced by a later member of the same name"))
            clips[member.name] = member
    labelled = [clip._replace(label=_label_of(clip.name, texts, label_field, problems)) for clip in clips.values()]
    with_audio = {key_of(name) for name in clips}
    num_dotted = sum(name.rpartition(".")[0] != key_of(name) for name in clips)
    return Contents(labelled, list(dict.fromkeys(problems)), len(keys - with_audio), num_dotted)


def is_zip(path: str) -> bool:
    """Tell zip files by their names, as readers do."""
    return path.lower().endswith(".zip")


def is_audio(name: str) -> bool:
    """Tell by its name whether a member is audio."""
    return name.rpartition(".")[2].lower() in AUDIO


def may_be_label(name: str) -> bool:
    """Tell by its name whether a member may hold a label."""
    return name.rpartition(".")[2].lower() in LABELS


def key_of(name: str) -> str:
    """Give WebDataset's key: the path up to the first dot of the base name (a dot in front belongs to the name)."""
    folder, slash, base = name.rpartition("/")
    dot = base.find(".", 1)
    return folder + slash + (base if dot < 0 else base[:dot])


def _members(path: str, problems: list[tuple[str, str]]) -> Iterator[tuple[Member, bytes | None]]:
    """Give every file in a shard, with its contents where it may hold a label."""
    num_bytes = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else every header of a large shard would be kept
                if reason := _problem_of(member, num_bytes):
                    problems.append((member.name, reason))
                elif member.isreg():
                    found = Member(member.name, f"{member.offset_data}:{member.size}", None)
                    yield found, _text_of(archive, member)
            if reason := _end_problem(path, archive.offset):
                problems.append(("", reason))
    except (tarfile.TarError, ValueError) as error:
        problems.append(("", f"is truncated or damaged ({error}), the members before are kept: copy it again"))


def _problem_of(member: tarfile.TarInfo, num_bytes: int) -> str | None:
    if not is_audio(member.name):
        return None
    if member.issparse():
        return "is stored with holes (sparse), so its bytes do not lie together: pack the shard again"
    if member.islnk() or member.issym():
        return f"is a link to {member.linkname!r}, not a file: pack the file itself"
    if member.isreg() and member.size == 0:
        return "is empty (0 bytes): leave it out"
    if member.isreg() and member.offset_data + member.size > num_bytes:
        return (
            f"is cut off, the shard ends {member.offset_data + member.size - num_bytes} bytes before it: copy it again"
        )
    return None


def _text_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if not may_be_label(member.name):
        return None
    handle = archive.extractfile(member)
    return handle.read(MAX_LABEL_BYTES) if handle else b""


def _end_problem(path: str, offset: int) -> str | None:
    """Say what is wrong at the place where the reading of headers ended: `tarfile` ends at a bad one silently."""
    with open(path, "rb") as handle:
        handle.seek(offset)
        block = handle.read(BLOCK)
        behind = handle.read(TRAILER_BYTES)
    if not block:
        return "has no end mark: if clips are missing it is cut between two members, copy it again"
    if len(block) < BLOCK:
        return f"is cut off at byte {offset + len(block)}, the members before are kept: copy it again"
    if block.strip(b"\0"):
        return f"is damaged at byte {offset}, the members before are kept and those behind are lost: copy it again"
    if behind.strip(b"\0"):
        return f"goes on behind its end mark at byte {offset}, as tars joined with cat do: unpack and pack it again"
    return None


def _label_of(name: str, texts: dict[str, dict[str, bytes]], field: str, problems: list[tuple[str, str]]) -> str | None:
    """Find the label beside a clip: of all that has its name, else of what has its key; .json first, .cls, .txt."""
    for stem in dict.fromkeys((name.rpartition(".")[0], key_of(name))):
        found = texts.get(stem, {})
        for ending in LABELS:
            if ending not in found:
                continue
            try:
                text = found[ending].decode("utf-8-sig")
                label = _field_of(text, field) if ending == "json" else text
            except ValueError as error:
                problems.append((f"{stem}.{ending}", f"holds no label ({error}), its clip has none: mend or remove it"))
                continue
            if label and (words := " ".join(label.split())):
                return words
    return None


def _field_of(text: str, field: str) -> str | None:
    """Give a field of a JSON object as a label; several labels are joined by commas. ValueError for what is none."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"is JSON of the type {type(found).__name__}, expected an object with fields")
    value: Any = found.get(field)
    labels = value if isinstance(value, list) else [value]
    if not all(label is None or isinstance(label, str | int | float) for label in labels):
        raise ValueError(f"the field {field!r} is neither text, nor a number, nor a list of them")
    return ",".join(str(label) for label in labels if label is not None)
