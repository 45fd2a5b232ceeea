"""The rows of a manifest whose clips are features (``.npy``), told from audio, measured in samples and read.

All of training counts samples; a spectrogram counts as the shortest waveform with as many frames.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ast_plugin.audio.features import is_features, num_bins_of, read_features
from mae_ast_plugin.audio.frontend import FrontEnd
from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.audio.outcomes import AudioError
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.settings import TaskSettings


def holds_features(manifest: Manifest, task: TaskSettings, frontend: FrontEnd) -> bool:
    """Tell whether all clips of a manifest are features, by the first one and the rates.

    PlainError where some are and others are audio, or where they are not what ``frontend`` would compute.
    """
    first, frame_rate = manifest[0].path, task.sample_rate / frontend.hop
    rates = manifest.sample_rates
    if not is_features(first):
        for row in np.flatnonzero(rates == frame_rate)[:1] if rates is not None else ():
            raise PlainError(
                f"{manifest.path} line {row + 2}: its rate is {frame_rate:.0f} frames a second, that of features, "
                "but line 2 is audio: put features (.npy) into a manifest of their own"
            )
        return False
    if rates is None:
        raise PlainError(
            f"{manifest.path} line 2: {first} holds features, whose lengths mean nothing without a rate: write "
            f"a .rates file beside the manifest, with {frame_rate:.0f} (frames a second) in each line"
        )
    for row in np.flatnonzero(rates != frame_rate)[:1]:
        raise PlainError(
            f"{manifest.path} line {row + 2}: its rate in .rates is {rates[row]}, but line 2 holds features and the "
            f"front end has {frame_rate:g} frames a second: put audio into a manifest of its own, or correct the rate"
        )
    _check_first(first, task, frontend)
    return True


def _check_first(path: str, task: TaskSettings, frontend: FrontEnd) -> None:
    if task.vary_filters:
        raise PlainError(f"task.vary_filters=true needs audio, but {path} holds features: set it to false")
    try:
        found = num_bins_of(path)
    except AudioError:
        return  # it will be replaced and counted like any other that cannot be read
    if found != frontend.num_features:
        raise PlainError(
            f"{path} has {found} mel bins, but task.feature_type={task.feature_type} with task.feature_dim="
            f"{task.feature_dim} and task.deltas={str(task.deltas).lower()} gives {frontend.num_features}: set them to "
            "what the features were computed with"
        )


def sizes_of(num_frames: NDArray[np.int64], frontend: FrontEnd) -> NDArray[np.float64]:
    """Give the samples (N,) of the shortest waveforms with so many frames (N,); 0 where no waveform has so few."""
    values, places = np.unique(num_frames, return_inverse=True)
    sizes = [frontend.num_samples(int(value)) if value > 0 else 0 for value in values]
    fitting = [frontend.num_frames(size) == value for size, value in zip(sizes, values, strict=True)]
    return np.where(fitting, sizes, 0)[places].astype(np.float64)


def read_spectrogram(
    path: str, num_frames: int, limit: int | None, frontend: FrontEnd, crop_start: Callable[[int], int]
) -> Tensor:
    """Read features (T, F) of ``num_frames`` by the manifest, cropped to ``limit`` where ``crop_start(surplus)`` says.

    AudioError for features that cannot be read or have another number of mel bins.
    """
    if not is_features(path):
        raise PlainError(f"{path} is audio in a manifest of features (.npy): put it into a manifest of its own")
    start, count = 0, None
    if limit is not None and num_frames > limit:
        start, count = crop_start(num_frames - limit), limit
    features = read_features(path, start, count)
    if limit is not None and len(features) > limit:  # longer than its manifest says
        start = crop_start(len(features) - limit)
        features = features[start : start + limit]
    if features.shape[1] != frontend.num_features:
        raise AudioError(path, f"has {features.shape[1]} mel bins, the first of its manifest {frontend.num_features}")
    return torch.from_numpy(features)
