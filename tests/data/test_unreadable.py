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
            clips.report("train", [(7, "/audio/seven.wav: is empty")], num_read=10, num_clips=50)
    assert len(caplog.records) == 1
    assert "row 7 of train: /audio/seven.wav: is empty" in caplog.text
    assert clips.num_found["train"] == 1
    assert clips.num_read["train"] == 30


def test_clips_are_kept_in_the_order_of_the_manifest() -> None:
    clips = UnreadableClips(max_share=1.0)
    for row in (30, 4, 12):
        clips.report("train", [(row, f"reason {row}")], num_read=1, num_clips=1000)
    assert list(clips.found.items()) == [(("train", row), f"reason {row}") for row in (4, 12, 30)]


def test_too_large_a_share_ends_the_run_with_the_first_clip_of_the_manifest() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.report("train", [(90, "late.wav: is empty")], num_read=60, num_clips=1000)
    found = [(row, f"{row}.wav: is empty") for row in (5, 20, 2, 40, 41, 42, 43, 44, 45, 46, 47, 48)]
    with pytest.raises(PlainError) as error:
        clips.report("train", found, num_read=60, num_clips=1000)
    assert "13 of the 120 clips read so far from train" in str(error.value)
    assert "task.max_unreadable=0.1" in str(error.value)
    assert "2.wav: is empty" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_share_is_not_judged_before_enough_clips_were_read() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.report("train", [(row, "bad") for row in range(JUDGE_FROM - 1)], num_read=JUDGE_FROM - 1, num_clips=100000)
    with pytest.raises(PlainError):
        clips.report("train", [], num_read=1, num_clips=100000)


def test_a_small_split_is_judged_once_it_was_read_whole() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.report("valid", [(0, "bad"), (1, "bad")], num_read=4, num_clips=8)
    with pytest.raises(PlainError):
        clips.report("valid", [], num_read=4, num_clips=8)


def test_a_share_of_exactly_the_limit_is_accepted() -> None:
    clips = UnreadableClips(max_share=0.25)
    clips.report("train", [(0, "bad"), (1, "bad")], num_read=8, num_clips=8)


def test_a_limit_of_zero_ends_the_run_at_the_first_clip_of_a_split_read_whole() -> None:
    clips = UnreadableClips(max_share=0.0)
    clips.report("train", [], num_read=8, num_clips=8)
    with pytest.raises(PlainError):
        clips.report("train", [(3, "bad")], num_read=1, num_clips=8)


def test_splits_are_judged_apart() -> None:
    clips = UnreadableClips(max_share=0.1)
    clips.report("valid", [(0, "bad")], num_read=5, num_clips=1000)
    clips.report("train", [], num_read=200, num_clips=1000)
    with pytest.raises(PlainError, match="from valid"):
        clips.report("valid", [(row, "bad") for row in range(1, 20)], num_read=100, num_clips=1000)
