"""The list of clips: line one is the root folder, each further line is ``relative path TAB length [TAB label]``.

The length is the number of samples per channel at the file's own rate. A side file with the same stem and the ending
``.rates`` may give that rate (Hz) for every row. Millions of rows are held as the bytes of the file and a few numbers
per row; a row becomes Python text only when it is asked for. A length of 0 is allowed, the size filter of the training
counts and drops it. Knows nothing of audio, and never opens a clip.
"""

from __future__ import annotations

import operator
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.errors import PlainError

# Parsed at a time: temporary arrays are several times as large, and the allocator keeps some of them.
BLOCK_BYTES = 2**20
MAX_DIGITS = 18
MAX_RATE = 2**31 - 1
TAB, LINE_FEED, RETURN, SLASH, ZERO = b"\t\n\r/0"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"
NUL_REASON = "has a NUL byte, which no name of a file can hold: write it as UTF-8 text, not compressed"


class ManifestError(PlainError):
    """A manifest that cannot be used: the sentence names the file, the line, what was found and what to do."""


class Row(NamedTuple):
    """One clip: its full path, its length in samples at the file's own rate, its label where the manifest has any."""

    path: str
    length: int
    label: str | None


class Manifest:
    """All rows of a TSV; ``len(m)``, ``m[i]`` and iteration as with a list.

    ``path`` is the TSV, ``root`` its folder of clips (absolute), ``lengths`` (N,) int64 in samples at each file's own
    rate, ``sample_rates`` (N,) int32 in Hz or None. Build one with `Manifest.load`. A pickle holds only the path;
    unpickling loads the same file again, and raises ManifestError where it was changed meanwhile.
    """

    path: str
    root: str
    lengths: NDArray[np.int64]
    sample_rates: NDArray[np.int32] | None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        data, self._version = _read_bytes(self.path)
        self._data = data
        first_row = _end_of_line(data, 0) + 1
        self.root = _parse_root(self.path, data)
        end = _end_of_rows(data)
        if first_row >= end:
            raise ManifestError(f"{self.path} has no rows, only the root folder in line 1: add one line per clip")
        if b"\0" in data:
            _raise_bad_row(self.path, data, first_row)
        self._bounds, self.lengths, all_absolute = _parse_rows(self.path, data, first_row, end)
        self.lengths.flags.writeable = False
        if not all_absolute and not os.path.isdir(self.root):
            raise ManifestError(
                f"{self.path} line 1: the root folder {_shown(self.root)} does not exist: correct line 1"
            )
        self.sample_rates = _load_rates(self.path, len(self.lengths))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read and check a whole manifest; raises ManifestError with the first line that is wrong."""
        return cls(path)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Row:
        index = operator.index(index)
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of a manifest with {len(self)} rows")
        line = self._data[int(self._bounds[position]) : int(self._bounds[position + 1])].rstrip(b"\r\n")
        name, _, *labels = line.split(b"\t")
        path = os.path.join(self.root, _decode(name))
        return Row(path, int(self.lengths[position]), _decode(labels[0]) if labels else None)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Manifest({self.path!r}, {len(self)} rows)"

    def __reduce__(self) -> tuple[Callable[..., Manifest], tuple[str, tuple[int, int]]]:
        return _reload, (self.path, self._version)


def write_manifest(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str],
    rows: Iterable[tuple[str, int]],
    *,
    labels: Iterable[str | None] | None = None,
    rates: Iterable[int] | None = None,
) -> None:
    """Write ``rows`` of (path relative to ``root``, length in samples), each file appearing whole or not at all.

    ``labels`` adds the third column, ``rates`` (Hz) the side file; without them an old side file is removed.
    Raises ManifestError for a name or label that the format cannot hold, ValueError for columns of different lengths.
    """
    target = Path(path)
    root = os.fspath(root)
    if any(letter in root for letter in "\t\r\n\0"):
        raise ManifestError(f"the root folder {_shown(root)} has a TAB, line break or NUL byte in its name: rename it")
    labelled = zip(rows, repeat(None)) if labels is None else zip(rows, labels, strict=True)
    complete = zip(labelled, repeat(0)) if rates is None else zip(labelled, rates, strict=True)
    rate_lines: list[bytes] = []

    def lines() -> Iterator[bytes]:
        yield _encode(root) + b"\n"
        for ((name, length), label), rate in complete:
            rate_lines.append(b"%d\n" % rate)
            yield _format_row(name, length, label)

    # A crash between these steps leaves a manifest without its side file, never one with the side file of another.
    side_file = target.with_suffix(".rates")
    write_atomically(target, lines(), before_replacing=side_file)
    if rates is not None:
        write_atomically(side_file, rate_lines)


def write_atomically(
    path: str | os.PathLike[str], lines: Iterable[bytes], *, before_replacing: Path | None = None
) -> None:
    """Write a file so that readers see the old one or the complete new one, even if the machine stops on the way.

    ``before_replacing`` names a file that belongs to the old one and is removed with it.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.writelines(lines)
            handle.flush()
            os.fsync(handle.fileno())
        if before_replacing is not None:
            before_replacing.unlink(missing_ok=True)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_name(name: str) -> str | None:
    """Tell why a path cannot stand in a manifest; None when it can."""
    if not name:
        return "the name is empty"
    if "\t" in name or "\n" in name:
        return "its name has a TAB or a line break, which a manifest cannot hold: rename it"
    if "\0" in name:
        return "its name has a NUL byte, which no name of a file can hold: correct it"
    return None


def _format_row(name: str, length: int, label: str | None) -> bytes:
    if reason := check_name(name):
        raise ManifestError(f"{_shown(name)} cannot be written to a manifest: {reason}")
    if not 0 <= length < 10**MAX_DIGITS:
        raise ManifestError(f"{_shown(name)} cannot be written to a manifest with the length {length}: give 0 or more")
    if label is None:
        return b"%s\t%d\n" % (_encode(name), length)
    if any(letter in label for letter in "\t\r\n\0"):
        raise ManifestError(
            f"{_shown(name)} has a label with a TAB, line break or NUL byte, {_shown(label)}: rename the label"
        )
    return b"%s\t%d\t%s\n" % (_encode(name), length, _encode(label))


def _reload(path: str, version: tuple[int, int]) -> Manifest:
    manifest = Manifest(path)
    if manifest._version != version:
        raise ManifestError(f"{path} was changed while it was in use: start the run again")
    return manifest


def _read_bytes(path: str) -> tuple[bytes, tuple[int, int]]:
    """Read a whole file; also give its size and time of change, by which a later reader knows it again."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe can be read once at most
            raise ManifestError(f"{path} is not a regular file: write its lines to one")
        with open(path, "rb") as handle:
            status = os.fstat(handle.fileno())
            return handle.read(), (status.st_size, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise ManifestError(f"{path} does not exist: make it with `python -m manifests scan`") from error
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error


def _parse_root(path: str, data: bytes) -> str:
    line = data[: _end_of_line(data, 0)].removeprefix(BYTE_ORDER_MARK).rstrip(b"\r")
    if line.startswith(GZIP_MAGIC):
        raise ManifestError(f"{path} is compressed (gzip), not text: unpack it")
    if b"\0" in line:
        raise ManifestError(f"{path} line 1 {NUL_REASON}")
    if not line.strip():
        found = "is empty" if not data.strip() else "line 1 is blank"
        raise ManifestError(f"{path} {found}: line 1 must be the root folder of the clips")
    if b"\t" in line:
        raise ManifestError(f"{path} line 1 has a TAB: put the root folder of the clips in a line before the first row")
    return os.path.normpath(os.path.join(os.path.dirname(path), _decode(line)))


# ------------------------------------------------------------------------------------------------ fast parsing


def _parse_rows(
    path: str, data: bytes, begin: int, end: int
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64], bool]:
    """Find all rows of ``data[begin:end]``.

    Returns the bounds of the lines (N + 1,), the lengths (N,) and whether every path is absolute.
    """
    # as large as they end up, so that nothing is held twice
    num_rows = data.count(b"\n", begin, end) + 1
    bounds: NDArray[np.unsignedinteger] = np.empty(num_rows + 1, np.uint32 if len(data) < 2**32 else np.uint64)
    lengths, all_absolute, row = np.empty(num_rows, np.int64), True, 0
    for block_begin, block in _blocks(data, begin, end):
        parsed = _parse_block(block)
        if parsed is None:
            _raise_bad_row(path, data, block_begin)
        starts, values, absolute = parsed
        bounds[row : row + len(starts)] = starts + block_begin
        lengths[row : row + len(starts)] = values
        all_absolute &= absolute
        row += len(starts)
    bounds[row] = end
    return bounds, lengths, all_absolute


def _parse_block(block: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64], bool] | None:
    """Parse whole lines: where they start, their lengths, whether all paths are absolute; None if a line is wrong."""
    starts, ends = _split_lines(block)
    tabs = np.flatnonzero(block == TAB)
    first_tab = np.searchsorted(tabs, starts)
    num_tabs = np.searchsorted(tabs, ends) - first_tab
    if num_tabs.min() < 1 or num_tabs.max() > 2:
        return None
    name_ends = tabs[first_tab]
    number_ends = np.where(num_tabs == 2, tabs[np.minimum(first_tab + 1, len(tabs) - 1)], ends)
    if (name_ends == starts).any():
        return None
    values = _decimals(block, name_ends + 1, number_ends)
    return None if values is None else (starts, values, bool((block[starts] == SLASH).all()))


def _split_lines(block: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the bounds of every line without its line feed or carriage return; the last line feed may be missing."""
    ends = np.flatnonzero(block == LINE_FEED)
    if len(block) and block[-1] != LINE_FEED:
        ends = np.append(ends, len(block))
    starts = np.concatenate(([0], ends[:-1] + 1))
    has_return = (ends > starts) & (block[ends - 1] == RETURN)
    return starts, ends - has_return


def _decimals(block: NDArray[np.uint8], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Read the whole numbers between ``begins`` and ``ends``; None if anything but 1 to 18 digits stands there."""
    widths = ends - begins
    if len(widths) == 0 or widths.min() < 1 or widths.max() > MAX_DIGITS:
        return None
    values = np.zeros(len(widths), np.int64)
    for place in range(int(widths.max())):
        present = widths > place
        digits = block[np.where(present, ends - 1 - place, begins)] - np.uint8(ZERO)
        if (digits > 9).any():
            return None
        values += np.where(present, digits, 0) * np.int64(10**place)
    return values


def _load_rates(path: str, num_rows: int) -> NDArray[np.int32] | None:
    side_path = os.path.splitext(path)[0] + ".rates"
    if not os.path.exists(side_path):
        return None
    data, _ = _read_bytes(side_path)
    end = _end_of_rows(data)
    if end == 0:
        raise ManifestError(f"{side_path} is empty, expected {num_rows} sample rates: write it again or remove it")
    num_rates = data.count(b"\n", 0, end) + 1
    if num_rates != num_rows:
        raise ManifestError(
            f"{side_path} has {num_rates} sample rates and {path} has {num_rows} rows: write it again or remove it"
        )
    rates, row = np.empty(num_rows, np.int32), 0
    for _, block in _blocks(data, 0, end):
        values = _decimals(block, *_split_lines(block))
        if values is None or values.min() < 1 or values.max() > MAX_RATE:
            _raise_bad_rate(side_path, data)
        rates[row : row + len(values)] = values
        row += len(values)
    return rates


def _end_of_line(data: bytes, begin: int) -> int:
    end = data.find(b"\n", begin)
    return len(data) if end < 0 else end


def _end_of_rows(data: bytes) -> int:
    """Give the end of the last line that is not blank, without its line break."""
    end = len(data)
    while end and data[end - 1] in b"\r\n":
        end -= 1
    return end


def _blocks(data: bytes, begin: int, end: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Cut ``data[begin:end]`` into blocks of whole lines, about BLOCK_BYTES long: where each begins, and its bytes."""
    while begin < end:
        block_end = end
        if end - begin > BLOCK_BYTES:
            last = data.rfind(b"\n", begin, begin + BLOCK_BYTES)
            block_end = min(end, (last if last >= 0 else _end_of_line(data, begin)) + 1)
        yield begin, np.frombuffer(data, np.uint8, block_end - begin, begin)
        begin = block_end


# ------------------------------------------------------------------------------------------------ what is wrong


def _raise_bad_row(path: str, data: bytes, begin: int) -> NoReturn:
    """Name the first bad line at or after ``begin``: slow, and only run once it is known that there is one."""
    line_number = data.count(b"\n", 0, begin) + 1
    while True:
        end = _end_of_line(data, begin)
        if reason := _row_problem(data[begin:end].removesuffix(b"\r")):
            raise ManifestError(f"{path} line {line_number}: {reason}")
        assert end < len(data), "the fast parser refused a manifest in which every line is right"
        begin, line_number = end + 1, line_number + 1


def _row_problem(line: bytes) -> str | None:
    columns = line.split(b"\t")
    if not line.strip():
        return "the line is blank: remove it"
    if b"\0" in line:
        return f"{_shown(line)} {NUL_REASON}"
    if len(columns) == 1:
        return f"no TAB in {_shown(line)}: write the path, a TAB and the length in samples"
    if len(columns) > 3:
        return f"found {len(columns)} columns, expected path, length and at most one label: separate labels by commas"
    name, number = columns[:2]
    if not name:
        return "the path before the TAB is missing"
    if number.isdigit() and len(number) <= MAX_DIGITS:
        return None
    if number[:1] == b"-" and number[1:].isdigit():
        return f"the length {_shown(number)} is negative: write the number of samples"
    if number.isdigit():
        return f"the length {_shown(number)} is too large: write the number of samples, of {MAX_DIGITS} digits at most"
    return f"the length {_shown(number)} is not a whole number: write the number of samples"


def _raise_bad_rate(path: str, data: bytes) -> NoReturn:
    for line_number, line in enumerate(data.split(b"\n"), start=1):
        number = line.removesuffix(b"\r")
        if not number.isdigit() or len(number) > MAX_DIGITS or not 1 <= int(number) <= MAX_RATE:
            raise ManifestError(
                f"{path} line {line_number}: {_shown(number)} is not a sample rate: write a whole number of Hz above 0"
            )
    raise AssertionError("the fast parser refused rates in which every line is right")


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _shown(found: bytes | str) -> str:
    """Quote what was found, shortened, so that it can be printed anywhere."""
    text = found if isinstance(found, str) else _decode(found)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return repr(text if len(text) <= 80 else text[:77] + "...")
