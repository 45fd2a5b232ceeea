"""What Dasheng's case of data defines: the crops that its loader takes of clips in tar shards, and their order."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from case import Case
from torch import Tensor

from mae_ast_plugin.audio.frontend import as_float
from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import TaskSettings
from manifests.__main__ import main as manifests
from manifests.shards import read_shard

SHORTEST_SHARE = 0.8  # of a crop: files shorter than that are left out by drop_crops (facts: Dasheng 7)


def check_shards(case: Case) -> None:
    """Shards listed by our command and read through our dataset, piece by piece."""
    crop = case.config["crop_size"]
    with tempfile.TemporaryDirectory() as folder:
        fields = case.config["sequence"]["with_json"]["json"][0]
        listed = {field: _listed(case, Path(folder) / field, field) for field in fields}
        manifest = next(iter(listed.values()))
        keys = _keys(manifest)
        for name, least in (("default", 0), ("with_json", 0), ("drop_crops", int(SHORTEST_SHARE * crop))):
            data = _dataset(manifest, "pieces", crop, least)
            case.compare(f"{name}/crops", _crops(data, crop), absolute=case.config["tolerances"]["atol"])
            case.scalar(f"sequence.{name}.keys", [PurePath(keys[row]).stem for row in data.rows])
        labels = [[row.label for row in listed[field]] for field in fields]
        rows = _dataset(manifest, "pieces", crop, 0).rows
        found = [dict(zip(fields, (column[row] for column in labels), strict=True)) for row in rows]
        wanted = case.open_scalars.pop("sequence.with_json.json")
        case.problems += [] if found == [_as_text(entry) for entry in wanted] else [f"sequence.with_json.json: {found}"]
        _check_counts(case, manifest, keys, crop)
    for name in ("crop_size", "reading", "crops_per_file.columns"):
        case.open_scalars.pop(name, None)


def _listed(case: Case, out: Path, field: str) -> Manifest:
    shards = str(case.folder / "shards")
    assert manifests(["tar", shards, "--out", str(out), "--valid", "0", "--test", "0", "--label", field]) == 0
    return Manifest.load(out / "train.tsv")


def _keys(manifest: Manifest) -> list[str]:
    """The members' names in the order of the rows."""
    names = {}
    for shard in {row.path.split(":")[0] for row in manifest}:
        names.update((f"{shard}:{clip.place}", clip.name) for clip in read_shard(shard, "").clips)
    return [names[row.path] for row in manifest]


def _as_text(entry: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in entry.items()}


def _dataset(manifest: Manifest, cut: str, crop: int, least: int) -> ClipDataset:
    assert manifest.sample_rates is not None
    rate = int(manifest.sample_rates[0])  # the original takes every file as it is
    task = TaskSettings(
        data="", sample_rate=rate, max_sample_size=crop, min_sample_size=least, cut=cut, feature_type="decibel_mel"
    )
    return ClipDataset("x", manifest, task, frontend_of(task), min_frames=0, seed=1, epoch_matters=False)


def _crops(data: ClipDataset, crop: int) -> Tensor:
    clips = [as_float(data[ClipRef(entry, 1, 0)].waveform) for entry in range(len(data))]
    return torch.stack([torch.nn.functional.pad(clip, (0, crop - len(clip))) for clip in clips])


def _check_counts(case: Case, manifest: Manifest, keys: Sequence[str], crop: int) -> None:
    whole, padded = (_dataset(manifest, cut, crop, 0).rows.tolist() for cut in ("pieces", "all_pieces"))
    for name in [name for name in case.open_scalars if name.startswith("crops_per_file.") and "columns" not in name]:
        stored = PurePath(name.removeprefix("crops_per_file."))
        row = keys.index(stored.stem.replace(".", "_") + stored.suffix)
        of_nothing = int(manifest.lengths[row] % crop == 0)  # the original also pads a rest of no samples to a crop
        case.scalar(name, [whole.count(row), padded.count(row) + of_nothing])
