"""``stats``: mean and deviation of the log-mel of all clips, their durations and hours.

OUT.json is what ``model.input_statistics`` of a training takes, and what ``--merge`` joins: the parts of a corpus give
the same as the whole, to the rounding of float64. Every clip is read; clips that cannot be are counted, and `check`
says which they are. Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mae_ast_plugin.audio.features import FRAMES_PER_SECOND, is_features
from mae_ast_plugin.audio.frontend import CONVENTIONS, FrontEnd, make_frontend
from mae_ast_plugin.audio.manifest import write_atomically
from mae_ast_plugin.audio.moments import Moments, moments_of_clip
from mae_ast_plugin.audio.outcomes import AudioError
from mae_ast_plugin.audio.reader import sample_rate_of
from mae_ast_plugin.errors import PlainError
from manifests import jobs
from manifests.blocks import Corpus, in_order, open_corpus, rows_of, version_of_block
from manifests.durations import Durations, summary
from manifests.report import check_plots, draw_histogram

PICTURES = (".png", ".svg", ".pdf")


class Features(NamedTuple):
    """Which features are measured: settings of ``task``."""

    feature_type: str
    feature_dim: int
    sample_rate: int
    deltas: bool = False


@dataclass(frozen=True)
class Stats:
    """What was measured of how many clips; two of the same features add up."""

    features: Features
    moments: Moments
    durations: Durations = field(default_factory=Durations.none)
    num_clips: int = 0
    num_short: int = 0
    num_unreadable: int = 0

    def __add__(self, other: Stats) -> Stats:
        return Stats(
            self.features,
            self.moments + other.moments,
            self.durations + other.durations,
            self.num_clips + other.num_clips,
            self.num_short + other.num_short,
            self.num_unreadable + other.num_unreadable,
        )


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("stats", help="mean and deviation of log-mels, durations", description=__doc__)
    parser.add_argument("manifests", nargs="*", metavar="MANIFEST|DIR", help="manifests (.tsv), or folders of them")
    parser.add_argument("--out", required=True, metavar="OUT.json", help="the file to write")
    parser.add_argument("--recipe", metavar="NAME", help="features of this recipe, in place of the next three")
    parser.add_argument("--feature-type", choices=list(CONVENTIONS), default="fbank", help="task.feature_type")
    parser.add_argument("--feature-dim", type=int, default=128, help="task.feature_dim (default 128)")
    parser.add_argument("--sample-rate", type=int, default=16000, help="task.sample_rate [Hz] (default 16000)")
    parser.add_argument("--seconds", type=float, help="only of the beginning of each clip (default: the whole clip)")
    parser.add_argument("--plot", metavar="FILE", help="draw the durations (.png, .svg, .pdf)")
    parser.add_argument("--merge", nargs="+", metavar="JSON", help="read no clip: join what other commands wrote")
    jobs.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure or join, write and say; PlainError when options are wrong or no clip could be used."""
    _check_options(options)
    if options.merge:
        _write(_merge(options.merge), options)
        return
    corpus, features, out = open_corpus(options.manifests), _features(options), Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    of = ["stats", corpus.contents(), features, options.seconds, options.shard]
    with jobs.Journal(out.with_name(f".{out.name}.journal"), of, version=version_of_block) as journal:
        _write(_measure(corpus, features, journal, options), options)


def _write(stats: Stats, options: argparse.Namespace) -> None:
    """Write and say what was measured."""
    if not stats.moments.num_frames and options.shard.total == 1:
        raise PlainError(
            f"none of the clips can be used: {stats.num_unreadable} are unreadable, {stats.num_short} are shorter than "
            "a frame; `python -m manifests check` says why"
        )
    write_atomically(options.out, [json.dumps(_content(stats), indent=1).encode(), b"\n"])
    if options.plot:
        draw_histogram(stats.durations, options.plot)
    print("\n".join(_lines(stats, options.out)))


def _check_options(options: argparse.Namespace) -> None:
    jobs.check_jobs(options.jobs)
    for name in ("feature_dim", "sample_rate", "seconds"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise PlainError(f"--{name.replace('_', '-')} is {value}; it must be more than 0")
    if bool(options.manifests) == bool(options.merge):
        raise PlainError("give either manifests to measure, or --merge and the files (.json) to join")
    if options.plot:
        check_plots("--plot")
        if Path(options.plot).suffix.lower() not in PICTURES:
            raise PlainError(
                f"--plot {options.plot} has an ending that is not drawn: give one of {', '.join(PICTURES)}"
            )


# ------------------------------------------------------------------------------------------------ measuring


def _measure(corpus: Corpus, features: Features, journal: jobs.Journal, options: argparse.Namespace) -> Stats:
    """Measure this machine's share of the clips."""
    torch.set_num_threads(1)  # before processes are forked, which inherit it: each has one core
    stats = Stats(features, Moments.zero(_frontend(features).num_features))
    blocks = corpus.blocks(options.shard)
    results = jobs.each(
        partial(_measure_block, features, options.seconds),
        list(blocks),
        jobs=options.jobs,
        what="measuring",
        journal=journal,
        kept=lambda result: not result["unreadable"],
        unit="block",
        per_task=1,
    )
    for _, result in in_order(blocks, results):
        stats += _unpacked(result, features)
    return stats


def _features(options: argparse.Namespace) -> Features:
    if options.recipe is None:
        return Features(options.feature_type, options.feature_dim, options.sample_rate)
    try:
        from mae_ast_plugin.launch.recipe_settings import recipe_settings
    except ImportError as error:
        raise PlainError(f'--recipe needs {error.name}: pip install "mae-ast-plugin[train]"') from error
    task = recipe_settings(options.recipe).task
    return Features(task.feature_type, task.feature_dim, task.sample_rate, task.deltas)


@cache
def _frontend(features: Features) -> FrontEnd:
    """Make the front end once a process."""
    return make_frontend(features.feature_type, features.feature_dim, features.sample_rate, features.deltas)


def _measure_block(features: Features, seconds: float | None, block: str) -> dict[str, Any]:
    """Measure the clips of a block; what comes of it fits into a line of JSON."""
    frontend = _frontend(features)
    total, hundredths, num_short, num_unreadable = Moments.zero(frontend.num_features), [], 0, 0
    for path, length, rate in rows_of(block):
        try:
            found = moments_of_clip(path, frontend, seconds)
            hundredths.append(round(100 * length / (rate or _rate_of(path))))
        except AudioError:
            num_unreadable += 1
            continue
        total += found
        num_short += found.num_frames == 0
    return {
        "frames": total.num_frames,
        "moments": base64.b64encode(np.stack([total.mean, total.squares]).tobytes()).decode("ascii"),
        "hundredths": hundredths,
        "short": num_short,
        "unreadable": num_unreadable,
    }


def _rate_of(path: str) -> int:
    return FRAMES_PER_SECOND if is_features(path) else sample_rate_of(path)


def _unpacked(result: dict[str, Any], features: Features) -> Stats:
    mean, squares = np.frombuffer(base64.b64decode(result["moments"])).reshape(2, -1)
    hundredths = np.array(result["hundredths"], np.int64)
    return Stats(
        features,
        Moments(result["frames"], mean, squares),
        Durations(hundredths, np.ones_like(hundredths)),
        len(hundredths) - result["short"],
        result["short"],
        result["unreadable"],
    )


# ------------------------------------------------------------------------------------------------ files


def _content(stats: Stats) -> dict[str, Any]:
    mean, std = stats.moments.overall()
    return {
        **stats.features._asdict(),
        "clips": stats.num_clips,
        "short": stats.num_short,
        "unreadable": stats.num_unreadable,
        "hours": stats.durations.total_seconds / 3600,
        "overall_mean": mean,
        "overall_std": std,
        **stats.moments.table(),
        "durations": stats.durations.table(),
    }


def _merge(paths: Sequence[str]) -> Stats:
    """Join files; PlainError where one is something else or of other features."""
    parts = [_read(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.features != parts[0].features:
            raise PlainError(f"{path} has other features than {paths[0]}: join files of the same feature settings")
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _read(path: str) -> Stats:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return Stats(
            Features(**{name: content[name] for name in Features._fields}),
            Moments.from_table(content),
            Durations.from_table(content["durations"]),
            *(int(content[name]) for name in ("clips", "short", "unreadable")),
        )
    except FileNotFoundError as error:
        raise PlainError(f"{path} does not exist: give the files that `python -m manifests stats` wrote") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlainError(f"{path} was not written by `python -m manifests stats`: measure that part again") from error


def _lines(stats: Stats, out: str) -> Iterator[str]:
    """What is said of the numbers."""
    mean, std = stats.moments.overall()
    yield from summary(stats.durations)
    yield f"{stats.num_unreadable} clips unreadable, {stats.num_short} shorter than a frame"
    yield f"{stats.moments.num_frames} frames: model.input_mean={mean:.4f} model.input_std={std:.4f}"
    yield f"of each mel bin: model.input_statistics={out}"
    if stats.moments.num_frames and (constant := stats.moments.constant_bin()) is not None:
        yield f"mel bin {constant} never changes, so training refuses that file: take fewer bins or other audio"
