"""``statistics``: mean and deviation of each mel bin of your audio, for networks with a fixed normalisation.

The file it writes is what ``model.input_statistics`` of a training takes; the one mean and deviation of all bins,
which it prints, are ``model.input_mean`` and ``model.input_std``. Of many clips some are taken, evenly spread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mae_ast_plugin.audio.frontend import CONVENTIONS, FrontEnd, make_frontend
from mae_ast_plugin.audio.listing import Listed, list_clips
from mae_ast_plugin.audio.moments import Moments, moments_of_clip
from mae_ast_plugin.audio.outcomes import AudioError
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
    found, num_clips = measure(chosen, frontend, options.seconds)
    if (constant := found.constant_bin()) is not None:
        raise PlainError(f"mel bin {constant} never changes; take fewer bins (--feature-dim) or other audio")
    overall, spread = found.overall()
    measured = {name: getattr(options, name) for name in ("feature_type", "feature_dim", "sample_rate")}
    content = {**measured, "clips": num_clips, **found.table()}
    Path(options.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {num_clips} clips, {count - num_clips} left out (unreadable or too short)")
    print(f"of all bins together: model.input_mean={overall:.4f} model.input_std={spread:.4f}")


def measure(clips: Sequence[Listed], frontend: FrontEnd, seconds: float) -> tuple[Moments, int]:
    """Mean and deviation of the frames of all clips, and how many clips could be used."""
    total, num_clips = Moments.zero(frontend.num_features), 0
    with progress_bar(len(clips), "measuring") as progress:
        for clip in clips:
            progress(1)
            try:
                found = moments_of_clip(clip.path, frontend, seconds)
            except AudioError:
                continue
            total, num_clips = total + found, num_clips + (found.num_frames > 0)
    if not total.num_frames:
        raise PlainError(f"none of the {len(clips)} clips could be read and is long enough")
    return total, num_clips
