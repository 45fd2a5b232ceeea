"""The account of clips that could not be read."""

from __future__ import annotations

import logging

import pytest

from mae_ast_plugin.data.unreadable import JUDGE_FROM, UnreadableClips
from mae_ast_plugin.errors import PlainError


def test_a_clip_is_told_once_however_often_it_is_met(caplog: pytest.LogCaptureFixture) -> None:
    clips = UnreadableClips(max_share=0.5)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clips.report("train", [(7, "/audio/seven.wav: is empty")])
    assert len(caplog.records) == 1
    assert "row 7 of train: /audio/seven.wav: is empty" in caplog.text


def test_clips_are_kept_in_the_order_of_the_manifest() -> None:
    clips = UnreadableClips(max_share=1.0)
    for row in (30, 4, 12):
        clips.report("train", [(row, f"reason {row}")])
    assert list(clips.found.items()) == [(("train", row), f"reason {row}") for row in (4, 12, 30)]


def test_too_large_a_share_ends_the_run_with_the_first_clip_of_the_manifest() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.report("train", [(row, f"{row}.wav: is empty") for row in (90, 5, 20, 2)])
    clips.judge("training", num_unreadable=1, num_read=60, num_clips=1000)
    with pytest.raises(PlainError) as error:
        clips.judge("training", num_unreadable=12, num_read=60, num_clips=1000)
    assert "13 of the 120 clips read so far for training" in str(error.value)
    assert "task.max_unreadable=0.1" in str(error.value)
    assert "2.wav: is empty" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_share_is_not_judged_before_enough_clips_were_read() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.judge("training", JUDGE_FROM - 1, JUDGE_FROM - 1, num_clips=100000)
    with pytest.raises(PlainError):
        clips.judge("training", 0, 1, num_clips=100000)


def test_a_small_split_is_judged_once_it_was_read_whole() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.judge("validation", 2, 4, num_clips=8)
    with pytest.raises(PlainError):
        clips.judge("validation", 0, 4, num_clips=8)


def test_a_share_of_exactly_the_limit_is_accepted() -> None:
    clips = UnreadableClips(max_share=0.25)
    clips.judge("training", 2, 8, num_clips=8)


def test_a_limit_of_zero_ends_the_run_at_the_first_clip_of_a_split_read_whole() -> None:
    clips = UnreadableClips(max_share=0.0)
    clips.judge("training", 0, 8, num_clips=8)
    with pytest.raises(PlainError):
        clips.judge("training", 1, 1, num_clips=8)


def test_the_share_is_not_diluted_by_epochs() -> None:
    clips = UnreadableClips(max_share=0.5)
    for _ in range(20):
        clips.judge("training", 4, 10, num_clips=10)
    with pytest.raises(PlainError):
        for _ in range(40):
            clips.judge("training", 6, 10, num_clips=10)


def test_training_and_validation_are_judged_apart() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.judge("validation", 1, 5, num_clips=1000)
    clips.judge("training", 0, 200, num_clips=1000)
    with pytest.raises(PlainError, match="for validation"):
        clips.judge("validation", 19, 100, num_clips=1000)
