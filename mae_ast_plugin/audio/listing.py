"""What clips a person means: the audio files below a folder, the rows of a manifest, or files by name.

Parts of containers (``places.py``) are named by a manifest, or one by one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mae_ast_plugin.audio.manifest import Manifest, check_name
from mae_ast_plugin.audio.places import container_of
from mae_ast_plugin.errors import PlainError

EXTENSIONS = "wav,flac,ogg,oga,opus,mp3,m4a,mp4,aac,mkv,mka,webm,sph,aif,aiff,aifc,au,caf,w64"


class Listed(NamedTuple):
    """A clip to be read: the name it is known by (relative to what was listed), its path, its label if any."""

    name: str
    path: str
    label: str | None


def list_clips(inputs: Sequence[str | os.PathLike[str]]) -> list[Listed]:
    """List the clips of files, folders (by the endings of names) and manifests (``.tsv``), as they were given.

    Raises PlainError for an input that does not exist or in which nothing is found, ManifestError as `Manifest.load`.
    """
    clips: list[Listed] = []
    for given in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        found = list(_clips_of(Path(given)))
        if not found:
            raise PlainError(f"{given} holds no file that ends in {EXTENSIONS}: check the folder, or give a manifest")
        clips += found
    if not clips:
        raise PlainError("there is nothing to read; give audio files, a folder or a manifest (.tsv)")
    return clips


def _clips_of(path: Path) -> Iterator[Listed]:
    if path.is_dir():
        endings = tuple(f".{ending}" for ending in EXTENSIONS.split(","))
        unreadable: dict[str, str] = {}  # listed too: whoever reads them will say why it cannot
        names = [*find_files(str(path), endings, unreadable), *unreadable]
        yield from (Listed(name, str(path / name), None) for name in names)
    elif not os.path.exists(container_of(path) or path):
        raise PlainError(f"{path} does not exist: correct the path")
    elif path.suffix.lower() == ".tsv":
        manifest = Manifest.load(path)
        for row in manifest:
            yield Listed(os.path.relpath(row.path, manifest.root), row.path, row.label)
    else:
        yield Listed(str(path), str(path), None)


def find_files(root: str, extensions: tuple[str, ...], unreadable: dict[str, str]) -> Iterator[str]:
    """Give the relative paths of all files with one of the endings; what cannot be listed goes to ``unreadable``.

    Links are followed. A folder that can be reached on several ways is entered once, by its real place where that lies
    below ``root``, so that loops end and no clip is listed twice.
    """
    folders, linked, entered = deque([""]), deque[str](), set[tuple[int, int]]()
    while folders or linked:
        folder = folders.popleft() if folders else linked.popleft()
        try:
            status = os.stat(os.path.join(root, folder))
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(root, folder)) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            unreadable[folder or "."] = f"the folder cannot be listed: {error.strerror}"
            continue
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if os.path.isdir(entry.path):
                (linked if entry.is_symlink() else folders).append(name)
            elif entry.name.lower().endswith(extensions):
                if reason := check_name(name) or _file_problem(entry.path):
                    unreadable[name] = reason
                else:
                    yield name


def _file_problem(path: str) -> str | None:
    if os.path.isfile(path):
        return None
    return "is a link that leads nowhere" if os.path.islink(path) else "is not a regular file"
