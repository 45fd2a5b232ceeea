"""What batches are made of: padding, use of the token budget and number of shapes; ``python benchmarks/batches.py``.

Plans an epoch of drawn lengths, without audio. "ideal" is the same clips without length buckets: in order of length,
each batch filled up to the budget and padded to its longest clip; it has nearly as many shapes as batches.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from mae_ast_plugin.data.batching import make_batches

RATE = 16_000


def corpora(num_clips: int) -> dict[str, tuple[NDArray[np.int64], int]]:
    """Sizes (N,) [samples] and a budget [samples]."""
    draw = np.random.default_rng(0)
    speech = np.clip(draw.lognormal(np.log(5), 0.6, num_clips) * RATE, 2800, 250_000).astype(np.int64)
    return {
        "lognormal, median 5 s, at most 15.6 s, budget 800,000": (speech, 800_000),
        "lognormal, median 5 s, at most 15.6 s, budget 2,400,000": (speech, 2_400_000),
        "all of 10 s, budget 1,400,000": (np.full(num_clips, 10 * RATE), 1_400_000),
    }


def ideal(sizes: NDArray[np.int64], budget: int) -> tuple[int, int, int]:
    """Batches, their samples with padding, and their shapes, where every batch may have a shape of its own."""
    in_order, start, samples, shapes = np.sort(sizes)[::-1], 0, 0, []
    while start < len(in_order):
        longest = int(in_order[start])
        clips = min(budget // longest, len(in_order) - start)
        shapes.append((clips, longest))
        samples += clips * longest
        start += clips
    return len(shapes), samples, len(set(shapes))


def told(name: str, num_batches: int, samples: int, num_shapes: int, audio: int, budget: int) -> str:
    padding, fill = 1 - audio / samples, samples / num_batches / budget
    return f"  {name:8} {num_batches:7} batches {num_shapes:6} shapes {padding:7.2%} padding {fill:7.2%} of the budget"


def main() -> None:
    """Print both plans of every corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200_000, help="number of clips (default 200000)")
    for name, (sizes, budget) in corpora(parser.parse_args().clips).items():
        batches = make_batches(sizes, max_samples=budget, max_clips=None)
        audio = int(sizes.sum())
        print(name)
        print(told("ours", len(batches), batches.num_samples(), len(batches.shapes()), audio, budget))
        print(told("ideal", *ideal(sizes, budget), audio, budget))


if __name__ == "__main__":
    main()
