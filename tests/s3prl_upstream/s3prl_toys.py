"""Corpora of some seconds in the layouts that s3prl's tasks read, and checkpoints of networks of some kilobytes.

The audio is of spoken digits (FSDD) or of tones: class k is a sine of 200 (k + 1) Hz with a fifth above it, which any
network that passes its input on makes easy to tell apart and one that does not leaves at chance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import torch

from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings

RATE = 16000
KERNELS = {"patch": (16, 16), "frame": (2, 128)}


def write_checkpoint(
    path: Path, kind: str, num_layers: int = 2, dim: int = 32, decoder_dim: int = 32, layer_drop: float = 0.05
) -> Path:
    """Write a network with random weights in the layout of this plugin's training; ``kind`` is patch or frame."""
    time, chan = KERNELS[kind]
    model = ModelSettings(
        ast_kernel_size_time=time, ast_kernel_stride_time=time, ast_kernel_size_chan=chan, ast_kernel_stride_chan=chan,
        encoder_layers=num_layers, decoder_layers=1, encoder_embed_dim=dim, decoder_embed_dim=decoder_dim,
        encoder_ffn_embed_dim=2 * dim, encoder_attention_heads=4, use_post_enc_proj=decoder_dim != dim,
        encoder_layerdrop=layer_drop,
    )  # fmt: skip
    task = TaskSettings()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = autoencoder_of(model, task.feature_dim)
        network.norm.running_mean.fill_(-6.0)  # a log-mel's usual mean and variance
        network.norm.running_var.fill_(16.0)
    state = {f"autoencoder.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"cfg": {"model": asdict(model), "task": asdict(task)}, "model": state}, path)
    return path


# ---- sources of clips: waveforms of 16 kHz by class, by speaker, by emotion


class Source(Protocol):
    """Where clips come from; the same arguments give the same clip."""

    def word(self, number: int, speaker: int, take: int) -> np.ndarray: ...

    def speaker(self, number: int, take: int) -> np.ndarray: ...

    def emotion(self, number: int, take: int) -> np.ndarray: ...


class Tones:
    """Made-up sounds; a speaker is one per cent higher than the one before."""

    def _tone(self, number: int, speaker: int, take: int, seconds: float) -> np.ndarray:
        draw = np.random.default_rng([number, speaker, take])
        time_s = np.arange(int(seconds * RATE)) / RATE
        turns = 200.0 * (number + 1) * (1 + 0.01 * speaker) * time_s + draw.uniform()
        sound = 0.3 * np.sin(2 * np.pi * turns) + 0.15 * np.sin(2 * np.pi * 1.5 * turns)
        return (sound + 0.01 * draw.standard_normal(len(time_s))).astype(np.float32)

    def word(self, number: int, speaker: int, take: int) -> np.ndarray:
        return self._tone(number, speaker, take, 1.0)

    def speaker(self, number: int, take: int) -> np.ndarray:
        return self._tone(3 * number, take % 8, take, 1.0 + 0.1 * (take % 8))

    def emotion(self, number: int, take: int) -> np.ndarray:
        return self._tone(3 * number, take % 8, take, 1.2)


@dataclass(frozen=True)
class Digits:
    """Recordings of FSDD, ``DIGIT_SPEAKER_INDEX.wav``; digits stand for words and for emotions."""

    folder: Path
    names: Sequence[str]

    @classmethod
    def of(cls, folder: Path) -> Digits | None:
        """Those of a folder, None where it has no such files of four speakers."""
        names = sorted({path.stem.split("_")[1] for path in folder.glob("*_*_*.wav")})
        return cls(folder, names) if len(names) >= 4 else None

    def _recording(self, digit: int, speaker: int, take: int) -> np.ndarray:
        return read(str(self.folder / f"{digit}_{self.names[speaker]}_{take}.wav"), sample_rate=RATE)[0]

    def word(self, number: int, speaker: int, take: int) -> np.ndarray:
        return self._recording(number, speaker % 4, take)

    def speaker(self, number: int, take: int) -> np.ndarray:
        return np.concatenate([self._recording(digit, number, take) for digit in range(3)])

    def emotion(self, number: int, take: int) -> np.ndarray:
        return self._recording(number, take % 4, take)


def write(path: Path, waveform: np.ndarray) -> Path:
    """Write 16-bit PCM, making the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, RATE, subtype="PCM_16")
    return path


# ---- the layouts; the names are those that docs/superb.md prints

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
# whose hash s3prl takes for the training set, and for dev
TRAIN_SPEAKERS, DEV_SPEAKERS = ("00000001", "00000003", "00000004", "00000005"), ("00000000", "00000007")


def write_speech_commands(folder: Path, source: Source, num_takes: int = 1) -> None:
    """Write SPEECH_COMMANDS and SPEECH_COMMANDS_TEST: ten words, noise for silence; test with other takes."""
    for number, word in enumerate(WORDS):
        for speaker, name in enumerate([*TRAIN_SPEAKERS, *DEV_SPEAKERS]):
            for take in range(num_takes):
                clip = source.word(number, speaker, take)
                write(folder / "SPEECH_COMMANDS" / word / f"{name}_nohash_{take}.wav", clip)
        for speaker in range(2):
            write(folder / "SPEECH_COMMANDS_TEST" / word / f"{speaker}.wav", source.word(number, speaker, num_takes))
    noise = 0.05 * np.random.default_rng(0).standard_normal(2 * RATE)
    write(folder / "SPEECH_COMMANDS" / "_background_noise_" / "noise.wav", noise)


def write_voxceleb(folder: Path, source: Source) -> None:
    """Write VOXCELEB1 and VOXCELEB1_LIST: four speakers, three clips for training, one for dev, one for test."""
    lines = []
    for number in range(4):
        for take, split in enumerate((1, 1, 1, 2, 3)):
            path = f"id{10001 + 7 * number}/video{take}/00001.wav"
            write(
                folder / "VOXCELEB1" / ("test" if number == 3 else "dev") / "wav" / path, source.speaker(number, take)
            )
            lines.append(f"{split} {path}\n")
    (folder / "VOXCELEB1_LIST").write_text("".join(lines))


def write_iemocap(folder: Path, source: Source) -> None:
    """Write IEMOCAP and IEMOCAP_META: two sessions, four emotions, three clips of each."""
    labels = {"neu": 0, "hap": 1, "ang": 2, "sad": 3}
    sessions: dict[int, list[dict[str, str]]] = {1: [], 2: []}
    for session, clips in sessions.items():
        for label, number in labels.items():
            for take in range(3):
                path = f"Session{session}/sentences/wav/Ses0{session}F_impro01/Ses0{session}F_{label}_{take}.wav"
                write(folder / "IEMOCAP" / path, source.emotion(number, 3 * session + take))
                clips.append({"path": path, "label": label, "speaker": f"Ses0{session}F"})
    for session, others in ((1, 2), (2, 1)):
        for split, chosen in (("test", session), ("train", others)):
            meta = folder / "IEMOCAP_META" / f"Session{session}" / f"{split}_meta_data.json"
            meta.parent.mkdir(parents=True, exist_ok=True)
            meta.write_text(json.dumps({"labels": labels, "meta_data": sessions[chosen]}))
