"""Work on many items: the same results for any number of processes, going on after a stop, divided among machines."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from mae_ast_plugin.errors import PlainError
from manifests import jobs
from manifests.jobs import Journal, Share, each, share


def length(item: str) -> int:
    return len(item)


def die(item: str) -> None:
    os._exit(9)


ITEMS = [f"item{'x' * (number % 7)}{number}" for number in range(300)]


@pytest.mark.parametrize("count", [1, 2])
def test_every_item_comes_once_with_its_result(count: int) -> None:
    found = list(each(length, ITEMS, jobs=count, what="test"))
    assert sorted(found) == sorted((item, len(item)) for item in ITEMS)


def test_no_items_are_no_work() -> None:
    assert list(each(length, [], jobs=2, what="test")) == []


def test_a_process_that_dies_is_one_sentence() -> None:
    with pytest.raises(PlainError, match=r"a process died .* --jobs 1"):
        list(each(die, ITEMS, jobs=2, what="test"))


def test_interrupted_work_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, calls = tmp_path / ".journal", []

    def once(item: str) -> int:
        calls.append(item)
        return len(item)

    with pytest.raises(KeyboardInterrupt), Journal(path, ["x"]) as journal:
        for number, _ in enumerate(each(once, ITEMS, jobs=1, what="test", journal=journal)):
            if number == 99:
                raise KeyboardInterrupt
    assert path.exists()
    with Journal(path, ["x"]) as journal:
        found = dict(each(once, ITEMS, jobs=1, what="test", journal=journal))
    assert found == {item: len(item) for item in ITEMS}
    assert len(calls) == len(ITEMS)
    assert not path.exists()


def test_a_journal_with_a_torn_last_line_is_good_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / ".journal"
    with pytest.raises(KeyError), Journal(path, ["x"]) as journal:
        journal.add([("a", 1), ("b", 2), ("c", 3)])
        raise KeyError
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(KeyError), Journal(path, ["x"]) as journal:
        assert journal.done == {"a": 1, "b": 2}
        journal.add([("c", 4)])
        raise KeyError
    with Journal(path, ["x"]) as journal:
        assert journal.done == {"a": 1, "b": 2, "c": 4}


def test_a_journal_of_other_work_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / ".journal"
    with pytest.raises(KeyError), Journal(path, ["x"]) as journal:
        journal.add([("a", 1)])
        raise KeyError
    with pytest.raises(KeyError), Journal(path, ["y"]) as journal:
        assert journal.done == {}
        raise KeyError
    with Journal(path, ["x"]) as journal:
        assert journal.done == {}


def test_names_that_are_no_text_survive_a_journal(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    with pytest.raises(KeyError), Journal(tmp_path / ".journal", [name]) as journal:
        journal.add([(name, 1)])
        raise KeyError
    with Journal(tmp_path / ".journal", [name]) as journal:
        assert journal.done == {name: 1}


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / ".journal"
    with pytest.raises(KeyError), Journal(path, 1) as journal:
        list(each(length, ["a", "bb"], jobs=1, what="test", journal=journal, kept=lambda found: found != 2))
        raise KeyError
    with Journal(path, 1) as journal:
        assert journal.done == {"a": 1}


@pytest.mark.parametrize("count", [1, 2])
def test_what_has_another_version_since_is_done_again(tmp_path: Path, count: int) -> None:
    path = tmp_path / ".journal"
    with pytest.raises(KeyError), Journal(path, 1, version=length) as journal:
        assert dict(each(length, ["a", "bb"], jobs=count, what="test", journal=journal)) == {"a": 1, "bb": 2}
        raise KeyError
    with pytest.raises(KeyError), Journal(path, 1, version=lambda item: 1) as journal:
        assert journal.done == {"a": 1}
        raise KeyError
    with Journal(path, 1, version=length) as journal:
        assert journal.done == {"a": 1, "bb": 2}


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shares_of_machines_are_the_whole_and_do_not_overlap(count: int) -> None:
    parts = [{item for item in ITEMS if Share(number, count).holds(item)} for number in range(1, count + 1)]
    assert set.union(*parts) == set(ITEMS)
    assert sum(map(len, parts)) == len(ITEMS)
    assert all(len(part) > len(ITEMS) / count / 2 for part in parts)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2", "1/"])
def test_an_impossible_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="I from 1 to N"):
        share(text)


def test_too_few_jobs_are_refused() -> None:
    with pytest.raises(PlainError, match="--jobs 0"):
        jobs.check_jobs(0)
