"""``pack``: put the clips of a folder or a manifest into shards of one thousand, and write the manifest of the shards.

Tar shards are WebDataset's: ``KEY.flac`` beside ``KEY.json`` with the label, the name before packing, length and rate.
The same input gives the same bytes. Interrupted, the same command goes on behind the last complete shard.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mae_ast_plugin.errors import PlainError
from manifests import jobs
from manifests.hdf5_layout import import_h5py
from manifests.output import Clip, write_split, write_unreadable
from manifests.pack_sources import list_sources, number_classes
from manifests.packed_clips import Settings
from manifests.packing import Packing
from manifests.shard_files import COUNTS, Plan, write_shard

PER_SHARD = 1000
MP3_RATE = 32000  # [Hz], what MaskSpec and PaSST expect


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("pack", help="put clips into tar shards or HDF5 files", description=__doc__)
    parser.add_argument("input", metavar="INPUT", help="a manifest (.tsv), or a folder of clips")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for NAME-000000.tar ... and NAME.tsv")
    parser.add_argument("--name", help="beginning of the files' names (default that of the input)")
    parser.add_argument(
        "--per-shard", type=int, metavar="N", help=f"clips in a shard (default {PER_SHARD}, with --hdf5 all)"
    )
    parser.add_argument("--flac", action="store_true", help="encode as FLAC what keeps every sample, copy the rest")
    parser.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="resample clips of other rates, to mono FLAC of 16 bits"
    )
    parser.add_argument(
        "--hdf5", action="store_true", help=f"write MaskSpec's HDF5 layout: mono MP3 at {MP3_RATE} Hz, packed labels"
    )
    parser.add_argument(
        "--classes", metavar="CSV", help="with --hdf5: class_labels_indices.csv, the mids are the labels"
    )
    jobs.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Pack and report; raises PlainError when the options are wrong or nothing can be packed."""
    _check_options(options)
    root, sources, unlisted = list_sources(options.input)
    name = options.name or Path(options.input).resolve().name.removesuffix(".tsv")
    _check_file_name(name)
    target = Path(options.out, f"{name}.tsv")
    if target.exists() and target.samefile(options.input):
        raise PlainError(f"{target} would replace the manifest that is packed: choose another --out or --name")
    classes = number_classes(sources, options.classes) if options.hdf5 else None
    settings = Settings(options.flac, options.sample_rate or (MP3_RATE if options.hdf5 else None), options.hdf5)
    packing = Packing(Path(options.out), name, one_file=options.hdf5 and options.per_shard is None)
    sizes = packing.shard_sizes(len(sources), options.per_shard or PER_SHARD, "hdf" if options.hdf5 else "tar")
    mine = [shard for shard in sizes if options.shard.holds(shard)]
    if not mine:
        raise PlainError(
            f"there are only {len(sizes)} shards, none is for --shard {options.shard.number}/{options.shard.total}: "
            "use fewer machines or a smaller --per-shard"
        )
    plan = Plan.write(packing.plan, root, sizes, sources)
    with packing.journal(["pack", plan.digest, settings, classes, options.shard]) as journal:
        if complete := journal.done.keys() & set(mine):
            print(f"{len(complete)} of {len(mine)} shards are complete already")
        work = partial(write_shard, plan, str(packing.folder), settings, classes)
        found = dict(
            jobs.each(work, mine, jobs=options.jobs, what="packing", journal=journal, unit="shard", per_task=1)
        )
        results = [(shard, found[shard]) for shard in mine]
        if packing.one_file:
            results = [packing.join(results, journal)]
        _report(packing, root, results, unlisted)
    packing.clean()


def _check_options(options: argparse.Namespace) -> None:
    jobs.check_jobs(options.jobs)
    if options.per_shard is not None and options.per_shard < 1:
        raise PlainError(f"--per-shard {options.per_shard} is too few: give 1 or more")
    if options.sample_rate is not None and options.sample_rate < 1:
        raise PlainError(f"--sample-rate {options.sample_rate} is no rate: give it in Hz, as 16000")
    if options.hdf5 and options.flac:
        raise PlainError("--hdf5 holds MP3 and --flac asks for FLAC: give one of them")
    if options.classes and not options.hdf5:
        raise PlainError("--classes belongs to --hdf5: tar shards keep labels as they are")
    if options.hdf5:
        import_h5py()


def _check_file_name(name: str) -> None:
    if not re.fullmatch(r"[^/\t\r\n:]+", name) or name.startswith("."):
        raise PlainError(
            f"the name {name!r} of the shards has a '/', ':' or TAB or begins with a dot: give another --name"
        )


def _report(
    packing: Packing, root: str, results: Sequence[tuple[str, dict[str, Any]]], unlisted: dict[str, str]
) -> None:
    counts = {key: sum(result[key] for _, result in results) for key in COUNTS}
    clips = [
        Clip(f"{shard}:{place}", num_samples, rate, label)
        for shard, result in results
        for place, num_samples, rate, label in result["clips"]
    ]
    unreadable = unlisted | {name: reason for _, result in results for name, reason in result["unreadable"]}
    path = write_unreadable(packing.out, unreadable, f"{packing.name}-unreadable.tsv")
    done = f"{counts['copied']} copied, {counts['encoded']} encoded without loss, {counts['converted']} converted"
    print(f"{len(clips)} clips in {len(results)} files: {done}; {len(unreadable)} unreadable (listed in {path})")
    if counts["clipped"]:
        print(f"{counts['clipped']} of the converted clips were louder than full scale, which cuts their peaks off")
    if not clips:
        raise PlainError(f"no clip below {root} can be read: see {path}")
    write_split(packing.out, packing.name, str(packing.out.resolve()), clips)
