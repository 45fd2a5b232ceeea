"""Noise keyed by seed and place: evenly spread, without memory, the same everywhere."""

from __future__ import annotations

import itertools

import pytest
import torch

from mae_ast_plugin.nn.noise import combine, random_bits, random_ranks, uniform

# the first outputs of SplitMix64 for the seed 0, as its authors' program prints them
SPLITMIX64 = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC)
SEEDS = {
    "small seeds": torch.arange(200),
    "negative seeds": -torch.arange(1, 201),
    "mixed seeds": torch.tensor([combine(1, n) for n in range(200)]),
}
seeds = pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(((first - first.mean()) * (second - second.mean())).mean() / (first.std() * second.std()))


def test_the_numbers_are_those_of_splitmix64() -> None:
    expected = [(bits >> 40) / 2**24 for bits in SPLITMIX64]
    assert uniform(torch.tensor([0]), 4)[0].tolist() == expected
    assert combine(0) == SPLITMIX64[0] - 2**64


@seeds
@pytest.mark.parametrize("stream", [0, 1, 4])
def test_numbers_are_spread_evenly_over_zero_to_one(seeds: torch.Tensor, stream: int) -> None:
    noise = uniform(seeds, 251, stream)
    assert noise.shape == (200, 251) and noise.dtype == torch.float32
    assert noise.min() >= 0 and noise.max() < 1
    assert abs(float(noise.mean()) - 1 / 2) < 0.006  # more than four standard errors
    assert abs(float(noise.var()) - 1 / 12) < 0.0015
    counts = torch.bincount((noise.flatten() * 16).long(), minlength=16).double()
    expected = noise.numel() / 16
    assert float(((counts - expected).square() / expected).sum()) < 45  # chance of more: one in ten thousand


@seeds
def test_neighbours_know_nothing_of_each_other(seeds: torch.Tensor) -> None:
    noise = uniform(seeds, 251)
    for distance in (1, 2, 7):
        assert abs(correlation(noise[:, distance:], noise[:, :-distance])) < 0.02
        assert abs(correlation(noise[distance:], noise[:-distance])) < 0.02


@seeds
def test_streams_know_nothing_of_each_other(seeds: torch.Tensor) -> None:
    for first, second in itertools.combinations([uniform(seeds, 251, stream) for stream in range(5)], 2):
        assert abs(correlation(first, second)) < 0.02


def test_a_number_depends_on_its_seed_and_place_only() -> None:
    noise = uniform(torch.tensor([5, -3, 8]), 97)
    assert torch.equal(uniform(torch.tensor([-3]), 97)[0], noise[1])
    assert torch.equal(uniform(torch.tensor([8, 5]), 13), noise[[2, 0], :13])
    assert uniform(torch.tensor([5]), 1).tolist() == [[float(noise[0, 0])]]


def test_the_order_of_the_parts_matters_and_so_does_their_number() -> None:
    assert combine(1, 2) != combine(2, 1)
    assert combine(1) != combine(1, 0) != combine(0, 1)
    assert combine(7, 3, 5) == combine(7, 3, 5)


def test_seeds_are_whole_numbers_of_64_bits_whatever_the_parts() -> None:
    parts = (0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**64 + 5)
    for pair in itertools.product(parts, repeat=2):
        assert -(2**63) <= combine(*pair) < 2**63
        assert torch.tensor(combine(*pair)).dtype == torch.int64


def test_neighbouring_parts_give_seeds_that_are_all_different() -> None:
    made = {combine(seed, epoch, index) for seed in range(5) for epoch in range(10) for index in range(100)}
    assert len(made) == 5000
    bits = torch.tensor([[value >> bit & 1 for bit in range(64)] for value in made]).float()
    assert (bits.mean(dim=0) - 0.5).abs().max() < 0.035  # each bit is set half of the time


def test_ranks_put_places_in_the_order_of_their_bits_and_then_of_their_places() -> None:
    seeds = torch.arange(5)
    ranks = random_ranks(seeds, 300, stream=2)
    expected = random_bits(seeds, 300, stream=2) * 300 + torch.arange(300)
    assert bool((ranks >= 0).all())
    assert torch.equal(ranks.argsort(dim=1), expected.argsort(dim=1))
    assert torch.equal(ranks & ((1 << 23) - 1), torch.arange(300).expand(5, -1))
