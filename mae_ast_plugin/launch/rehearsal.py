"""A rehearsal of training: what reading a clip, its features and a step cost here, with a recipe's own batches.

The dataset, model and loss are those of the training; only the trainer around them is missing. Judges nothing.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.audio.places import container_of
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.data.clips import Clip, ClipDataset
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.recipe_settings import Recipe
from mae_ast_plugin.methods.build import frontend_of, tokens_of
from mae_ast_plugin.models.mae_ast import MaskedAutoencoderModel

SEED = 1
REPEATS = 3  # timed after one that is not, the fastest counts: others use the machine too
ENOUGH_SECONDS = 2.0  # of repeating what is slow
GROWTH = 4  # of the batches that are timed one after another


@dataclass
class Measured:
    """``reading`` is what one worker takes, by kind of file as (clips, seconds of one); ``feature_seconds`` are of one
    clip; ``steps`` are the seconds of a whole step by its number of clips, of which ``optimizer_seconds`` belong to no
    clip.
    """

    device: str
    cores: int
    num_clips: int
    num_batches: int
    reading: dict[str, tuple[int, float]] = field(default_factory=dict)
    num_unreadable: int = 0
    feature_seconds: float = 0.0
    steps: dict[int, float] = field(default_factory=dict)
    optimizer_seconds: float = 0.0
    memory_bytes: int = 0
    clips_too_many: int | None = None

    @property
    def clips_per_batch(self) -> float:
        return self.num_clips / self.num_batches

    @property
    def read_seconds(self) -> float:
        """What one worker takes for a clip, over all kinds."""
        clips = sum(count for count, _ in self.reading.values())
        return sum(count * seconds for count, seconds in self.reading.values()) / clips

    @property
    def step_seconds(self) -> float:
        """What a step takes for a clip of a whole batch, by the largest that was timed."""
        most = max(self.steps)
        shared = min(self.optimizer_seconds, self.steps[most])
        return (self.steps[most] - shared) / most + shared / max(self.clips_per_batch, most)


def rehearse(manifest: Manifest, recipe: Recipe, device: torch.device, budget_seconds: float) -> Measured:
    """Measure on the clips of ``manifest``, in about ``budget_seconds``; PlainError where the recipe cannot run."""
    stage = _Stage(manifest, recipe, device)
    measured = Measured(_name(device), os.cpu_count() or 1, len(stage.dataset), len(stage.batches))
    clips = _read(stage, measured, budget_seconds / 3)
    _measure_features(stage, clips, measured)
    _measure_steps(stage, clips, measured, budget_seconds / 3)
    return measured


class _Stage:
    """Everything that a training has, made for one process."""

    def __init__(self, manifest: Manifest, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(SEED)
        frontend = frontend_of(recipe.task)
        min_frames = tokens_of(recipe.model, frontend.num_features).num_frames(1)
        self.device = device
        task = replace(recipe.task, keep_decoded_gb=0.0)  # decoding is what is to be measured
        self.dataset = ClipDataset(
            "train", manifest, task, frontend, min_frames=min_frames, seed=SEED, epoch_matters=True
        )
        limits = recipe.dataset.get("max_tokens"), recipe.dataset.get("batch_size")
        if limits == (None, None):
            raise PlainError("neither dataset.max_tokens (samples) nor dataset.batch_size (clips) is set: set one")
        multiple = recipe.dataset.get("required_batch_size_multiple", 1)
        self.batches = self.dataset.batches(1, *limits, 1, multiple)
        self.model = MaskedAutoencoderModel(recipe.model, recipe.task).to(device).train()
        self.criterion = MaskedPredictionCriterion(recipe.criterion)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=device.type == "cuda")

    def batch(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Put clips together, on the device."""
        sample = self.dataset.collater(clips)
        moved = {name: _on(value, self.device) for name, value in sample["net_input"].items()}
        return {**sample, "net_input": moved}

    def step(self, clips: Sequence[Clip]) -> None:
        """One update of the weights."""
        loss, size, _ = self.criterion(self.model, self.batch(clips))
        self.optimizer.zero_grad()
        (loss / size).backward()
        self.optimizer.step()

    def seconds_of(self, work: Callable[[], object]) -> float:
        """Time work, the device's included: the shortest of some times, after one that only warms up."""
        times: list[float] = []
        while len(times) <= REPEATS and (len(times) < 2 or sum(times) < ENOUGH_SECONDS):
            begin = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - begin)
        return min(times[1:])


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _read(stage: _Stage, measured: Measured, seconds: float) -> list[Clip]:
    """Read clips in the order of training, one core at work, and give those of the first batch."""
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers do, which may compute features
    first = len(stage.batches[0])
    totals: dict[str, tuple[int, float]] = {}
    clips: list[Clip] = []
    end = time.perf_counter() + seconds
    for ref in (ref for number in range(len(stage.batches)) for ref in stage.batches[number]):
        begin = time.perf_counter()
        clip = stage.dataset[ref]
        now = time.perf_counter()
        measured.num_unreadable += len(clip.unreadable)
        kind = _kind(stage.dataset.manifest[int(stage.dataset.rows[ref.row])].path)
        count, spent = totals.get(kind, (0, 0.0))
        totals[kind] = count + 1, spent + now - begin
        clips += [clip] if len(clips) < first else []
        if now > end:
            break
    torch.set_num_threads(torch_threads)
    measured.reading = {kind: (count, spent / count) for kind, (count, spent) in sorted(totals.items())}
    return clips


def _kind(path: str) -> str:
    container = container_of(path)
    ending = Path(container or path).suffix.lower().lstrip(".") or "no ending"
    return f"member of {ending}" if container else ending


@torch.no_grad()
def _measure_features(stage: _Stage, clips: Sequence[Clip], measured: Measured) -> None:
    """Time the front end on as many clips as a small batch has, where the device computes features at all."""
    few = clips[:8]
    source: Mapping[str, Any] = stage.batch(few)["net_input"]
    if "waveforms" not in source:
        return
    frontend, lengths = stage.model.frontend, source["lengths"]
    measured.feature_seconds = stage.seconds_of(lambda: frontend(source["waveforms"], lengths)) / len(few)


def _measure_steps(stage: _Stage, clips: Sequence[Clip], measured: Measured, seconds: float) -> None:
    """Time steps of more and more clips, until the batch is whole, time is up or memory is."""
    end = time.perf_counter() + seconds
    for number in _growing(len(clips)):
        begin = time.perf_counter()
        try:
            measured.steps[number] = stage.seconds_of(partial(stage.step, clips[:number]))
        except torch.OutOfMemoryError:
            measured.clips_too_many = number
            break
        now = time.perf_counter()
        if now + GROWTH * (now - begin) > end:  # more clips would take too long
            break
    if not measured.steps:
        raise PlainError("not even one clip fits into the device's memory: take a smaller network or shorter crops")
    measured.optimizer_seconds = stage.seconds_of(stage.optimizer.step)
    measured.memory_bytes = _peak_memory(stage.device)


def _growing(most: int) -> Iterator[int]:
    number = 1
    while number < most:
        yield number
        number *= GROWTH
    yield most


def _peak_memory(device: torch.device) -> int:
    """The most memory in use so far [bytes]: the device's, or this process's where that is the CPU (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
