"""Lengths in few steps, so that batches come in few shapes.

Knows numbers only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# At most 6.5 % of a clip's row is padding, on average half of that; lengths from 1 s to 10 s are 35 buckets.
STEP = 1.07


def length_buckets(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Put clips of ``sizes`` (N,) [samples] into buckets, from long to short: the bucket of each clip (N,) and the
    width of each bucket, which is its longest clip and less than ``STEP`` times its shortest.

    Clips of one length are one bucket without padding. A bucket may be empty, its width is 0 then.
    """
    below_longest = np.maximum(sizes, 1.0)  # in place: millions of clips have one array of numbers at a time
    np.divide(sizes.max(), below_longest, out=below_longest)
    np.log(below_longest, out=below_longest)
    below_longest /= math.log(STEP)
    bucket_of = below_longest.astype(np.int16)
    widths = np.zeros(int(bucket_of.max()) + 1, np.int64)
    np.maximum.at(widths, bucket_of, sizes)
    return bucket_of, widths
