"""Parts of containers as binary files: members of tar and zip files, rows of HDF5 files.

A small part is read at once, of a large one what its decoder asks for. All errors are ContainerError or OSError.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

from mae_ast_plugin.audio.pool import CONTAINERS, ContainerError, OpenFile, Window
from mae_ast_plugin.errors import PlainError

# Up to here one read of the whole is as fast as the several that a decoder asks for, and of a network's file system
# faster; beyond, a crop of ten seconds would pay for what it does not need (measured on FLAC and WAV, 0.02 to 3 MB).
WHOLE_BYTES = 2**20
TAR_BLOCK = 512
TAR_PLAIN_BYTES = 8**11  # what the size field of a tar header can say; of larger members it says nothing to rely on
ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")
ZIP_ENCRYPTED = 1
HDF5_DATASET = "mp3"

Handle = io.RawIOBase | io.BytesIO


def open_span(path: str, offset: int, num_bytes: int) -> Handle:
    """Open the bytes of a file that lie at an offset; in a ``.tar`` these must be those of a member."""
    file = CONTAINERS.get(OpenFile, path)
    if num_bytes == 0:
        raise ContainerError("has a length of 0 bytes in its name: leave it out")
    if path.lower().endswith(".tar"):
        _check_tar_member(file, offset, num_bytes)
    return _part(file, offset, num_bytes)


def _part(file: OpenFile, offset: int, num_bytes: int) -> Handle:
    if offset + num_bytes > file.num_bytes:
        raise ContainerError(
            f"reaches to byte {offset + num_bytes} of a file of {file.num_bytes} bytes: that file is truncated, or the "
            "manifest belongs to another"
        )
    return io.BytesIO(file.read(num_bytes, offset)) if num_bytes <= WHOLE_BYTES else Window(file, offset, num_bytes)


def _check_tar_member(file: OpenFile, offset: int, num_bytes: int) -> None:
    """The block before a member's data states its size: this finds manifests of another shard, and files of no tar."""
    if num_bytes >= TAR_PLAIN_BYTES:
        return
    header = file.read(TAR_BLOCK, offset - TAR_BLOCK) if offset >= TAR_BLOCK and offset % TAR_BLOCK == 0 else b""
    if _stated_bytes(header) != num_bytes:
        raise ContainerError(
            f"no member of {num_bytes} bytes begins at byte {offset}: the file is no tar, or the manifest belongs to "
            "another; list its members again"
        )


def _stated_bytes(header: bytes) -> int:
    field = header[124:136]
    if field[:1] >= b"\x80":  # GNU's way to write large numbers
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0"), 8)
    except ValueError:
        return -1


class ZipArchive:
    """An open zip file with its list of members."""

    def __init__(self, path: str) -> None:
        self._file = OpenFile(path)
        try:
            self._archive = zipfile.ZipFile(Window(self._file, 0, self._file.num_bytes))  # type: ignore[arg-type]
        except (zipfile.BadZipFile, struct.error, ValueError) as error:
            raise ContainerError(f"the file is no zip, or truncated ({error}): copy it again") from error

    def open(self, name: str) -> Handle:
        """Open a member: a stored one where it lies, a compressed one decompressed."""
        info = self._archive.NameToInfo.get(name)
        if info is None or info.is_dir():
            raise ContainerError(f"the zip file has no member {name!r}: correct the manifest")
        if info.flag_bits & ZIP_ENCRYPTED:
            raise ContainerError("the member is encrypted: pack the zip file again without a password")
        if info.compress_type == zipfile.ZIP_STORED:
            return _part(self._file, self._begin(info), info.file_size)
        try:
            return io.BytesIO(self._archive.read(info))
        except NotImplementedError as error:  # zipfile's own word for a compression that it does not know
            raise ContainerError(
                f"the member is packed in an unknown way ({error}): pack the zip file again"
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise ContainerError(f"the member is truncated or damaged ({error}): copy the zip file again") from error

    def _begin(self, info: zipfile.ZipInfo) -> int:
        header = self._file.read(ZIP_LOCAL_HEADER.size, info.header_offset)
        if len(header) < ZIP_LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise ContainerError("the member is not where the zip file's list says: copy the zip file again")
        _, name_bytes, extra_bytes = ZIP_LOCAL_HEADER.unpack(header)
        return int(info.header_offset + ZIP_LOCAL_HEADER.size + name_bytes + extra_bytes)


def open_member(path: str, name: str) -> Handle:
    """Open a member of a zip file by its name."""
    return CONTAINERS.get(ZipArchive, path).open(name)


class Hdf5Archive:
    """An open HDF5 file with a dataset ``mp3`` that holds a whole encoded file in each row."""

    def __init__(self, path: str) -> None:
        try:
            import h5py
        except ImportError as error:
            raise PlainError(
                f"reading {path} needs h5py: install it with pip install 'mae-ast-plugin[hdf5]'"
            ) from error
        try:
            self._file = h5py.File(path, "r")
            rows: Any = self._file.get(HDF5_DATASET)
        except OSError as error:
            raise ContainerError("the file is no HDF5, or truncated: copy it again") from error
        if not isinstance(rows, h5py.Dataset) or rows.ndim != 1 or h5py.check_vlen_dtype(rows.dtype) != "uint8":
            raise ContainerError(
                f"the file has no dataset {HDF5_DATASET!r} with the bytes of an encoded file in each row"
            )
        self._rows = rows

    def open(self, row: int) -> Handle:
        """Open the encoded file of a row."""
        if row >= len(self._rows):
            raise ContainerError(f"the file has {len(self._rows)} rows, the last is {len(self._rows) - 1}")
        try:
            return io.BytesIO(self._rows[row].tobytes())
        except (OSError, RuntimeError) as error:
            raise ContainerError("the row cannot be read, the file is truncated or damaged: copy it again") from error


def open_row(path: str, row: int) -> Handle:
    """Open the encoded file of a row of an HDF5 file."""
    return CONTAINERS.get(Hdf5Archive, path).open(row)
