"""Masks of 32 clips of 512 tokens against a loop over clips with shuffles and sets: ``python benchmarks/masks.py``."""

from __future__ import annotations

import random
from functools import partial

import torch
from timing import compare, set_threads

from mae_ast_plugin.nn.masking import MASKERS, MaskRequest, MaskSettings, count_visible
from mae_ast_plugin.nn.noise import combine

CLIPS, TIME, CHANNELS, RATIO = 32, 64, 8, 0.75
TOKENS = TIME * CHANNELS


def random_mask_loop() -> tuple[torch.Tensor, torch.Tensor]:
    """One clip after the other: shuffle all tokens, keep the first."""
    shown, hidden = [], []
    for _ in range(CLIPS):
        tokens = list(range(TOKENS))
        random.shuffle(tokens)
        kept = set(tokens[: count_visible(TOKENS, RATIO)])
        shown.append(sorted(kept))
        hidden.append(sorted(set(range(TOKENS)) - kept))
    return torch.tensor(shown), torch.tensor(hidden)


def chunk_mask_loop() -> tuple[torch.Tensor, torch.Tensor]:
    """One clip after the other: collect chunks in a set until they cover enough."""
    shown, hidden = [], []
    for _ in range(CLIPS):
        wanted = TOKENS - count_visible(TOKENS, RATIO)
        size, covered = random.randint(3, 5), set[int]()
        while len(covered) <= wanted:
            start = random.randrange(TOKENS)
            chunk = {start + a + CHANNELS * b for a in range(size) for b in range(size)}
            covered |= {token for token in chunk if token < TOKENS}
        masked = sorted(covered)[:wanted]
        hidden.append(masked)
        shown.append(sorted(set(range(TOKENS)) - set(masked)))
    return torch.tensor(shown), torch.tensor(hidden)


def main() -> None:
    set_threads()
    seeds = torch.tensor([combine(1, clip) for clip in range(CLIPS)])
    request = MaskRequest(seeds, 7, [TOKENS] * CLIPS, TOKENS, CHANNELS)
    settings = MaskSettings(ratio=RATIO)
    for name, loop in (("random_mask", random_mask_loop), ("chunk_mask", chunk_mask_loop)):
        ours = partial(MASKERS[name], request, settings)
        compare(f"{name} of {CLIPS} x {TOKENS} tokens", ours, loop, "loop with sets", 20.0, calls=100)


if __name__ == "__main__":
    main()
