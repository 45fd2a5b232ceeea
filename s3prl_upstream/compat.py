"""What s3prl 0.4.18 expects of its surroundings and no longer finds; nothing is replaced that works.

torchaudio lost its audio reading, its sox effects and some names in 2.9, its published build does not load beside a
CPU build of torch, and torch 2.6 reads no argparse.Namespace from a checkpoint. All is added in memory, for this
process and those it forks; no file of an installed package is touched. Signal processing is left to libraries.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import soundfile
import torch
from torch import Tensor

from mae_ast_plugin.errors import PlainError

Audio = tuple[Tensor, int]


def import_hub() -> ModuleType:
    """Import ``s3prl.hub`` with everything it needs; PlainError where s3prl is not installed."""
    if importlib.util.find_spec("s3prl") is None:
        raise PlainError('s3prl is not installed; run make s3prl-setup, or pip install "mae-ast-plugin[s3prl]"')
    torch.serialization.add_safe_globals([argparse.Namespace])  # s3prl keeps its arguments in its checkpoints
    complete(import_torchaudio())
    hub = importlib.import_module("s3prl.hub")
    # only now: transformers, which the hub imports, looks for the real librosa
    add_stand_ins()
    return hub


# ---- torchaudio


def import_torchaudio() -> ModuleType:
    """Import torchaudio, where its compiled part does not load (a CUDA build beside a CPU torch) without that part."""
    try:
        return importlib.import_module("torchaudio")
    except OSError:
        utils: Any = sys.modules.get("torchaudio._extension.utils")
        if utils is None:
            raise
    load_library = utils._load_lib

    def load_where_possible(name: str) -> bool:
        try:
            return bool(load_library(name))
        except OSError:
            return False  # what torchaudio itself says of a build without compiled part

    utils._load_lib = load_where_possible
    return importlib.import_module("torchaudio")


def complete(torchaudio: Any) -> list[str]:
    """Give ``torchaudio`` what s3prl calls and this one cannot do; returns the names of what was added."""
    added = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip, copy = str(Path(folder, "clip.wav")), str(Path(folder, "copy.wav"))
        soundfile.write(clip, [0.0] * 160, 16000)
        # that a function is there says little: torchaudio 2.9's load needs a package that may not load in turn
        needed: dict[str, tuple[Any, Callable[[], object]]] = {
            "set_audio_backend": (lambda backend: None, lambda: torchaudio.set_audio_backend),
            "load": (load, lambda: torchaudio.load(clip)),
            "info": (info, lambda: torchaudio.info(clip)),
            "save": (save, lambda: torchaudio.save(copy, torch.zeros(1, 160), 16000)),
            "sox_effects": (
                sox_effects(),
                lambda: torchaudio.sox_effects.apply_effects_file(clip, [["channels", "1"]]),
            ),
        }
        for name, (ours, attempt) in needed.items():
            try:
                attempt()
            except (AttributeError, ImportError, OSError, RuntimeError):
                setattr(torchaudio, name, ours)
                added.append(name)
    if "sox_effects" in added:
        sys.modules[f"{torchaudio.__name__}.sox_effects"] = torchaudio.sox_effects
    return added


def load(
    uri: Any,
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
) -> Audio:
    """Read a file with libsndfile, as float32 in [-1, 1]: channels x samples, and the sample rate."""
    samples, rate = soundfile.read(uri, start=frame_offset, frames=num_frames, dtype="float32", always_2d=True)
    waveform = torch.from_numpy(samples)
    return (waveform.T.contiguous() if channels_first else waveform), rate


def save(
    uri: Any, src: Tensor, sample_rate: int, channels_first: bool = True, format: str | None = None, **others: Any
) -> None:
    """Write a file with libsndfile; a WAV holds floats, as torchaudio's does."""
    kind = (format or Path(str(uri)).suffix.lstrip(".")).upper()
    samples = src.T if channels_first else src
    soundfile.write(uri, samples.cpu().numpy(), sample_rate, format=kind, subtype="FLOAT" if kind == "WAV" else None)


@dataclass(frozen=True)
class AudioMetaData:
    """What torchaudio's ``info`` told of a file."""

    sample_rate: int
    num_frames: int
    num_channels: int
    bits_per_sample: int
    encoding: str


def info(uri: Any, format: str | None = None, buffer_size: int = 4096, backend: str | None = None) -> AudioMetaData:
    """Read a file's header with libsndfile."""
    about = soundfile.info(uri)
    digits = "".join(character for character in about.subtype if character.isdigit())
    bits = {"FLOAT": 32, "DOUBLE": 64}.get(about.subtype, int(digits or 0))
    return AudioMetaData(about.samplerate, about.frames, about.channels, bits, about.subtype)


# ---- sox


def sox_effects() -> ModuleType:
    """Make the module ``torchaudio.sox_effects`` of the effects that the tasks use."""
    module: Any = ModuleType("torchaudio.sox_effects", "Some of sox's effects, from s3prl_upstream.compat.")
    module.apply_effects_tensor = apply_effects_tensor
    module.apply_effects_file = apply_effects_file
    return module


def apply_effects_file(
    path: Any,
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
) -> Audio:
    """Read a file and apply sox effects to it; NotImplementedError for those that are not here."""
    waveform, rate = load(path)
    waveform, rate = apply_effects_tensor(waveform, rate, effects)
    return (waveform if channels_first else waveform.T), rate


def apply_effects_tensor(
    tensor: Tensor, sample_rate: int, effects: Sequence[Sequence[str]], channels_first: bool = True
) -> Audio:
    """Apply sox effects to a waveform, limited to [-1, 1] after each as sox does."""
    waveform = tensor if channels_first else tensor.T
    for effect in effects:
        name, *arguments = effect
        try:
            waveform, sample_rate = EFFECTS[name](waveform, sample_rate, *arguments)
        except (KeyError, ValueError, TypeError) as error:
            raise NotImplementedError(
                f"the sox effect {' '.join(effect)!r} is not among those that stand in for torchaudio's "
                f"({', '.join(EFFECTS)}); this task needs a torchaudio older than 2.9 with sox"
            ) from error
        waveform = waveform.clamp(-1.0, 1.0)
    return (waveform if channels_first else waveform.T), sample_rate


def _channels(waveform: Tensor, rate: int, number: str) -> Audio:
    if int(number) != 1 and int(number) != len(waveform):
        raise ValueError(number)
    return (waveform.mean(dim=0, keepdim=True) if int(number) == 1 else waveform), rate


def _rate(waveform: Tensor, rate: int, wanted: str) -> Audio:
    from torchaudio.functional import resample

    return resample(waveform, rate, int(float(wanted))), int(float(wanted))


def _gain(waveform: Tensor, rate: int, decibel: str) -> Audio:
    return waveform * 10 ** (float(decibel) / 20), rate


def _norm(waveform: Tensor, rate: int, decibel: str = "0") -> Audio:
    peak = waveform.abs().max()
    return _gain(waveform / peak, rate, decibel) if peak > 0 else (waveform, rate)


def _reverse(waveform: Tensor, rate: int) -> Audio:
    return waveform.flip(-1), rate


def _pad(waveform: Tensor, rate: int, before: str, after: str = "0") -> Audio:
    counts = [int(text[:-1]) if text.endswith("s") else round(float(text) * rate) for text in (before, after)]
    return torch.nn.functional.pad(waveform, counts), rate


EFFECTS: dict[str, Callable[..., Audio]] = {
    "channels": _channels,
    "rate": _rate,
    "gain": _gain,
    "norm": _norm,
    "reverse": _reverse,
    "pad": _pad,
}


# ---- packages that two tasks import and do not use in a single process


def add_stand_ins() -> list[str]:
    """Register empty modules for catalyst (keyword spotting) and librosa (speaker id) where those are not installed."""

    class DistributedSamplerWrapper:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            raise PlainError("keyword spotting in several processes needs catalyst; pip install catalyst==22.4")

    def find_files(*arguments: Any, **named: Any) -> list[str]:
        raise PlainError("this task needs librosa; pip install librosa")

    names: dict[str, dict[str, Any]] = {
        "catalyst.data.sampler": {"DistributedSamplerWrapper": DistributedSamplerWrapper},
        "librosa.util": {"find_files": find_files},
    }
    added = []
    for path, contents in names.items():
        package = path.split(".")[0]
        if package in sys.modules or importlib.util.find_spec(package) is not None:
            continue
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)  # find_spec fails on a module without
            if depth > 1:
                setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], sys.modules[name])
        vars(sys.modules[path]).update(contents)
        added.append(package)
    return added
