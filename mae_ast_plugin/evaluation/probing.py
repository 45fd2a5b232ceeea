"""Score every layer of an encoder on labelled files, beside the two baselines and chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.baselines import baseline_vectors, random_twin
from mae_ast_plugin.evaluation.scores import Fit, Score, fit_chance, score
from mae_ast_plugin.evaluation.splits import Splits
from mae_ast_plugin.evaluation.tables import best
from mae_ast_plugin.evaluation.vectors import Describe, clip_vectors, file_vectors

PRETRAINED, RANDOM, LOG_MEL, CHANCE = "pretrained", "random weights", "log-mel mean and std", "chance"

# Total and name of what is done -> a context that gives the function that is told how many more are done.
Progress = Callable[[int, str], AbstractContextManager[Callable[[int], object]]]


def no_progress(total: int, what: str) -> AbstractContextManager[Callable[[int], object]]:
    """Show nothing."""
    return nullcontext(lambda count: None)


@dataclass(frozen=True)
class Probe:
    """What is fitted: settings to choose one from (the only one where there is nothing to choose on)."""

    name: str
    candidates: Mapping[str, Fit]
    least_clips: int = 1


@dataclass(frozen=True)
class Report:
    """What came of it: ``networks`` by name and layer, ``others`` by name; ``splits`` of the clips that were read."""

    probe: str
    splits: Splits
    unreadable: dict[str, list[tuple[str, str]]]
    networks: dict[str, dict[str, Score]]
    others: dict[str, Score]

    @property
    def measures(self) -> list[str]:
        """Names of the measures, the decisive one first."""
        return list(self.others[CHANCE].measures)

    @property
    def chosen_on(self) -> str:
        """The split on which the layer is chosen."""
        return "valid" if "valid" in self.splits.parts else "test"

    def decisive(self, found: Score) -> float:
        """The number by which a layer is chosen."""
        return (found.valid or found.measures)[self.measures[0]]

    def chosen(self, network: str) -> str:
        """The best layer of a network."""
        return best({layer: self.decisive(found) for layer, found in self.networks[network].items()})[0]


def evaluate(
    encoder: AudioEncoder,
    splits: Splits,
    probe: Probe,
    *,
    pooling: str = "statistics",
    layers: Sequence[int] | None = None,
    with_baselines: bool = True,
    progress: Progress = no_progress,
) -> Report:
    """Embed the clips of ``splits``, fit and score each layer; clips that cannot be read are left out and reported.

    PlainError where the splits cannot be scored, before and after it is known which clips can be read.
    """
    splits.check(probe.least_clips)
    describe = partial(clip_vectors, encoder, pooling=pooling, layers=layers)
    with progress(len(splits.clips), f"embedding, {PRETRAINED}") as done:
        vectors, unreadable = file_vectors(splits.clips, describe, done)
    names = {split: [(splits.clips[row].name, unreadable[row]) for row in splits.rows(split) if row in unreadable]
             for split in splits.parts}  # fmt: skip
    _refuse_nothing(splits, names)
    splits = splits.without(unreadable)
    splits.check(probe.least_clips, "clip that can be read")

    networks = {PRETRAINED: _score_all(vectors, splits, probe.candidates, PRETRAINED, progress)}
    others: dict[str, Score] = {}
    if with_baselines:
        twin = partial(clip_vectors, random_twin(encoder), pooling=pooling, layers=layers)
        vectors = _again(splits, twin, RANDOM, progress)
        networks[RANDOM] = _score_all(vectors, splits, probe.candidates, RANDOM, progress)
        vectors = _again(
            splits, lambda waves, rates: {LOG_MEL: baseline_vectors(encoder, waves, rates)}, LOG_MEL, progress
        )
        others |= _score_all(vectors, splits, probe.candidates, LOG_MEL, progress)
    nothing = np.zeros((len(splits.clips), 1))
    others[CHANCE] = score(nothing, splits.targets(), splits.division(), {CHANCE: fit_chance})
    return Report(probe.name, splits, names, networks, others)


def _refuse_nothing(splits: Splits, unreadable: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    for split, part in splits.parts.items():
        if len(unreadable[split]) == len(part):
            name, reason = unreadable[split][0]
            raise PlainError(f"{part.path}: none of its {len(part)} clips can be read; the first, {name}, {reason}")


def _score_all(
    vectors: dict[str, np.ndarray], splits: Splits, candidates: Mapping[str, Fit], what: str, progress: Progress
) -> dict[str, Score]:
    """Score by layer, letting go of each layer's vectors."""
    targets, division = splits.targets(), splits.division()
    num_scored = sum(len(scored) for _, scored in division.folds.values())
    found = {}
    with progress(len(vectors) * num_scored, f"scoring, {what}") as done:
        for layer in list(vectors):
            found[layer] = score(vectors.pop(layer), targets, division, candidates)
            done(num_scored)
    return found


def _again(splits: Splits, describe: Describe, what: str, progress: Progress) -> dict[str, np.ndarray]:
    """Describe clips that could be read a moment ago."""
    with progress(len(splits.clips), f"embedding, {what}") as done:
        vectors, unreadable = file_vectors(splits.clips, describe, done)
    if unreadable:
        row, reason = next(iter(unreadable.items()))
        raise PlainError(f"{splits.clips[row].path} could be read at first and then not any more: {reason}")
    return vectors
