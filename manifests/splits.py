"""Which split a clip belongs to: by a hash of the seed and its name, or of the group it belongs to.

So a clip stays in its split when others are added, and all machines agree. Knows names only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterable, Mapping

from mae_ast_plugin.errors import PlainError

SPLITS = ("train", "valid", "test")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--valid``, ``--test`` and ``--seed``."""
    parser.add_argument(
        "--valid", type=float, default=0.01, help="share of the validation split, 0 to 1 (default 0.01)"
    )
    parser.add_argument("--test", type=float, default=0.01, help="share of the test split, 0 to 1 (default 0.01)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other splits (default 0)")


def check_shares(valid: float, test: float) -> None:
    """Refuse shares that leave nothing to train on."""
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise PlainError(
            f"--valid {valid} and --test {test} leave nothing to train on: "
            "each must be 0 or more and both together less than 1"
        )


def choose_splits(names: Iterable[str], valid: float, test: float, seed: int) -> dict[str, list[str]]:
    """Divide names among train, valid and test by a hash of seed and name; keeps their order.

    valid takes the smallest hashes and test the largest. A requested split that would be empty, train above all, is
    given the one clip nearest to it from the largest split: so a tiny corpus can be trained and validated too.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    shares = {name: hashed_share(seed, name) for name in names}
    for name, share in shares.items():
        splits["valid" if share < valid else "test" if share >= 1 - test else "train"].append(name)
    for split, place, requested in (("train", (1 + valid - test) / 2, 1.0), ("valid", 0.0, valid), ("test", 1.0, test)):
        largest = max((splits["train"], splits["test"], splits["valid"]), key=len)
        if requested > 0 and not splits[split] and len(largest) > (split != "train"):
            nearest = _nearest(largest, shares, place)
            largest.remove(nearest)
            splits[split].append(nearest)
    return splits


def _nearest(names: Iterable[str], shares: Mapping[str, float], place: float) -> str:
    return min(names, key=lambda name: abs(shares[name] - place))


def hashed_share(seed: int, name: str) -> float:
    """Give a number in [0, 1) that depends on the seed and the name alone."""
    digest = hashlib.blake2b(b"%d\0" % seed + os.fsencode(name), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2.0**48
