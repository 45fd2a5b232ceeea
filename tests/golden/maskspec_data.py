"""What MaskSpec's cases of data define: encoded files and labels in HDF5, changes of waveforms, weights of clips."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from case import Case
from maskspec_published import drop, own
from torch import Tensor

from mae_ast_plugin.audio import augment
from mae_ast_plugin.audio.frontend import pad_waveforms
from mae_ast_plugin.audio.places import open_place
from mae_ast_plugin.audio.reader import probe, read
from mae_ast_plugin.data import weights


def _labels_of(path: Path, num_classes: int) -> Tensor:
    """Multi-hot labels (N, C) of a file that packs those of eight classes into a byte, the first into its top bit."""
    with h5py.File(path) as file:
        return torch.from_numpy(np.unpackbits(file["target"][:], axis=1)[:, :num_classes]).float()


def check_reading(case: Case) -> None:
    """Whole MP3 files in rows of HDF5 files, decoded, cut to one length, and one draw of each change."""
    config = case.config
    paths, rate = [case.folder / name for name in config["files"]], config["sample_rate"]
    labelled, near = paths[0], own(case, "waveform_abs")
    num_clips, wanted = len(config["source_samples"]), config["clip_seconds"] * rate
    places = [f"{labelled}:{row}" for row in range(num_clips)]
    contents = [open_place(place).read() or b"" for place in places]
    for path in paths[1:]:  # the same clips, without labels
        others = [open_place(f"{path}:{row}").read() for row in range(num_clips)]
        case.problems += [] if others == contents else [f"{path.name}: other bytes"]
    case.scalar("mp3_bytes", list(map(len, contents)))
    case.scalar("mp3_sha256", [hashlib.sha256(content).hexdigest() for content in contents])
    infos = [probe(place) for place in places]
    case.scalar("decoded_samples", [info.num_samples for info in infos])
    case.scalar("channels", [info.num_channels for info in infos])
    case.problems += [f"{i}: rate {info.sample_rate}" for i, info in enumerate(infos) if info.sample_rate != rate]
    decoded = [torch.from_numpy(read(place)[0]) for place in places]
    for number, waveform in enumerate(decoded):
        own(case, "decoded_abs")(f"decoded_{number}", waveform)
    sources = [case.input[f"source_{row}"][0] for row in range(num_clips)]
    case.scalar("source_samples", list(map(len, sources)))
    case.scalar("source_seconds", [len(source) / rate for source in sources])
    errors = [float((source - waveform).abs().max()) for source, waveform in zip(sources, decoded, strict=True)]
    allowed = config["tolerances"]["decoded_abs"]
    close = np.allclose(errors, case.open_scalars.pop("max_abs_encode_error"), atol=allowed)
    case.problems += [] if close else [f"max_abs_encode_error: {errors}"]
    items = torch.stack([pad_waveforms([waveform[:wanted]], wanted) for waveform in decoded])
    near("waveform", items)
    _check_labels(case, labelled)
    _check_changes(case, items)
    drop(case, "classes", "names_given", "sample_rate", "clip_seconds", "mp3_bit_rate", "decoder", "tolerances")


def _check_labels(case: Case, path: Path) -> None:
    with h5py.File(path) as file:
        packed = torch.from_numpy(file["target"][:])
        case.scalar("names_stored", [name.decode() for name in file["audio_name"]])
    case.compare("target_packed", packed)
    case.compare("target", _labels_of(path, case.config["classes"]))
    case.scalar("packed_bytes", packed.shape[1])


def _check_changes(case: Case, items: Tensor) -> None:
    """One draw of each change of the first waveform."""
    near, draws = own(case, "waveform_abs"), case.config["draws"]
    near(f"gain_plus{draws['gain_db']}db", augment.gain(items[0], draws["gain_db"]))
    near(f"roll_plus{draws['roll']}", augment.roll(items[0], draws["roll"]))
    mixed, partner = draws["wavmix"], draws["wavmix"]["partner"]
    share = max(mixed["beta_draw"], 1 - mixed["beta_draw"])
    case.scalar("draws.wavmix.lam", share, within=1e-9)
    near(f"wavmix_lambda{mixed['lam']}", augment.mix(items[0], items[partner], share))
    labels = case.expected["target"]
    near("wavmix_target", augment.mix_labels(labels[0], labels[partner], share))
    drop(case, "draws")


def check_weights(case: Case) -> None:
    """How often clips are drawn, from the labels of balanced and unbalanced sets, the balanced first."""
    labels = [_labels_of(case.folder / f"{name}.hdf", case.config["classes"]) for name in ("balanced", "unbalanced")]
    target = torch.cat(labels)
    case.problems += [] if torch.equal(target, case.input["target"]) else ["target: the files have other labels"]
    near = {"rtol": case.config["tolerances"]["rel"]}
    case.compare("class_count", target.sum(dim=0))
    ways: dict[str, dict[str, Any]] = {
        "weights_default": {},
        "weights_max": {"combine": "max"},
        "weights_offset_half": {"offset": 0.5},
    }
    for name, options in ways.items():
        case.within(name, torch.from_numpy(weights.clip_weights(target.numpy(), **options)), near)
    case.scalar("defaults.offset", weights.OFFSET)
    case.scalar("defaults.combine", weights.COMBINE[0])
    drop(case, "classes", "order", "tolerances")
