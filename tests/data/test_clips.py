"""Clips as a dataset: crops, replacements, filters, batches. All audio is made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mae_ast_plugin.audio.frontend import as_float
from mae_ast_plugin.audio.manifest import Manifest, write_manifest
from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import MAX_NEIGHBOURS, Clip, ClipDataset
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import TaskSettings

Corpus = Callable[..., ClipDataset]
SHORTEST = 2800  # samples of 16 frames at 16 kHz
STEP = 2.0**-15  # between two samples of a ramp: exact in 16 bits


def ramp(num_samples: int, begin: int = 0) -> np.ndarray:
    """A waveform whose value tells its place."""
    return ((np.arange(num_samples) + begin) % 30000 * STEP).astype(np.float32)


@pytest.fixture
def make(tmp_path: Path) -> Corpus:
    """Write waveforms (or raw bytes of broken files) and open them as a dataset."""

    def dataset(
        waveforms: list[np.ndarray | bytes],
        *,
        rates: list[int] | None = None,
        with_rates: bool = True,
        seed: int = 1,
        epoch_matters: bool = True,
        **task: Any,
    ) -> ClipDataset:
        rates = rates or [16000] * len(waveforms)
        rows = []
        for number, (waveform, rate) in enumerate(zip(waveforms, rates, strict=True)):
            path = tmp_path / f"{number}.wav"
            if isinstance(waveform, bytes):
                path.write_bytes(waveform)
                rows.append((path.name, 16000))
            else:
                finite = np.isfinite(waveform).all()
                soundfile.write(path, waveform, rate, subtype="PCM_16" if finite else "FLOAT")
                rows.append((path.name, len(waveform)))
        write_manifest(tmp_path / "train.tsv", tmp_path, rows, rates=rates if with_rates else None)
        settings = TaskSettings(**{"data": str(tmp_path), **task})
        return ClipDataset(
            "train",
            Manifest.load(tmp_path / "train.tsv"),
            settings,
            frontend_of(settings),
            min_frames=16,
            seed=seed,
            epoch_matters=epoch_matters,
        )

    return dataset


def first_place(clip: Clip) -> int:
    return round(float(as_float(clip.waveform)[0]) / STEP)


# ---- crops


def test_a_crop_depends_on_seed_epoch_and_row_alone(make: Corpus) -> None:
    waveforms: list[np.ndarray | bytes] = [ramp(20000) for _ in range(3)]
    data = make(waveforms, max_sample_size=4000)
    here = data[ClipRef(1, 2, 0)]
    for row in (0, 2, 1):
        data[ClipRef(row, 5, 3)]
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(data[ClipRef(1, 2, 77)].waveform, here.waveform)
    assert len(here.waveform) == 4000

    places = {first_place(data[ClipRef(row, epoch, 0)]) for row in range(3) for epoch in range(4)}
    assert len(places) == 12
    other_seed = make(waveforms, max_sample_size=4000, seed=2)
    assert first_place(other_seed[ClipRef(1, 2, 0)]) != first_place(here)


def test_crops_reach_from_the_first_to_the_last_sample(make: Corpus) -> None:
    data = make([ramp(4003)], max_sample_size=4000)
    assert {first_place(data[ClipRef(0, epoch, 0)]) for epoch in range(40)} == {0, 1, 2, 3}


def test_without_random_crops_every_clip_begins_at_its_beginning(make: Corpus) -> None:
    data = make([ramp(20000)], max_sample_size=4000, random_crop=False)
    assert [first_place(data[ClipRef(0, epoch, 0)]) for epoch in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("with_rates", [True, False])
def test_a_crop_of_a_clip_at_another_rate_has_the_wanted_length_and_a_random_place(
    make: Corpus, with_rates: bool
) -> None:
    data = make([ramp(24000)], rates=[8000], with_rates=with_rates, max_sample_size=8000)
    crops = [data[ClipRef(0, epoch, 0)].waveform for epoch in range(4)]
    assert [len(crop) for crop in crops] == [8000] * 4
    assert len({round(float(crop[100]), 3) for crop in crops}) == 4


def test_clips_shorter_than_the_limit_come_whole_at_the_wanted_rate(make: Corpus) -> None:
    data = make([ramp(5000), ramp(5000)], rates=[16000, 8000])
    assert [len(data[ClipRef(row, 1, 0)].waveform) for row in (0, 1)] == [5000, 10000]
    assert list(data.sizes) == [5000, 10000]


def test_validation_batches_are_the_same_in_every_epoch(make: Corpus) -> None:
    waveforms: list[np.ndarray | bytes] = [ramp(3000 + 10 * row) for row in range(20)]

    def rows(data: ClipDataset, epoch: int) -> list[list[int]]:
        return [batch.rows.tolist() for batch in data.batches(epoch, None, 4, 1, 1)]

    same, anew = make(waveforms, epoch_matters=False), make(waveforms)
    assert rows(same, 1) == rows(same, 9)
    assert rows(anew, 1) != rows(anew, 9)
    assert {ref.epoch for batch in same.batches(9, None, 4, 1, 1) for ref in batch} == {0}


# ---- clips that cannot be read


def test_an_unreadable_clip_is_replaced_by_its_neighbour_and_named(make: Corpus) -> None:
    data = make([ramp(4000), b"this is a text file, not audio\n", ramp(4000, begin=7)])
    clip = data[ClipRef(1, 1, 0)]
    assert first_place(clip) == 7
    [(row, reason)] = clip.unreadable
    assert row == 1
    assert "1.wav: holds text, not audio" in reason


def test_the_last_clip_is_replaced_by_the_first(make: Corpus) -> None:
    data = make([ramp(4000, begin=3), ramp(4000), b""])
    assert first_place(data[ClipRef(2, 1, 0)]) == 3


def test_a_clip_with_a_sample_that_is_no_number_is_replaced(make: Corpus) -> None:
    spoilt = ramp(4000)
    spoilt[1234] = np.nan
    clip = make([spoilt, ramp(4000, begin=5)])[ClipRef(0, 1, 0)]
    assert first_place(clip) == 5
    assert "sample 1234 is not a finite number" in clip.unreadable[0][1]


def test_a_clip_that_is_gone_is_replaced(make: Corpus, tmp_path: Path) -> None:
    data = make([ramp(4000), ramp(4000, begin=5)])
    (tmp_path / "0.wav").unlink()
    clip = data[ClipRef(0, 1, 0)]
    assert first_place(clip) == 5
    assert "does not exist" in clip.unreadable[0][1]


def test_a_clip_shorter_than_one_patch_is_replaced_where_the_manifest_could_not_tell(make: Corpus) -> None:
    data = make([ramp(SHORTEST - 1), ramp(SHORTEST, begin=5)], with_rates=False)
    clip = data[ClipRef(0, 1, 0)]
    assert first_place(clip) == 5
    assert f"has {SHORTEST - 1} samples at 16000 Hz, one patch needs {SHORTEST}" in clip.unreadable[0][1]


@pytest.mark.parametrize("num_clips", [1, 3, MAX_NEIGHBOURS + 5])
def test_nothing_readable_is_a_plain_error_that_names_manifest_root_and_first_file(
    make: Corpus, tmp_path: Path, num_clips: int
) -> None:
    data = make([b"no audio"] * num_clips)
    with pytest.raises(PlainError) as error:
        data[ClipRef(0, 1, 0)]
    sentence = str(error.value)
    assert f"{min(num_clips, MAX_NEIGHBOURS)} clips in a row are unreadable" in sentence
    assert str(tmp_path / "train.tsv") in sentence
    assert f"({tmp_path})" in sentence
    assert "0.wav" in sentence
    assert "\n" not in sentence


# ---- which clips are kept


def test_lengths_are_judged_at_the_common_rate_where_rates_are_known(make: Corpus) -> None:
    waveforms: list[np.ndarray | bytes] = [ramp(n) for n in (1399, 1400, 3000, 9000)]
    data = make(waveforms, rates=[8000] * 4)
    assert list(data.rows) == [1, 2, 3]  # 2798 samples at 16 kHz are less than one patch
    assert data.num_short == 1
    data = make(waveforms, rates=[8000] * 4, min_sample_size=5000, max_keep_size=17000)
    assert list(data.rows) == [2]
    assert (data.num_short, data.num_long) == (2, 1)


def test_lengths_are_judged_as_written_where_rates_are_unknown(make: Corpus) -> None:
    waveforms: list[np.ndarray | bytes] = [ramp(n) for n in (1399, 3000, 9000)]
    data = make(waveforms, rates=[8000] * 3, with_rates=False)
    assert list(data.rows) == [0, 1, 2]
    data = make(waveforms, rates=[8000] * 3, with_rates=False, min_sample_size=2000, max_keep_size=8000)
    assert list(data.rows) == [1]


def test_the_limits_themselves_are_kept(make: Corpus) -> None:
    data = make([ramp(3000), ramp(3001), ramp(2999)], min_sample_size=3000, max_keep_size=3000)
    assert list(data.rows) == [0]


def test_a_row_of_a_filtered_dataset_is_the_clip_it_counts(make: Corpus) -> None:
    data = make([ramp(3000), ramp(4000, begin=5), ramp(3000), ramp(5000, begin=9)], min_sample_size=3500)
    clips = [data[ClipRef(row, 1, 0)] for row in range(2)]
    assert [first_place(clip) for clip in clips] == [5, 9]
    assert data.collater(clips)["id"].tolist() == [1, 3]


def test_limits_that_leave_nothing_are_a_plain_error_with_the_lengths_found(make: Corpus) -> None:
    with pytest.raises(PlainError, match=r"none of its 2 clips .* \(shortest 3000, longest 4000\)"):
        make([ramp(3000), ramp(4000)], min_sample_size=5000)


def test_a_crop_shorter_than_one_patch_is_a_plain_error(make: Corpus) -> None:
    with pytest.raises(
        PlainError, match=f"task.max_sample_size is {SHORTEST - 1} samples, but one patch needs {SHORTEST}"
    ):
        make([ramp(4000)], max_sample_size=SHORTEST - 1)


def test_a_batch_limit_below_the_longest_clip_is_a_plain_error(make: Corpus) -> None:
    data = make([ramp(3000), ramp(9000)])
    with pytest.raises(PlainError, match=r"dataset.max_tokens is 8000 .* \(9000\)"):
        data.batches(1, 8000, None, 1, 1)


# ---- batches


def collate(data: ClipDataset, rows: list[int], epoch: int = 1) -> dict[str, Any]:
    return data.collater([data[ClipRef(row, epoch, 0)] for row in rows])


def test_clips_are_padded_to_the_longest_by_default(make: Corpus) -> None:
    batch = collate(make([ramp(3000), ramp(5000)]), [0, 1])
    net_input = batch["net_input"]
    assert net_input["lengths"] == [3000, 5000]
    assert net_input["waveforms"].shape == (2, 5000)
    assert not net_input["waveforms"][0, 3000:].any()
    assert net_input["weight"] == 1
    assert batch["nsentences"] == 2
    assert batch["audio_seconds"] == pytest.approx(8000 / 16000)


def test_without_padding_all_clips_are_cropped_to_the_shortest_at_random_places(make: Corpus) -> None:
    data = make([ramp(3000), ramp(5000), ramp(9000)], pad_audio=False)
    batches = [collate(data, [0, 1, 2], epoch)["net_input"] for epoch in (1, 1, 2)]
    assert all(batch["lengths"] == [3000] * 3 and batch["waveforms"].shape == (3, 3000) for batch in batches)
    assert torch.equal(batches[0]["waveforms"], batches[1]["waveforms"])
    assert not torch.equal(batches[0]["waveforms"], batches[2]["waveforms"])
    steps = as_float(batches[0]["waveforms"]).diff(dim=1)
    assert torch.equal(steps, torch.full_like(steps, STEP))


def test_seeds_of_masks_follow_the_clip_and_those_of_shared_masks_the_batch(make: Corpus) -> None:
    data = make([ramp(3000) for _ in range(4)])
    here, there = collate(data, [0, 1])["net_input"], collate(data, [1, 3])["net_input"]
    assert here["clip_seeds"][1] == there["clip_seeds"][0]
    assert len({*here["clip_seeds"].tolist(), *there["clip_seeds"].tolist()}) == 3
    assert here["batch_seed"] == there["batch_seed"]
    assert collate(data, [0, 1], epoch=2)["net_input"]["batch_seed"] != here["batch_seed"]


def test_a_batch_without_clips_has_no_weight(make: Corpus) -> None:
    batch = make([ramp(3000), ramp(4000)]).collater([])
    assert batch["net_input"]["weight"] == 0
    assert batch["audio_seconds"] == 0
    assert batch["net_input"]["waveforms"].shape[0] == len(batch["net_input"]["lengths"]) == 1


def test_unreadable_clips_travel_with_the_batch(make: Corpus) -> None:
    batch = collate(make([ramp(3000), b"no audio", ramp(4000)]), [0, 1, 2])
    assert [row for row, _ in batch["unreadable"]] == [1]
    assert batch["nsentences"] == 3


def test_features_from_the_loader_are_those_of_the_device(make: Corpus) -> None:
    noise = np.random.default_rng(0)
    waveforms: list[np.ndarray | bytes] = [0.1 * noise.standard_normal(n) for n in (4000, 9000, 6001)]
    device = collate(make(waveforms), [0, 1, 2])["net_input"]
    data = make(waveforms, features_on="loader")
    loader = collate(data, [0, 1, 2])["net_input"]
    assert "waveforms" not in loader
    assert loader["lengths"] == device["lengths"]
    expected = data.frontend(device["waveforms"])
    assert loader["features"].shape == expected.shape
    for found, wanted, length in zip(loader["features"], expected, loader["lengths"], strict=True):
        frames = data.frontend.num_frames(length)
        torch.testing.assert_close(found[:frames], wanted[:frames], rtol=0, atol=1e-4)


def test_the_original_resampler_gives_the_same_length_as_the_default(make: Corpus) -> None:
    lengths = [
        len(make([ramp(5001)], rates=[8000], resampler=name)[ClipRef(0, 1, 0)].waveform)
        for name in ("soxr", "sinc_hann")
    ]
    assert lengths == [10002, 10002]


# ---- pieces


def test_the_pieces_of_a_clip_are_its_consecutive_whole_parts(make: Corpus) -> None:
    lengths = [20000, 3500, 8000, 4000, 7999]
    data = make([ramp(length) for length in lengths], max_sample_size=4000, cut="pieces")
    assert data.rows.tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 3, 4]
    clips = [data[ClipRef(entry, 1, 0)] for entry in range(len(data))]
    assert [first_place(clip) for clip in clips] == [0, 4000, 8000, 12000, 16000, 0, 0, 4000, 0, 0]
    assert [len(clip.waveform) for clip in clips] == [4000] * 5 + [3500] + [4000] * 4
    assert data.sizes.tolist() == [len(clip.waveform) for clip in clips]


def test_all_pieces_are_the_whole_clip(make: Corpus) -> None:
    lengths = [20001, 3500, 4000 + SHORTEST, 3999 + SHORTEST]
    data = make([ramp(length) for length in lengths], max_sample_size=4000, cut="all_pieces")
    clips = [data[ClipRef(entry, 1, 0)] for entry in range(len(data))]
    assert data.sizes.tolist() == [len(clip.waveform) for clip in clips]
    for row, length in enumerate(lengths):
        pieces = [as_float(clip.waveform).numpy() for clip, own in zip(clips, data.rows, strict=True) if own == row]
        left = length % 4000 if length > 4000 and length % 4000 < SHORTEST else 0  # less than a patch
        np.testing.assert_array_equal(np.concatenate(pieces), ramp(length - left))


def test_pieces_are_counted_at_the_rate_of_each_file(make: Corpus) -> None:
    data = make([ramp(12000), ramp(24000)], rates=[8000, 32000], max_sample_size=6000, cut="pieces")
    assert data.rows.tolist() == [0, 0, 0, 0, 1, 1]
    assert [len(data[ClipRef(entry, 1, 0)].waveform) for entry in range(6)] == [6000] * 6


def test_every_epoch_has_every_piece_once(make: Corpus) -> None:
    data = make([ramp(length) for length in (20000, 3500, 9000)], max_sample_size=4000, cut="pieces")
    for epoch in (1, 2):
        dealt = [ref.row for batch in data.batches(epoch, 8000, None, 1, 1) for ref in batch]
        assert sorted(dealt) == list(range(8))


def test_pieces_without_known_rates_are_refused(make: Corpus) -> None:
    with pytest.raises(PlainError, match=r"has no sample rates beside it \(\.rates\)"):
        make([ramp(20000)], max_sample_size=4000, cut="pieces", with_rates=False)
