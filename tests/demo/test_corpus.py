"""The demo corpus: complete, varied, repeatable, and careful with other people's folders."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from mae_ast_plugin.demo.corpus import CLASSES, CONTAINERS, MARKER, main, synthesise, write_corpus
from mae_ast_plugin.errors import PlainError

NUM_CLIPS = 20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    write_corpus(folder, NUM_CLIPS, seed=3)
    return folder


def clips(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def seconds(path: Path) -> float:
    if path.suffix != ".mkv":
        return soundfile.info(path).duration
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in clips(folder)}


def test_every_class_is_a_folder_with_as_many_clips_as_any_other(corpus: Path) -> None:
    counts = {folder.name: len(list(folder.iterdir())) for folder in corpus.iterdir() if folder.is_dir()}
    assert counts == dict.fromkeys(CLASSES, NUM_CLIPS // len(CLASSES))


def test_every_container_is_used_and_every_clip_can_be_read_to_its_end(corpus: Path) -> None:
    assert {path.suffix[1:] for path in clips(corpus)} == {container.extension for container in CONTAINERS}
    assert all(0.45 < seconds(path) < 12.2 for path in clips(corpus))


def test_the_same_seed_writes_the_same_bytes_wherever_nothing_is_lost(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", NUM_CLIPS, seed=3)
    first, second = digests(corpus), digests(tmp_path / "again")
    assert first.keys() == second.keys()
    lossless = [name for name in first if name.endswith((".wav", ".flac"))]
    assert len(lossless) >= 4
    assert all(first[name] == second[name] for name in lossless)


def test_a_longer_corpus_begins_with_the_shorter_one(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "short", 5, seed=3)
    short, whole = digests(tmp_path / "short"), digests(corpus)
    lossless = [name for name in short if name.endswith((".wav", ".flac"))]
    assert lossless
    assert all(short[name] == whole[name] for name in lossless)


def test_another_seed_gives_other_sound(tmp_path: Path) -> None:
    write_corpus(tmp_path / "one", 1, seed=1)
    write_corpus(tmp_path / "two", 1, seed=2)
    assert list(digests(tmp_path / "one").values()) != list(digests(tmp_path / "two").values())


def test_a_second_call_changes_nothing_and_leaves_nothing_beside_the_folder(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    write_corpus(corpus, NUM_CLIPS, seed=3)
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before
    assert [path.name for path in corpus.parent.iterdir()] == [corpus.name]


def test_a_corpus_of_other_parameters_is_refused_and_kept(corpus: Path) -> None:
    with pytest.raises(PlainError, match=r'"seed": 3.*"seed": 4'):
        write_corpus(corpus, NUM_CLIPS, seed=4)
    assert len(clips(corpus)) == NUM_CLIPS


def test_a_folder_with_something_else_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PlainError, match="not a demo corpus"):
        write_corpus(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_corpus_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mae_ast_plugin.demo.corpus._write_soundfile", fail)
    with pytest.raises(OSError, match="disk full"):
        write_corpus(tmp_path / "corpus", 1)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_the_same_folder_do_not_harm_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for writer in [pool.submit(write_corpus, tmp_path / "corpus", 3) for _ in range(2)]:
            writer.result()
    assert len(clips(tmp_path / "corpus")) == 3
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("num_clips", "seed"), [(0, 1), (-3, 1), (1, -1)])
def test_impossible_numbers_are_refused(tmp_path: Path, num_clips: int, seed: int) -> None:
    with pytest.raises(PlainError, match="at least 1 clip"):
        write_corpus(tmp_path / "corpus", num_clips, seed)


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("rate", [8000, 22050])
def test_every_class_makes_finite_sound_within_full_scale(label: str, rate: int) -> None:
    samples = synthesise(label, rate, 2, np.random.default_rng(5))
    assert samples.shape[1] == 2
    assert 0.01 < np.abs(samples).max() <= 1.0  # a NaN anywhere would fail here
    assert np.abs(samples[:, 0] - samples[:, 1]).max() > 0


def test_the_command_writes_what_it_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "corpus"), "--clips", "2", "--seed", "7"]) == 0
    assert "2 clips in 2 classes" in capsys.readouterr().out
    assert (tmp_path / "corpus" / MARKER).is_file()


def test_the_command_ends_in_one_sentence_when_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "corpus"), "--clips", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
