"""The check command: every fault is found and named, the same by any number of processes, machines and stops."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.audio.reader import read
from manifests import check, jobs, measuring
from manifests.__main__ import main
from manifests.findings import KINDS, _originals
from manifests.measuring import SHORTEST_RUN, clipped_share

RATE, LENGTH = 8000, 800


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, LENGTH)


def label_of(name: str) -> str:
    return f"label of {name}".replace("\r", "")


class Splits:
    """A folder of clips of noise, and manifests that are written from lists which a test may change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, dict[str, list[tuple[str, int, int, str]]]()
        (folder / "clips").mkdir()
        for number, split in enumerate(["train"] * 40 + ["valid"] * 5):
            self.add(split, f"{split}{number:02d}.wav", noise(number))

    def path(self, name: str) -> Path:
        return self.folder / "clips" / name

    def add(self, split: str, name: str, samples: np.ndarray, subtype: str | None = None) -> None:
        soundfile.write(self.path(name), samples, RATE, subtype=subtype)
        self.list(split, name, len(samples))

    def list(self, split: str, name: str, length: int = LENGTH, rate: int = RATE) -> None:
        self.rows.setdefault(split, []).append((name, length, rate, label_of(name)))

    def write(self) -> None:
        for split, rows in self.rows.items():
            names, lengths, rates, labels = zip(*rows, strict=True)
            pairs = zip(names, lengths, strict=True)
            write_manifest(self.folder / f"{split}.tsv", self.path(""), pairs, labels=labels, rates=rates)

    def check(self, out: str = "out", *options: str) -> int:
        self.write()
        manifests = [str(self.folder / f"{split}.tsv") for split in self.rows]
        return main(["check", *manifests, "--out", str(self.folder / out), "--jobs", "1", *options])

    def found(self, out: str = "out") -> list[list[str]]:
        lines = (self.folder / out / "findings.tsv").read_text().splitlines()
        assert lines[0].split("\t") == list(check.COLUMNS)
        return [line.split("\t") for line in lines[1:]]


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    return Splits(tmp_path)


def test_clean_clips_have_no_findings_and_the_status_0(splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    assert splits.check() == 0
    assert splits.found() == []
    report = (splits.folder / "out" / "report.txt").read_text()
    assert report.startswith("45 clips of train, valid: nothing found")
    assert "45 clips, 0.001 hours" in report
    assert "nothing found (see" in capsys.readouterr().out


def text(splits: Splits) -> None:
    splits.path("bad.wav").write_text("<html>not found")
    splits.list("valid", "bad.wav")


def empty(splits: Splits) -> None:
    splits.path("bad.wav").touch()
    splits.list("valid", "bad.wav")


def truncated(splits: Splits) -> None:
    splits.add("valid", "bad.wav", noise(99))
    content = splits.path("bad.wav").read_bytes()
    splits.path("bad.wav").write_bytes(content[: len(content) // 2])


def damaged(splits: Splits) -> None:
    splits.add("valid", "bad.flac", np.concatenate([noise(seed) for seed in range(100, 120)]))
    content = bytearray(splits.path("bad.flac").read_bytes())
    content[len(content) // 2 :] = b""
    splits.path("bad.flac").write_bytes(content)


def not_finite(splits: Splits) -> None:
    samples = noise(99)
    samples[7] = np.nan
    splits.add("valid", "bad.wav", samples, "FLOAT")


def wrong_rate(splits: Splits) -> None:
    splits.add("valid", "bad.wav", noise(99))
    splits.rows["valid"][-1] = ("bad.wav", LENGTH, 16000, "x")


def wrong_length(splits: Splits) -> None:
    splits.add("valid", "bad.wav", noise(99))
    splits.rows["valid"][-1] = ("bad.wav", LENGTH + 1, RATE, "x")


def clipped(splits: Splits) -> None:
    splits.add("valid", "bad.wav", np.clip(4 * np.sin(np.arange(LENGTH) * 0.05 * np.pi), -1, 1))


def clipped_in_one_channel(splits: Splits) -> None:
    loud = np.clip(4 * np.sin(np.arange(LENGTH) * 0.05 * np.pi), -1, 1)
    splits.add("valid", "bad.wav", np.stack([loud, 0.3 * noise(99)], axis=1))


def lossless_copy(splits: Splits) -> None:
    samples, _ = soundfile.read(splits.path("valid41.wav"), dtype="int16")
    splits.add("valid", "copy.flac", samples)


def features(values: np.ndarray, length: int) -> Callable[[Splits], None]:
    def add(splits: Splits) -> None:
        np.save(splits.path("bad.npy"), values)
        splits.list("valid", "bad.npy", length, 100)

    return add


FAULTS: list[tuple[Callable[[Splits], None], str, str]] = [
    (text, "unreadable", "holds text, not audio"),
    (empty, "unreadable", "is empty (0 bytes)"),
    (truncated, "unreadable", "is truncated"),
    (damaged, "unreadable", "is truncated"),
    (lambda splits: splits.list("valid", "absent.wav"), "unreadable", "does not exist"),
    (lambda splits: splits.list("valid", "../clips"), "unreadable", "is a folder"),
    (not_finite, "not_finite", "sample 7 is not a finite number"),
    (wrong_length, "wrong_length", "the manifest says 801, 800 can be decoded"),
    (wrong_rate, "wrong_rate", ".rates says 16000 Hz, the clip has 8000 Hz"),
    (lambda splits: splits.add("valid", "bad.wav", np.zeros(LENGTH)), "silent", "every sample is 0"),
    (lambda splits: splits.add("valid", "bad.wav", 1e-4 * noise(99), "FLOAT"), "silent", "the level is -90.9 dB"),
    (clipped, "clipped", "lie in runs at full scale"),
    (clipped_in_one_channel, "clipped", "lie in runs at full scale"),
    (lambda splits: splits.add("valid", "bad.wav", noise(99) + 0.1), "offset", "of full scale"),
    (lossless_copy, "duplicate", "the same samples as valid line 3"),
    (lambda splits: splits.list("valid", "valid41.wav"), "duplicate", "is the same file as valid line 3"),
    (lambda splits: splits.list("valid", "./valid41.wav"), "duplicate", "is the same file as valid line 3"),
    (lambda splits: splits.add("train", "copy.wav", noise(41)), "overlap", "the same samples as valid line 3"),
    (lambda splits: splits.list("train", "valid41.wav"), "overlap", "is the same file as valid line 3"),
    (lambda splits: splits.add("valid", "copy.wav", noise(3)), "overlap", "the same samples as valid line 7"),
    (features(np.full((1, 4, 9), np.inf, np.float32), 9), "not_finite", "frame 0 is not finite"),
    (features(np.ones((1, 4, 9), np.float32), 8), "wrong_length", "the manifest says 8, 9 can be decoded"),
    (features(np.ones(9, np.float32), 9), "unreadable", "has the shape (9,)"),
]


@pytest.mark.parametrize(("fault", "kind", "sentence"), FAULTS)
def test_a_fault_is_found_and_named(
    fault: Callable[[Splits], None], kind: str, sentence: str, splits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    fault(splits)
    assert splits.check() == 1
    ((_, _, name, found_kind, detail),) = splits.found()
    assert (found_kind, sentence in detail) == (kind, True), detail
    report = (splits.folder / "out" / "report.txt").read_text()
    assert f"{name}: {detail}" in report and f"{kind}: {KINDS[kind]} (1)" in report
    assert ": 1 finding (see" in capsys.readouterr().out


def test_digital_silence_with_an_offset_is_no_duplicate_of_others(splits: Splits) -> None:
    for number in range(3):
        splits.add("train", f"flat{number}.wav", np.full(LENGTH, 0.01))
    splits.check()
    assert [row[3] for row in splits.found()] == ["silent"] * 3


def test_the_same_samples_at_another_rate_are_another_clip(splits: Splits) -> None:
    samples, _ = soundfile.read(splits.path("valid41.wav"), dtype="int16")
    soundfile.write(splits.path("slow.wav"), samples, RATE // 2)
    splits.list("valid", "slow.wav", LENGTH, RATE // 2)
    assert splits.check() == 0


def test_minus_zero_is_zero(splits: Splits) -> None:
    samples = noise(99).astype(np.float32)
    for name, zero in (("a.wav", 0.0), ("b.wav", -0.0)):
        samples[5] = zero
        splits.add("valid", name, samples, "FLOAT")
    splits.check()
    assert [row[2:4] for row in splits.found()] == [["b.wav", "duplicate"]]


def test_a_peak_that_is_normalised_to_full_scale_is_not_clipped(splits: Splits) -> None:
    tone = np.sin(2 * np.pi * 440 / RATE * np.arange(LENGTH))
    splits.add("train", "tone.wav", tone / np.abs(tone).max())
    assert splits.check() == 0


def make_faults(splits: Splits) -> None:
    """One clip with each of some faults, a few times."""
    for number in range(3):
        splits.add("train", f"silent{number}.wav", np.zeros(LENGTH + number))
        splits.add("train", f"copy{number}.wav", noise(40 + number))
        splits.list("train", f"absent{number}.wav")
        splits.list("valid", f"train{number:02d}.wav")


FILES = ("findings.tsv", "report.txt")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_number_of_processes_does_not_matter(splits: Splits) -> None:
    make_faults(splits)
    assert splits.check("one") == splits.check("two", "--jobs", "2") == 1
    assert contents(splits.folder / "one") == contents(splits.folder / "two")


def test_the_parts_of_several_machines_are_the_whole(splits: Splits) -> None:
    make_faults(splits)
    splits.check("whole")
    parts = [f"part{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, start=1):
        splits.check(part, "--shard", f"{number}/3")
        assert f"(part {number} of 3)" in (splits.folder / part / "report.txt").read_text()
    sizes = [len(splits.found(part)) for part in parts]
    assert max(sizes) < len(splits.found("whole"))
    assert splits.check("merged", "--merge", *(str(splits.folder / part) for part in reversed(parts))) == 1
    assert contents(splits.folder / "merged") == contents(splits.folder / "whole")


def test_interrupted_and_going_on_gives_the_same(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    make_faults(splits)
    splits.check("whole")
    calls = []

    def counted(path: str, *_: object, **__: object) -> object:
        calls.append(path)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(measuring, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        splits.check()
    assert splits.check() == 1
    assert contents(splits.folder / "out") == contents(splits.folder / "whole")
    assert len(calls) < 40 + sum(map(len, splits.rows.values()))  # the first block was not decoded again
    assert not list((splits.folder / "out").glob(".*"))


def test_a_journal_of_another_manifest_is_not_used(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(check, "unpack_block", lambda result: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            splits.check()
    splits.rows["train"][0] = ("absent.wav", LENGTH, RATE, "x")
    assert splits.check() == 1
    assert [row[3] for row in splits.found()] == ["unreadable"]


def test_other_limits_need_no_second_decoding(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    splits.add("train", "quiet.wav", 0.01 * noise(99))
    assert splits.check() == 0
    monkeypatch.setattr(measuring, "read", None)
    assert splits.check("again", "--merge", str(splits.folder / "out"), "--silence-db", "-40") == 1
    assert [row[2:4] for row in splits.found("again")] == [["quiet.wav", "silent"]]


def test_what_is_ignored_is_no_finding(splits: Splits) -> None:
    make_faults(splits)
    assert splits.check("out", "--ignore", "overlap", "silent", "unreadable") == 0


def test_a_clip_may_have_several_findings(splits: Splits) -> None:
    splits.add("train", "bad.wav", np.full(LENGTH, 0.9))
    splits.rows["train"][-1] = ("bad.wav", 1, 1, "x")
    splits.check()
    assert [row[3] for row in splits.found()] == ["wrong_length", "wrong_rate", "silent", "offset"]


# ---------------------------------------------------------------------------------------------- good manifests


def test_the_good_rows_are_clean_and_keep_rates_and_labels(splits: Splits) -> None:
    make_faults(splits)
    good = splits.folder / "good"
    assert splits.check("out", "--write-good", str(good)) == 1
    assert main(["check", str(good), "--out", str(splits.folder / "again"), "--jobs", "1"]) == 0
    train, valid = (Manifest.load(good / f"{split}.tsv") for split in ("train", "valid"))
    # of clips that are in both splits those of the smaller one stay
    assert [Path(row.path).name for row in valid] == [name for name, *_ in splits.rows["valid"]]
    assert len(train) == 40 - 3
    assert train.sample_rates is not None and set(train.sample_rates.tolist()) == {RATE}
    assert all(row.label == label_of(Path(row.path).name) for row in train)


def test_good_manifests_never_replace_those_checked(splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    assert splits.check("out", "--write-good", str(splits.folder)) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert not (splits.folder / "out").exists()


# ---------------------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """Collects the words of a page and checks that its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.open = list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_is_whole_and_shows_findings_as_text(splits: Splits) -> None:
    name = "<b>ü & caf\udce9\r.wav"
    splits.list("train", name)
    for number in range(25):
        splits.list("valid", f"absent{number}.wav")
    assert splits.check("out", "--html") == 1
    html = (splits.folder / "out" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.open == []
    assert "<b>ü & caf\\udce9\\r.wav" in page.words
    assert "unreadable: the clip cannot be decoded (26, the first 20 of them; all are in findings.tsv)" in page.words
    assert "<svg" in html and html.count("<svg") == html.count("</svg>") == 1
    assert "src=" not in html and "<link" not in html and "<script" not in html
    # names that are no text are kept as they are in the complete list, a line break is not
    found = (splits.folder / "out" / "findings.tsv").read_bytes()
    assert b"train\t42\t<b>\xc3\xbc & caf\xe9\\r.wav\tunreadable\tdoes not exist" in found
    assert found.count(b"\n") == 27


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--jobs", "0"], "--jobs 0 is too few"),
        (["--silence-db", "80"], "--silence-db 80.0 is not below 0"),
        (["--silence-db", "nan"], "--silence-db nan is not below 0"),
        (["--max-clipped", "2"], "--max-clipped 2.0 must lie between 0 and 1"),
        (["--max-offset", "-1"], "--max-offset -1.0 must lie between 0 and 1"),
        (["--shard", "1/2", "--write-good", "x"], "--shard checks a part"),
        (["--shard", "1/2", "--merge", "x"], "--shard checks a part"),
        (["--merge", "absent"], "measured.npz does not exist: give to --merge the --out of the commands"),
    ],
)
def test_a_mistake_is_one_sentence_and_the_code_2(
    options: list[str], sentence: str, splits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    assert splits.check("out", *options) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("manifests: ") and sentence in errors and errors.count("\n") == 1


def test_a_part_that_is_missing_is_named(splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    make_faults(splits)
    splits.check("part", "--shard", "1/2")
    capsys.readouterr()
    assert splits.check("out", "--merge", str(splits.folder / "part")) == 2
    assert "rows are in none of the parts, the first is " in capsys.readouterr().err


def test_parts_of_other_manifests_are_refused(splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    splits.check("part")
    splits.rows["train"].reverse()
    assert splits.check("out", "--merge", str(splits.folder / "part")) == 2
    assert "was made of other manifests" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_a_file_that_is_no_part_is_refused(content: bytes, splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    (splits.folder / "part").mkdir()
    (splits.folder / "part" / "measured.npz").write_bytes(content)
    assert splits.check("out", "--merge", str(splits.folder / "part")) == 2
    assert "was not written by this command" in capsys.readouterr().err


def test_without_jinja2_the_page_is_refused_before_decoding(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("manifests.report.find_spec", lambda name: None)
    monkeypatch.setattr(jobs, "each", None)
    assert splits.check("out", "--html") == 2
    assert '--html needs jinja2: pip install "mae-ast-plugin[manifests]"' in capsys.readouterr().err


def test_manifests_of_the_same_name_cannot_be_written_to_one_folder(
    splits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits.write()
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "train.tsv", tmp_path / "other" / "train.tsv")
    manifests = [str(tmp_path / "train.tsv"), str(tmp_path / "other" / "train.tsv")]
    out = ["--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(["check", *manifests, *out, "--write-good", str(tmp_path / "good")]) == 2
    assert "different file names" in capsys.readouterr().err
    assert main(["check", *manifests, *out]) == 1
    assert len(splits.found()) == 40


# ---------------------------------------------------------------------------------------------- the parts


def runs_of(loud: list[bool]) -> Iterator[int]:
    length = 0
    for value in [*loud, False]:
        if not value and length:
            yield length
        length = length + 1 if value else 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.0]), min_size=1, max_size=60))
def test_clipped_samples_are_those_in_long_runs(samples: list[float]) -> None:
    expected = sum(length for length in runs_of([abs(value) == 1 for value in samples]) if length >= SHORTEST_RUN)
    assert clipped_share(np.array(samples, np.float32)) == pytest.approx(expected / len(samples))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=30))
def test_the_original_is_the_first_of_the_smallest_rank(clips: list[tuple[int, int, bool]]) -> None:
    keys = np.array([[key, 7] for key, _, _ in clips], np.uint64).reshape(-1, 2)
    rank = np.array([rank for _, rank, _ in clips], np.int64)
    rows = np.flatnonzero([eligible for _, _, eligible in clips])
    found = _originals(keys, rank, rows)
    for row, (key, _, eligible) in enumerate(clips):
        alike = sorted((clips[other][1], other) for other in rows.tolist() if clips[other][0] == key)
        original = alike[0][1] if eligible and alike[0][1] != row else -1
        assert found[row] == original
