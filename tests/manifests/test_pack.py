"""The pack command: packed clips are the clips, labels stay, the same input gives the same bytes."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.audio.reader import read
from manifests import pack, shard_files
from manifests.__main__ import main
from manifests.keys import unique_keys
from manifests.packed_clips import lossless_flac

SUBTYPES = ["PCM_16", "PCM_24", "PCM_U8", "PCM_32", "FLOAT"]


def noise(num_samples: int = 400, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (num_samples, channels))


def make_clip(path: Path, num_samples: int = 400, rate: int = 8000, channels: int = 1, **kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as handle:
        soundfile.write(handle, noise(num_samples, channels), rate, format=path.suffix[1:], **kind)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Seven clips of several kinds, some with labels, as ``train.tsv``."""
    for index, subtype in enumerate(SUBTYPES):
        make_clip(
            tmp_path / "clips" / f"{subtype}.wav", 400 + index, 8000 + index, channels=1 + index % 2, subtype=subtype
        )
    make_clip(tmp_path / "clips" / "a" / "b.c.flac", 500)
    make_clip(tmp_path / "clips" / "lossy.ogg", 900)
    rows = [(f"{subtype}.wav", 400 + index) for index, subtype in enumerate(SUBTYPES)]
    labels = ["dog", "dog,cat", None, "ü", "a b", "x", None]
    write_manifest(
        tmp_path / "train.tsv", tmp_path / "clips", [*rows, ("a/b.c.flac", 500), ("lossy.ogg", 900)], labels=labels
    )
    return tmp_path / "train.tsv"


def run(source: Path, out: Path, *options: str) -> int:
    return main(["pack", str(source), "--out", str(out), "--jobs", "1", *options])


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def written(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if not path.name.startswith(".")}


def assert_same_clips(before: Path, after: Path) -> None:
    first, second = Manifest.load(before), Manifest.load(after)
    assert len(first) == len(second)
    assert second.sample_rates is not None
    for old, new, stated in zip(first, second, second.sample_rates, strict=True):
        waveform, rate = read(old.path)
        packed, packed_rate = read(new.path)
        np.testing.assert_array_equal(packed, waveform)
        assert (new.length, stated, packed_rate, new.label) == (len(waveform), rate, rate, old.label)


# ---------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("options", [[], ["--flac"], ["--per-shard", "2"], ["--flac", "--per-shard", "3"]])
def test_packed_clips_are_the_clips_sample_for_sample_with_their_labels(
    manifest: Path, tmp_path: Path, options: list[str]
) -> None:
    assert run(manifest, tmp_path / "out", *options) == 0
    assert_same_clips(manifest, tmp_path / "out" / "train.tsv")


@pytest.mark.parametrize("count", ["1", "2"])
def test_listing_the_shards_gives_the_rows_that_packing_gave(manifest: Path, tmp_path: Path, count: str) -> None:
    assert main(["pack", str(manifest), "--out", str(tmp_path / "out"), "--per-shard", "2", "--jobs", count]) == 0
    listing = ["tar", str(tmp_path / "out"), "--out", str(tmp_path / "listed"), "--jobs", "1"]
    assert main([*listing, "--valid", "0", "--test", "0"]) == 0
    for ending in ("tsv", "rates"):
        assert written(tmp_path / "out")[f"train.{ending}"] == written(tmp_path / "listed")[f"train.{ending}"]


def test_the_same_clips_give_the_same_bytes_in_any_number_of_processes(manifest: Path, tmp_path: Path) -> None:
    for count in ("1", "2"):
        out = tmp_path / count / "out"
        assert main(["pack", str(manifest), "--out", str(out), "--per-shard", "2", "--jobs", count]) == 0
    first, second = written(tmp_path / "1" / "out"), written(tmp_path / "2" / "out")
    assert len(first) == 4 + 3
    assert {name: data for name, data in first.items() if name != "train.tsv"} == {
        name: data for name, data in second.items() if name != "train.tsv"
    }
    assert first["train.tsv"].split(b"\n")[1:] == second["train.tsv"].split(b"\n")[1:]


def test_shares_of_machines_are_merged_to_the_whole(manifest: Path, tmp_path: Path) -> None:
    options = ["--per-shard", "1", "--jobs", "1"]
    assert run(manifest, tmp_path / "whole", *options) == 0
    for part in "12":
        assert run(manifest, tmp_path / "parts" / part, *options, "--shard", f"{part}/2") == 0
    parts = [str(tmp_path / "parts" / part / "train.tsv") for part in "12"]
    assert main(["merge", *parts, "--out", str(tmp_path / "merged.tsv")]) == 0
    names = [os.path.basename(row.path) for row in Manifest.load(tmp_path / "merged.tsv")]
    assert sorted(names) == [os.path.basename(row.path) for row in Manifest.load(tmp_path / "whole" / "train.tsv")]


def test_interrupted_work_goes_on_and_ends_with_the_same_bytes(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(manifest, tmp_path / "whole" / "out", "--per-shard", "2") == 0
    packed: list[str] = []
    original = shard_files.pack_clip

    def stop_at_the_sixth(path: str, *rest: object) -> object:
        if len(packed) == 5:
            raise KeyboardInterrupt
        packed.append(path)
        return original(path, *rest)  # type: ignore[arg-type]

    out = tmp_path / "out"
    monkeypatch.setattr(shard_files, "pack_clip", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        run(manifest, out, "--per-shard", "2")
    assert sorted(path.name for path in out.glob("*.tar")) == ["train-000000.tar", "train-000001.tar"]
    with open(out / "train-000001.tar", "r+b") as handle:  # a disk that lost what was written
        handle.truncate(1000)
    packed.clear()
    monkeypatch.setattr(shard_files, "pack_clip", lambda path, *rest: packed.append(path) or original(path, *rest))
    assert run(manifest, out, "--per-shard", "2") == 0
    assert len(packed) == 5  # all but the two clips of the first shard
    assert [path.name for path in out.glob(".*")] == [".train.packed"]
    after, whole = written(out), written(tmp_path / "whole" / "out")
    assert after.keys() == whole.keys()
    assert all(after[name] == whole[name] for name in whole if name != "train.tsv")


@pytest.mark.parametrize("kind", ["tar", "hdf5"])
def test_killed_work_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, kind: str) -> None:
    for index in range(8):
        make_clip(tmp_path / "in" / f"{index}.wav", 4000)
    options = {"tar": ["--per-shard", "2", "--flac"], "hdf5": ["--hdf5"]}[kind]
    original = shard_files.pack_clip

    def pack_until_killed(num_clips: int) -> int | None:
        calls = []

        def pack_clip(*arguments: object) -> object:
            calls.append(arguments)
            if len(calls) > num_clips:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pack, "PER_SHARD", 2)
            patch.setattr(shard_files, "pack_clip", pack_clip)
            child = multiprocessing.get_context("fork").Process(
                target=run, args=(tmp_path / "in", tmp_path / "out", *options)
            )
            child.start()
            child.join(60)
        return child.exitcode

    assert pack_until_killed(5) == -signal.SIGKILL
    assert pack_until_killed(4) == 0  # two shards of two are complete: four clips are left
    assert not list((tmp_path / "out").glob(".*.tmp")) and not list((tmp_path / "out").glob(".*.plan"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "PER_SHARD", 2)
        assert run(tmp_path / "in", tmp_path / "whole", *options) == 0
    after, whole = written(tmp_path / "out"), written(tmp_path / "whole")
    assert after.keys() == whole.keys()
    assert all(after[name] == whole[name] for name in whole if name != "in.tsv")


@pytest.mark.parametrize("kind", [[], ["--hdf5"]])
def test_complete_work_is_not_done_again(
    tmp_path: Path, kind: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(4):
        make_clip(tmp_path / "in" / f"{index}.wav", 4000)
    assert run(tmp_path / "in", tmp_path / "out", *kind) == 0
    before = written(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.delattr(shard_files, "pack_clip")
        assert run(tmp_path / "in", tmp_path / "out", *kind) == 0
    assert "1 of 1 shards are complete already" in capsys.readouterr().out
    assert written(tmp_path / "out") == before


def test_shards_with_clips_that_could_not_be_read_are_tried_again(tmp_path: Path) -> None:
    make_clip(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "b.wav").write_text("<html>")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    make_clip(tmp_path / "in" / "b.wav")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert list(members_of(tmp_path / "out" / "in-000000.tar")) == ["a.wav", "a.json", "b.wav", "b.json"]
    assert written(tmp_path / "out")["in-unreadable.tsv"] == b""


def test_a_shard_is_packed_again_as_it_was_also_from_a_shard(manifest: Path, tmp_path: Path) -> None:
    assert run(manifest, tmp_path / "out") == 0
    assert run(tmp_path / "out" / "train.tsv", tmp_path / "again") == 0
    assert_same_clips(manifest, tmp_path / "again" / "train.tsv")
    first, again = (
        members_of(tmp_path / "out" / "train-000000.tar"),
        members_of(tmp_path / "again" / "train-000000.tar"),
    )
    assert first.keys() == again.keys()


def test_members_of_a_zip_keep_their_names(tmp_path: Path) -> None:
    make_clip(tmp_path / "x.wav")
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(tmp_path / "x.wav", "folder/one.wav")
    write_manifest(tmp_path / "z.tsv", tmp_path, [("clips.zip:folder/one.wav", 400)])
    assert run(tmp_path / "z.tsv", tmp_path / "out") == 0
    assert list(members_of(tmp_path / "out" / "z-000000.tar")) == ["one.wav", "one.json"]
    assert_same_clips(tmp_path / "z.tsv", tmp_path / "out" / "z.tsv")


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.integers(0, 3000), st.integers(1, 3), st.sampled_from(["PCM_16", "PCM_24", "PCM_U8"]), st.integers(0, 2**20))
def test_flac_without_loss_has_every_sample(num_samples: int, channels: int, subtype: str, seed: int) -> None:
    source = io.BytesIO()
    soundfile.write(source, 2 * noise(num_samples, channels, seed), 44100, format="WAV", subtype=subtype)
    flac = lossless_flac(source.getvalue())
    if flac is None:
        assert num_samples == 0
        return
    before, after = (soundfile.read(io.BytesIO(data), dtype="float32")[0] for data in (source.getvalue(), flac))
    np.testing.assert_array_equal(before, after)


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["a.wav", "x/a.wav", "a_2.wav", "a.b.wav", "a_b.ogg", "a_2_2.wav", ".wav", "..", "a"])))
def test_keys_occur_once_and_have_no_dot(names: list[str]) -> None:
    keys = list(unique_keys(names))
    assert len(set(keys)) == len(keys) == len(names)
    assert all(key and "." not in key and "/" not in key for key in keys)


# ---------------------------------------------------------------------------------------------- what is in a shard


def test_members_are_named_as_dashengs_loader_wants_and_say_where_they_came_from(
    manifest: Path, tmp_path: Path
) -> None:
    assert run(manifest, tmp_path / "out") == 0
    members = members_of(tmp_path / "out" / "train-000000.tar")
    assert list(members)[:4] == ["PCM_16.wav", "PCM_16.json", "PCM_24.wav", "PCM_24.json"]
    assert members["PCM_16.wav"] == (tmp_path / "clips" / "PCM_16.wav").read_bytes()
    assert json.loads(members["b_c.json"]) == {
        "name": "a/b.c.flac", "label": "x", "num_samples": 500, "sample_rate": 8000
    }  # fmt: skip
    assert "label" not in json.loads(members["lossy.json"])


def test_only_what_keeps_every_sample_becomes_flac(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(manifest, tmp_path / "out", "--flac") == 0
    names = {name for name in members_of(tmp_path / "out" / "train-000000.tar") if not name.endswith(".json")}
    assert names == {"PCM_16.flac", "PCM_24.flac", "PCM_U8.flac", "PCM_32.wav", "FLOAT.wav", "b_c.flac", "lossy.ogg"}
    assert "7 clips in 1 files: 4 copied, 3 encoded without loss, 0 converted" in capsys.readouterr().out


def test_clips_of_another_rate_are_resampled_and_the_others_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "clips" / "right.wav", 1600, 16000)
    make_clip(tmp_path / "clips" / "wrong.wav", 3200, 32000, channels=2)
    soundfile.write(tmp_path / "clips" / "loud.wav", np.full(800, 1.5), 8000, subtype="FLOAT")
    assert run(tmp_path / "clips", tmp_path / "out", "--sample-rate", "16000") == 0
    manifest = Manifest.load(tmp_path / "out" / "clips.tsv")
    assert manifest.sample_rates is not None and set(manifest.sample_rates.tolist()) == {16000}
    loud, right, wrong = manifest
    np.testing.assert_array_equal(read(right.path)[0], read(tmp_path / "clips" / "right.wav")[0])
    expected, _ = read(tmp_path / "clips" / "wrong.wav", sample_rate=16000)
    assert wrong.length == len(expected)
    np.testing.assert_allclose(read(wrong.path)[0], expected, atol=0.5001 / 32768)
    assert read(loud.path)[0].max() == np.float32(32767 / 32768)
    printed = capsys.readouterr().out
    assert "1 copied, 0 encoded without loss, 2 converted" in printed
    assert "1 of the converted clips were louder than full scale" in printed


def test_what_cannot_be_read_is_listed_and_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "clips" / "good.wav")
    (tmp_path / "clips" / "page.wav").write_text("<html>")
    (tmp_path / "clips" / "tab\there.wav").write_text("<html>")
    assert run(tmp_path / "clips", tmp_path / "out") == 0
    lines = (tmp_path / "out" / "clips-unreadable.tsv").read_text().splitlines()
    assert "tab\\there.wav\tits name has a TAB" in lines[0] and "page.wav\tholds text" in lines[1]
    assert "2 unreadable" in capsys.readouterr().out
    assert list(members_of(tmp_path / "out" / "clips-000000.tar")) == ["good.wav", "good.json"]


def test_a_clip_without_an_ending_gets_that_of_its_content(tmp_path: Path) -> None:
    make_clip(tmp_path / "x.flac")
    (tmp_path / "x.flac").rename(tmp_path / "nameless")
    write_manifest(tmp_path / "m.tsv", tmp_path, [("nameless", 400)])
    assert run(tmp_path / "m.tsv", tmp_path / "out") == 0
    assert list(members_of(tmp_path / "out" / "m-000000.tar")) == ["nameless.flac", "nameless.json"]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--per-shard", "0"], "--per-shard 0 is too few"),
        (["--sample-rate", "0"], "--sample-rate 0 is no rate"),
        (["--hdf5", "--flac"], "--hdf5 holds MP3 and --flac asks for FLAC"),
        (["--classes", "x.csv"], "--classes belongs to --hdf5"),
        (["--name", "a/b"], "the name 'a/b' of the shards has a '/'"),
        (["--name", ".x"], "begins with a dot"),
        (["--shard", "2/500"], "there are only 1 shards, none is for --shard 2/500: use fewer"),
        (["--jobs", "0"], "--jobs 0 is too few"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run(manifest, tmp_path / "out", *options) == 2
    assert sentence in (errors := capsys.readouterr().err)
    assert errors.startswith("manifests: ") and "Traceback" not in errors


def test_the_manifest_that_is_packed_is_not_replaced(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest.read_bytes()
    assert run(manifest, tmp_path) == 2
    assert "train.tsv would replace the manifest that is packed" in capsys.readouterr().err
    assert manifest.read_bytes() == before
    assert not list(tmp_path.glob("*.tar"))


def test_files_of_another_packing_are_not_mixed_with_the_new_ones(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(manifest, tmp_path / "out", "--per-shard", "2") == 0
    before = written(tmp_path / "out")
    assert run(manifest, tmp_path / "out", "--per-shard", "4") == 2
    assert run(tmp_path / "clips", tmp_path / "out", "--per-shard", "2", "--name", "train") == 2
    assert capsys.readouterr().err.count("train-000000.tar is of another packing (other clips or options)") == 2
    assert written(tmp_path / "out") == before
    assert run(manifest, tmp_path / "out", "--per-shard", "4", "--name", "other") == 0
    (tmp_path / "out" / ".train.packed").unlink()
    assert run(manifest, tmp_path / "out", "--per-shard", "2") == 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent.tsv", "absent.tsv does not exist"),
        ("clips.zip", "clips.zip is neither a folder nor a manifest"),
        ("empty", "empty holds no file that ends in"),
        ("features.tsv", "features.tsv line 2: x.npy is features"),
        ("text.tsv", "no clip below"),
    ],
)
def test_an_input_that_cannot_be_packed_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.wav").write_text("<html>")
    write_manifest(tmp_path / "features.tsv", tmp_path, [("x.npy", 9)])
    write_manifest(tmp_path / "text.tsv", tmp_path, [("page.wav", 9)])
    assert run(tmp_path / name, tmp_path / "out") == 2
    assert sentence in capsys.readouterr().err
