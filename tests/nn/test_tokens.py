"""Patches: their order, their number, and the way back."""

from __future__ import annotations

import pytest
import torch

from mae_ast_plugin.nn.tokens import PatchTokens

# mel bins, kernel in time and frequency, stride in time and frequency
GRIDS = {
    "patches": PatchTokens(128, 16, 16, 16, 16),
    "frames": PatchTokens(128, 2, 128, 2, 128),
    "single values": PatchTokens(3, 1, 1, 1, 1),
    "one column": PatchTokens(5, 1, 5, 1, 5),
    "overlapping": PatchTokens(13, 4, 5, 3, 4),
    "overlapping in time": PatchTokens(6, 7, 3, 2, 3),
}
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def spectrogram(grid: PatchTokens, num_frames: int, num_clips: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(num_clips, num_frames, grid.num_mel_bins, generator=generator)


@grids
@pytest.mark.parametrize("more", [0, 1, 17])
def test_tokens_run_along_frequency_first_and_values_along_time_first(grid: PatchTokens, more: int) -> None:
    x = spectrogram(grid, grid.kernel_time + more)
    patches = grid.patchify(x)
    assert patches.shape == (2, grid.num_tokens(x.shape[1]), grid.patch_size)
    for token in range(patches.shape[1]):
        time, chan = token // grid.num_chan * grid.stride_time, token % grid.num_chan * grid.stride_chan
        values = [x[:, time + i, chan + j] for i in range(grid.kernel_time) for j in range(grid.kernel_chan)]
        if grid.patch_size > 64:  # the first and last row say enough of a large patch
            assert torch.equal(patches[:, token, : grid.kernel_chan], torch.stack(values[: grid.kernel_chan], dim=1))
            assert torch.equal(patches[:, token, -grid.kernel_chan :], torch.stack(values[-grid.kernel_chan :], dim=1))
        else:
            assert torch.equal(patches[:, token], torch.stack(values, dim=1))


@grids
@pytest.mark.parametrize("num_time", [1, 2, 5])
def test_patches_put_back_are_the_spectrogram(grid: PatchTokens, num_time: int) -> None:
    x = spectrogram(grid, grid.num_frames(num_time))
    torch.testing.assert_close(grid.unpatchify(grid.patchify(x)), x, rtol=0, atol=1e-6)


@grids
def test_frames_that_fill_no_patch_are_dropped(grid: PatchTokens) -> None:
    whole = spectrogram(grid, grid.num_frames(3) + grid.stride_time)
    for surplus in range(grid.stride_time):
        x = whole[:, : grid.num_frames(3) + surplus]
        assert torch.equal(grid.patchify(x), grid.patchify(whole)[:, : 3 * grid.num_chan])
        torch.testing.assert_close(grid.unpatchify(grid.patchify(x)), x[:, : grid.num_frames(3)], rtol=0, atol=1e-6)


@grids
def test_counts_agree_with_trying_every_start(grid: PatchTokens) -> None:
    for num_frames in range(3 * grid.kernel_time + 5):
        starts = [s for s in range(0, num_frames, grid.stride_time) if s + grid.kernel_time <= num_frames]
        assert grid.num_time(num_frames) == len(starts)
        assert grid.num_tokens(num_frames) == len(starts) * grid.num_chan


@grids
def test_partial_counts_are_the_fewest_patches_that_reach_every_frame(grid: PatchTokens) -> None:
    for num_frames in range(3 * grid.kernel_time + 5):
        num_time = 0
        while (grid.kernel_time + (num_time - 1) * grid.stride_time if num_time else 0) < num_frames:
            num_time += 1
        assert grid.num_time(num_frames, count_partial=True) == num_time


@grids
def test_so_many_patches_cover_so_many_frames_and_no_fewer(grid: PatchTokens) -> None:
    assert grid.num_frames(0) == 0
    for num_time in (1, 2, 11):
        frames = grid.num_frames(num_time)
        assert grid.num_time(frames) == num_time
        assert grid.num_time(frames - 1) == num_time - 1


def test_ten_seconds_give_the_published_numbers_of_tokens() -> None:
    assert GRIDS["patches"].num_tokens(998) == 496
    assert GRIDS["frames"].num_tokens(998) == 499
    assert GRIDS["frames"].num_tokens(996) == 498


def test_values_that_several_patches_cover_are_averaged() -> None:
    grid = PatchTokens(2, 2, 2, 1, 2)
    patches = torch.tensor([[[1.0, 1, 1, 1], [3, 3, 3, 3]]])
    assert grid.unpatchify(patches).tolist() == [[[1, 1], [2, 2], [3, 3]]]
