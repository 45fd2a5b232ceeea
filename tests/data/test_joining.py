"""Clips joined to a batch: padded at their ends, of 16 bits where all are, shared where another process waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mae_ast_plugin.audio.frontend import as_float, make_frontend
from mae_ast_plugin.data.joining import joined


def clips(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randint(-32768, 32768, (length,)).to(dtype) for length in (5, 9, 1)]


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_clips_begin_their_rows_and_zeros_follow(dtype: torch.dtype) -> None:
    batch = joined(clips(dtype), 11)
    assert batch.dtype == dtype
    for row, clip in zip(batch, clips(dtype), strict=True):
        assert torch.equal(row, torch.cat([clip, torch.zeros(11 - len(clip), dtype=dtype)]))


def test_one_clip_of_floats_makes_floats_of_all() -> None:
    whole, floats = clips(torch.int16), clips(torch.float32)[1] / 7
    batch = joined([whole[0], floats, whole[2]], 9)
    assert torch.equal(batch, joined([as_float(whole[0]), floats, as_float(whole[2])], 9))
    assert float(as_float(torch.tensor([-32768], dtype=torch.int16))) == -1


def test_a_front_end_hears_the_same_in_both() -> None:
    frontend, whole = make_frontend("fbank", 20), torch.randint(-32768, 32768, (2, 1000)).short()
    assert torch.equal(frontend(whole), frontend(whole.float() / 32768))


class OneBatch(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        batch = joined(clips(torch.int16), 9)
        yield torch.tensor([batch.is_shared()])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_worker_makes_the_batch_in_shared_memory(num_workers: int) -> None:
    (shared,) = DataLoader(OneBatch(), batch_size=None, num_workers=num_workers)
    assert bool(shared) == (num_workers > 0)
