"""``statistics``: mean and deviation of each mel bin of your audio, for networks with a fixed normalisation.

The file it writes is what ``model.input_statistics`` of a training takes; the one mean and deviation of all bins,
which it prints, are ``model.input_mean`` and ``model.input_std``. Of many clips some are taken, evenly spread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from mae_ast_plugin.audio.frontend import CONVENTIONS, FrontEnd, make_frontend
from mae_ast_plugin.audio.listing import Listed, list_clips
from mae_ast_plugin.audio.reader import AudioError, read, sample_rate_of
from mae_ast_plugin.commands.options import progress_bar
from mae_ast_plugin.errors import PlainError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("statistics", help="measure the mean and deviation of mel bins", description=__doc__)
    parser.add_argument("inputs", nargs="+", metavar="FILES|DIR|MANIFEST", help="audio files, folders, .tsv manifests")
    parser.add_argument("--out", required=True, metavar="OUT.json", help="the file to write")
    parser.add_argument("--feature-type", choices=list(CONVENTIONS), default="fbank", help="task.feature_type")
    parser.add_argument("--feature-dim", type=int, default=128, help="task.feature_dim (default 128)")
    parser.add_argument("--sample-rate", type=int, default=16000, help="task.sample_rate [Hz] (default 16000)")
    parser.add_argument("--clips", type=int, default=10000, help="clips to measure (default 10000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the beginning of each (default 10)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and write; PlainError where nothing could be read or a bin never changes."""
    for name in ("feature_dim", "sample_rate", "clips", "seconds"):
        if not getattr(options, name) > 0:
            raise PlainError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be more than 0")
    clips = list_clips(options.inputs)
    count = min(len(clips), options.clips)
    chosen = [clips[index * len(clips) // count] for index in range(count)]
    frontend = make_frontend(options.feature_type, options.feature_dim, options.sample_rate)
    mean, deviation, num_clips = measure(chosen, frontend, options.seconds)
    stds = _numbers(deviation)
    if 0 in stds:
        raise PlainError(f"mel bin {stds.index(0)} never changes; take fewer bins (--feature-dim) or other audio")
    overall = float(mean.mean())
    spread = float((deviation.square() + (mean - overall).square()).mean().sqrt())
    measured = {name: getattr(options, name) for name in ("feature_type", "feature_dim", "sample_rate")}
    content = {**measured, "clips": num_clips, "mean": _numbers(mean), "std": stds}
    Path(options.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {num_clips} clips, {count - num_clips} left out (unreadable or too short)")
    print(f"of all bins together: model.input_mean={overall:.4f} model.input_std={spread:.4f}")


@torch.no_grad()
def measure(clips: Iterable[Listed], frontend: FrontEnd, seconds: float) -> tuple[Tensor, Tensor, int]:
    """Mean and deviation (F,) of the frames of all clips, float64, and how many clips could be used."""
    clips = list(clips)
    # about the first frame seen: squares of numbers far from 0 would lose digits
    origin, total, squares = None, torch.zeros(()), torch.zeros(())
    num_frames = num_clips = 0
    with progress_bar(len(clips), "measuring") as progress:
        for clip in clips:
            progress(1)
            features = _features(clip, frontend, seconds)
            if features is None:
                continue
            origin = features[0] if origin is None else origin
            beyond = features - origin
            total, squares = total + beyond.sum(dim=0), squares + beyond.square().sum(dim=0)
            num_frames, num_clips = num_frames + len(features), num_clips + 1
    if origin is None:
        raise PlainError(f"none of the {len(clips)} clips could be read and is long enough")
    mean = total / num_frames
    return origin + mean, (squares / num_frames - mean.square()).clamp(min=0).sqrt(), num_clips


def _features(clip: Listed, frontend: FrontEnd, seconds: float) -> Tensor | None:
    """Features (T, F) of the beginning of a clip in float64; None where it cannot be read or has no frame."""
    try:
        most = max(1, int(seconds * sample_rate_of(clip.path)))
        waveform, _ = read(clip.path, sample_rate=frontend.sample_rate, num_samples=most)
    except AudioError:
        return None
    if frontend.num_frames(len(waveform)) == 0:
        return None
    return frontend(torch.from_numpy(waveform)[None])[0].double()


def _numbers(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
