"""Open containers: few, shared by threads and not by processes, and none that was changed behind our back."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.pool import CONTAINERS, ContainerError, OpenFile, Pool, Window


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Ten files that each hold their number a hundred times."""
    paths = [str(tmp_path / f"{number}") for number in range(10)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(bytes([number]) * 100)
    return paths


def num_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def test_a_file_is_opened_once_as_long_as_it_is_in_use(paths: list[str]) -> None:
    pool, opened = Pool(), []

    def opener(path: str) -> OpenFile:
        opened.append(path)
        return OpenFile(path)

    for path in paths[:3] * 5:
        pool.get(opener, path)
    assert opened == paths[:3]


def test_no_more_files_than_the_bound_are_open_and_the_last_used_stay(paths: list[str]) -> None:
    before, pool = num_descriptors(), Pool(bound=3)
    kept = pool.get(OpenFile, paths[0])
    for path in paths[1:]:
        pool.get(OpenFile, path)
        assert pool.get(OpenFile, paths[0]) is kept
        assert len(pool) <= 3
        assert num_descriptors() <= before + 3
    pool.start_anew()
    del kept
    assert num_descriptors() == before


def test_a_file_that_is_put_out_stays_usable_for_who_reads_it(paths: list[str]) -> None:
    pool = Pool(bound=1)
    window = Window(pool.get(OpenFile, paths[7]), 10, 50)
    for path in paths:
        pool.get(OpenFile, path)
    assert window.read() == bytes([7]) * 50


def test_a_file_that_cannot_be_opened_is_not_kept(paths: list[str]) -> None:
    pool = Pool()

    def opener(path: str) -> OpenFile:
        raise ContainerError("is odd")

    for _ in range(2):
        with pytest.raises(ContainerError, match="is odd"):
            pool.get(opener, paths[0])
    assert len(pool) == 0


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def _replace(path: Path) -> None:
    os.utime(path, ns=(0, 0))
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [_grow, _replace, _touch])
@pytest.mark.parametrize("bound", [1, 64])
def test_a_file_that_was_changed_is_noticed_and_stays_so(paths: list[str], change: object, bound: int) -> None:
    pool = Pool(bound)
    pool.get(OpenFile, paths[0])
    pool.get(OpenFile, paths[1])  # puts the first one out where the bound is 1
    change(Path(paths[0]))  # type: ignore[operator]
    for _ in range(2):
        with pytest.raises(ContainerError, match="was changed while in use"):
            pool.get(OpenFile, paths[0])
    pool.get(OpenFile, paths[1])


def test_a_file_that_disappears_is_noticed(paths: list[str]) -> None:
    pool = Pool()
    pool.get(OpenFile, paths[0])
    os.remove(paths[0])
    with pytest.raises(ContainerError, match="has disappeared while in use"):
        pool.get(OpenFile, paths[0])
    os.remove(paths[1])
    with pytest.raises(FileNotFoundError):
        pool.get(OpenFile, paths[1])


def test_threads_do_not_move_each_others_position(paths: list[str]) -> None:
    pool, content = Pool(bound=2), np.random.default_rng(0).bytes(100_000)
    Path(paths[0]).write_bytes(content)

    def read_in_pieces(number: int) -> bool:
        found = b""
        window = Window(pool.get(OpenFile, paths[0]), number, 50_000)
        while piece := window.read(997):
            found += piece
            pool.get(OpenFile, paths[1 + number % 9])
        return found == content[number : number + 50_000]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read_in_pieces, range(40)))


def _open_in_child(path: str) -> tuple[int, int]:
    inherited = len(CONTAINERS)
    return inherited, CONTAINERS.get(OpenFile, path).read(1, 0)[0]


def test_a_forked_process_opens_files_of_its_own(paths: list[str]) -> None:
    CONTAINERS.get(OpenFile, paths[5])
    with CONTAINERS._lock, get_context("fork").Pool(1) as children:  # the lock of a thread that the child has not
        assert children.apply_async(_open_in_child, (paths[5],)).get(timeout=20) == (0, 5)


def test_a_read_that_the_system_refuses_ends_the_window_and_is_told(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window(OpenFile(paths[0]), 0, 100)

    def refuse(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(OpenFile, "read_into", refuse)
    assert window.read(10) == b""
    assert window.failure is not None


SEEKS = st.tuples(st.integers(-60, 60), st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]), st.integers(0, 60))


@given(offset=st.integers(0, 200), length=st.integers(0, 300), steps=st.lists(SEEKS, max_size=8))
@settings(deadline=None, max_examples=50)
def test_a_window_is_like_a_file_of_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, offset: int, length: int, steps: list[tuple[int, int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    content = bytes(range(256)) * 2
    path.write_bytes(content)
    (path.parent / "part").write_bytes(content[offset : offset + length])
    window = Window(OpenFile(str(path)), offset, length)
    with open(path.parent / "part", "rb") as part:
        for place, whence, num_bytes in steps:
            origin = {os.SEEK_SET: 0, os.SEEK_CUR: part.tell(), os.SEEK_END: length}[whence]
            place = max(place, -origin)
            assert window.seek(place, whence) == part.seek(place, whence)
            assert window.read(num_bytes) == part.read(num_bytes)
            assert window.tell() == part.tell()
