"""The manifest parser against a plain one: files drawn by hypothesis, right and wrong, cut into blocks of any size."""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio import manifest as module
from mae_ast_plugin.audio.manifest import Manifest, ManifestError, write_manifest

Rows = list[tuple[bytes, int, bytes | None]]
BLOCK_SIZES = (1, 4, 16, 100, 2**20)
drawn = settings(max_examples=150, deadline=None)

# ---- a plain parser: the value, or the number of the first line that is wrong (0 where there is no row at all)


def lines_of(data: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in data.rstrip(b"\r\n").split(b"\n")]


def plain_rows(data: bytes) -> Rows | int:
    rows: Rows = []
    for number, line in enumerate(lines_of(data)[1:], start=2):
        name, *columns = line.split(b"\t")
        if not name or b"\0" in line or len(columns) not in (1, 2) or not re.fullmatch(rb"[0-9]{1,18}", columns[0]):
            return number
        rows.append((name, int(columns[0]), columns[1].rstrip(b"\r") if len(columns) == 2 else None))
    return rows or 0


def plain_rates(data: bytes, num_rows: int) -> list[int] | int:
    lines = lines_of(data)
    if lines == [b""] or len(lines) != num_rows:
        return 0
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(rb"[0-9]{1,18}", line) or not 0 < int(line) < 2**31:
            return number
    return [int(line) for line in lines]


# ---- what is drawn

letters = st.sampled_from([bytes([code]) for code in range(256) if bytes([code]) not in (b"\t", b"\n", b"\r", b"\0")])
texts = st.lists(letters, min_size=1, max_size=12).map(b"".join)
numbers = st.builds(lambda zeros, value: b"0" * zeros + b"%d" % value, st.integers(0, 3), st.integers(0, 10**15 - 1))
right_lines = st.builds(
    lambda name, number, label: b"\t".join([name, number, *label]), texts, numbers, st.lists(texts, max_size=1)
)
line_breaks = st.sampled_from([b"\n", b"\r\n"])
endings = st.sampled_from([b"", b"\n", b"\r\n", b"\n\r\n\n"])
roots = st.sampled_from([b"/\n", b"/\r\n", b"\xef\xbb\xbf/\n"])
pieces = st.sampled_from(
    [b"\t", b"\n", b"\r", b"\r\n", b"a", b"/b", b"1", b"0", b"9" * 18, b"9" * 19, b" ", b"\xff"]
) | (
    st.sampled_from([b"\xef\xbb\xbf", b"-1", b"+1", b".", b"\0", b"\x85", b"\xe2\x80\xa8", b"\xd9\xa1", b"/\n"])
    | st.sampled_from([b"a\t1\n", b"b\t2\tc,d\n"])
)
wrong_lines = st.sampled_from(
    [b"", b"a", b"\t1", b"a\t", b"a\t1 ", b"a\t-1", b"a\t1.0", b"a\t1\tb\tc", b"a\t" + b"9" * 19, b"a\t\xd9\xa1"]
)
anything = st.lists(pieces, max_size=25).map(b"".join)


def joined(lines: list[bytes], line_break: bytes, ending: bytes) -> bytes:
    return line_break.join(lines) + ending


right_bodies = st.builds(joined, st.lists(right_lines, min_size=1, max_size=12), line_breaks, endings)
nearly_right_bodies = st.builds(
    lambda before, odd, after: before + b"\n" + odd + after, right_bodies, anything, anything
)
wrong_bodies = st.builds(
    lambda before, wrong, after, line_break: joined([*before, wrong, *after], line_break, b"\n"),
    st.lists(right_lines, max_size=5),
    wrong_lines,
    st.lists(right_lines, min_size=1, max_size=5),
    line_breaks,
)
rate_files = st.builds(
    joined,
    st.lists(st.integers(1, 2**31 - 1).map(b"%d".__mod__), min_size=1, max_size=12),
    line_breaks,
    endings,
)
nearly_rates = st.lists(
    st.sampled_from([b"8000\n", b"48000\r\n", b"\n", b"0\n", b"2147483648\n", b"fast\n", b"9" * 19 + b"\n", b"7"]),
    max_size=6,
).map(b"".join)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """Write a manifest, with its rates or without, and load it in blocks of a size."""
    path = tmp_path_factory.mktemp("manifest") / "train.tsv"

    def load(data: bytes, block_bytes: int, rates: bytes | None = None) -> Manifest:
        path.write_bytes(data)
        path.with_suffix(".rates").unlink(missing_ok=True)
        if rates is not None:
            path.with_suffix(".rates").write_bytes(rates)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "BLOCK_BYTES", block_bytes)
            return Manifest.load(path)

    return load


def rows_of(manifest: Manifest) -> Rows:
    """The rows as bytes, with their paths below the root /."""
    names = [os.fsencode(row.path) for row in manifest]
    labels = [None if row.label is None else os.fsencode(row.label) for row in manifest]
    return list(zip(names, manifest.lengths.tolist(), labels, strict=True))


def below_root(rows: Rows) -> Rows:
    return [(os.path.join(b"/", name), length, label) for name, length, label in rows]


def assert_one_sentence(error: ManifestError, line: int) -> None:
    assert "\n" not in str(error)
    assert re.findall(r"/train\.[a-z]+ line (\d+)[: ]", str(error)) == ([str(line)] if line else [])


# ---- laws


@drawn
@given(roots, right_bodies, st.sampled_from(BLOCK_SIZES))
def test_every_right_file_is_read_as_the_plain_parser_reads_it(
    load: Callable[..., Manifest], root: bytes, body: bytes, block_bytes: int
) -> None:
    expected = plain_rows(root + body)
    assert isinstance(expected, list)
    manifest = load(root + body, block_bytes)
    assert manifest.root == "/"
    assert rows_of(manifest) == below_root(expected)
    assert [row.length for row in manifest] == manifest.lengths.tolist()


@settings(max_examples=300, deadline=None)
@given(roots, anything | nearly_right_bodies | wrong_bodies, st.sampled_from(BLOCK_SIZES))
def test_any_bytes_are_read_as_the_plain_parser_does_or_refused_with_its_line(
    load: Callable[..., Manifest], root: bytes, body: bytes, block_bytes: int
) -> None:
    expected = plain_rows(root + body)
    if isinstance(expected, list):
        assert rows_of(load(root + body, block_bytes)) == below_root(expected)
        return
    with pytest.raises(ManifestError) as caught:
        load(root + body, block_bytes)
    assert_one_sentence(caught.value, expected)


@drawn
@given(rate_files | nearly_rates, st.data(), st.sampled_from(BLOCK_SIZES))
def test_any_side_file_is_read_as_the_plain_parser_does_or_refused_with_its_line(
    load: Callable[..., Manifest], rates: bytes, data: st.DataObject, block_bytes: int
) -> None:
    num_rows = len(lines_of(rates)) + data.draw(st.sampled_from([0, 0, 0, 0, 1]))
    expected = plain_rates(rates, num_rows)
    rows = b"/\n" + b"a.wav\t1\n" * num_rows
    if isinstance(expected, list):
        found = load(rows, block_bytes, rates).sample_rates
        assert found is not None and found.dtype == np.int32
        assert found.tolist() == expected
        return
    with pytest.raises(ManifestError) as caught:
        load(rows, block_bytes, rates)
    assert_one_sentence(caught.value, expected)


# ---- memory


def test_what_loading_holds_for_a_moment_follows_from_the_size_of_a_block_not_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two million rows with labels are to fit into 300 MB."""
    path, num_rows = tmp_path / "m.tsv", 100_000
    rows = ((f"part{i % 41:02d}/Y{i:011d}_30000_40000.mkv", 10**5 + i) for i in range(num_rows))
    write_manifest(path, tmp_path, rows, labels=["/m/09x0r,/m/05zppz"] * num_rows, rates=[48000] * num_rows)
    monkeypatch.setattr(module, "BLOCK_BYTES", 2**16)
    tracemalloc.start()
    manifest = Manifest.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert manifest.sample_rates is not None
    held = len(manifest._data) + manifest._bounds.nbytes + manifest.lengths.nbytes + manifest.sample_rates.nbytes
    assert held < 100 * num_rows
    assert peak < held + path.with_suffix(".rates").stat().st_size + 16 * module.BLOCK_BYTES
