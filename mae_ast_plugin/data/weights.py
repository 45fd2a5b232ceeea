"""How often to draw each clip of a labelled corpus so that rare classes are heard: weights by class. Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mae_ast_plugin.errors import PlainError

SCALE = 1000.0  # of the published recipes; a sampler does not see it
OFFSET = 100.0
COMBINE = ("sum", "max")


def class_weights(counts: ArrayLike, offset: float = OFFSET) -> NDArray[np.float64]:
    """Weigh classes (C,) by how many clips each has: the rarer, the more; ``offset`` keeps very rare ones in bounds."""
    if offset <= 0:
        raise PlainError(f"the offset of class weights is {offset}; it must be above 0: a class may have no clips")
    return SCALE / (offset + np.asarray(counts, np.float64))


def clip_weights(
    labels: ArrayLike, offset: float = OFFSET, combine: str = "sum", counts: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Weigh clips (N,) by their multi-hot labels (N, C): the sum or the maximum of the weights of a clip's classes.

    ``counts`` (C,) of clips with each class, those in ``labels`` where not given. A clip without label has weight 0.
    """
    if combine not in COMBINE:
        raise PlainError(f"clip weights are combined by {combine!r}; it must be one of {', '.join(COMBINE)}")
    present = np.asarray(labels) > 0
    of_classes = class_weights(present.sum(axis=0) if counts is None else counts, offset)
    if combine == "sum":
        return present @ of_classes
    return np.where(present, of_classes, 0.0).max(axis=1, initial=0.0)
