"""Write a seeded corpus of synthetic sound, one folder per class.

The ten classes come in five pairs. A listener tells the two of a pair apart at once, yet they share their spectrum
averaged over time: what differs is the order of events. So mean and spread of a log-mel say little more than the pair,
and a model that has learned temporal structure has room to show it. Pitch, timbre, loudness, tilt, noise, onset,
length, container, sample rate and channels vary within every class. Knows nothing of models or manifests.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import soundfile

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.programs import run_program

MARKER = ".complete"
VERSION = 1  # of the recipe below: a corpus of another version is not the same corpus

Signal = np.ndarray  # (S,) or (S, channels), float64


@dataclass(frozen=True, kw_only=True)
class Container:
    """One way of storing a clip: the file's ending, the codec inside and the sample rates it allows."""

    extension: str
    codec: str
    rates: tuple[int, ...]


ALL_RATES = (8000, 16000, 22050, 44100, 48000)
CONTAINERS = (
    Container(extension="wav", codec="PCM_16", rates=ALL_RATES),
    Container(extension="flac", codec="PCM_16", rates=ALL_RATES),
    Container(extension="mp3", codec="MPEG_LAYER_III", rates=ALL_RATES),
    Container(extension="ogg", codec="OPUS", rates=(8000, 16000, 48000)),
    Container(extension="mkv", codec="pcm_s16le", rates=ALL_RATES),
    Container(extension="wav", codec="PCM_24", rates=ALL_RATES),
    Container(extension="flac", codec="PCM_24", rates=ALL_RATES),
    Container(extension="ogg", codec="VORBIS", rates=ALL_RATES),
    Container(extension="mkv", codec="flac", rates=ALL_RATES),
    Container(extension="mkv", codec="aac", rates=ALL_RATES),
)


# ------------------------------------------------------------------ building blocks


def _smooth_noise(rng: np.random.Generator, num_samples: int, rate: int, bandwidth_hz: float) -> Signal:
    """Draw noise that changes about ``bandwidth_hz`` times a second, shape (S,)."""
    knots = rng.standard_normal(int(num_samples / rate * bandwidth_hz) + 3)
    return np.interp(np.arange(num_samples) / rate * bandwidth_hz, np.arange(len(knots)), knots)


def _voice(rng: np.random.Generator, frequency: Signal, rate: int, timbres: Sequence[str]) -> Signal:
    """Sing a frequency track (S,) in Hz in one of ``timbres``, drawn anew for every clip."""
    return TIMBRES[timbres[int(rng.integers(len(timbres)))]](rng, frequency, rate)


def _tone(rng: np.random.Generator, frequency: Signal, rate: int) -> Signal:
    return np.sin(2 * np.pi * np.cumsum(frequency) / rate)


def _harmonics(rng: np.random.Generator, frequency: Signal, rate: int) -> Signal:
    phase, decay = 2 * np.pi * np.cumsum(frequency) / rate, rng.uniform(0.6, 1.6)
    partials = (k**-decay * np.sin(k * phase) * (k * frequency < 0.45 * rate) for k in range(1, 7))
    return np.sum(list(partials), axis=0)


def _noise_band(rng: np.random.Generator, frequency: Signal, rate: int) -> Signal:
    phase, bandwidth = 2 * np.pi * np.cumsum(frequency) / rate, rng.uniform(120, 240)
    real, imaginary = (_smooth_noise(rng, len(phase), rate, bandwidth) for _ in range(2))
    return real * np.cos(phase) - imaginary * np.sin(phase)


def _noise(rng: np.random.Generator, frequency: Signal, rate: int) -> Signal:
    return rng.standard_normal(len(frequency))


TIMBRES = {"tone": _tone, "harmonics": _harmonics, "noise_band": _noise_band, "noise": _noise}


def _filter(signal: Signal, rate: int, gain: Callable[[np.ndarray], np.ndarray]) -> Signal:
    """Weigh the spectrum of ``signal`` (S,) with ``gain``, a function of frequency in Hz."""
    # Fill up to a length with small factors: large ones make the transform several times slower.
    step = 2 ** max(len(signal).bit_length() - 5, 0)
    padded = -(-len(signal) // step) * step
    spectrum = np.fft.rfft(signal, padded) * gain(np.fft.rfftfreq(padded, 1 / rate))
    return np.fft.irfft(spectrum, padded)[: len(signal)]


def _cycle(rng: np.random.Generator, num_samples: int, rate: int, low_s: float, high_s: float) -> tuple[Signal, float]:
    """Repeat a cycle of random length and phase: the position in it, 0 to 1, shape (S,), and its length in seconds."""
    period = rng.uniform(low_s, high_s)
    return (np.arange(num_samples) / rate / period + rng.uniform()) % 1.0, period


def _fade_ends(position: Signal, share: float = 0.12) -> Signal:
    """Open and close an event whose ``position`` runs from 0 to 1, the same way at both ends."""
    return np.clip(np.minimum(position, 1 - position) / share, 0, 1)


# ------------------------------------------------------------------ the classes


def _chirps(rng: np.random.Generator, num_samples: int, rate: int, rising: bool) -> Signal:
    """Glide through one band again and again, upwards or downwards."""
    position, _ = _cycle(rng, num_samples, rate, 0.22, 0.42)
    low, ratio = rng.uniform(250, 800), rng.uniform(1.8, 3.6)
    frequency = low * ratio ** (position if rising else 1 - position)
    return _voice(rng, frequency, rate, ("tone", "noise_band")) * _fade_ends(position)


def _arpeggio(rng: np.random.Generator, num_samples: int, rate: int, rising: bool) -> Signal:
    """Play the four notes of a chord in ascending or descending order."""
    position, _ = _cycle(rng, num_samples, rate, 0.28, 0.48)
    chord = np.array([(0, 4, 7, 12), (0, 3, 7, 12), (0, 5, 10, 14), (0, 4, 8, 12)][rng.integers(4)])
    step = np.minimum((position * 4).astype(int), 3)
    root = rng.uniform(250, 900)
    frequency = root * 2.0 ** ((chord if rising else chord[::-1])[step] / 12)
    return _voice(rng, frequency, rate, ("harmonics",)) * _fade_ends(position * 4 - step)


def _tremolo(rng: np.random.Generator, num_samples: int, rate: int, fast: bool) -> Signal:
    """Hold one note whose loudness swings slowly or fast."""
    swing_hz = rng.uniform(11, 17) if fast else rng.uniform(2.5, 4.5)
    phase = 2 * np.pi * (swing_hz * np.arange(num_samples) / rate + rng.uniform())
    loudness = 1 - rng.uniform(0.85, 1.0) * (0.5 + 0.5 * np.cos(phase))
    frequency = np.full(num_samples, rng.uniform(250, 1500))
    return loudness * _voice(rng, frequency, rate, ("tone", "harmonics", "noise_band"))


def _pulses(rng: np.random.Generator, num_samples: int, rate: int, regular: bool) -> Signal:
    """Strike short decaying blows with an even beat, or with gaps of any length around the same mean."""
    gap = 1 / rng.uniform(6, 10)
    count = int(num_samples / rate / gap * 2) + 4
    gaps = np.full(count, gap) if regular else gap * (0.3 + rng.exponential(0.7, count))
    since = np.full(num_samples, np.inf)  # seconds since the last blow
    times = np.arange(num_samples) / rate
    starts = np.cumsum(gaps) - gap * rng.uniform(0.2, 1.0)
    index = np.searchsorted(starts, times, side="right") - 1
    since[index >= 0] = times[index >= 0] - starts[index[index >= 0]]
    envelope = np.minimum(since / 0.002, 1) * np.exp(-np.minimum(since, 9.0) / rng.uniform(0.012, 0.03))
    frequency = np.full(num_samples, rng.uniform(250, 1500))
    return envelope * _voice(rng, frequency, rate, ("harmonics", "noise"))


def _resonances(formants: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Give the gain of a vocal tract: one bump per formant in Hz, the upper ones lower."""
    return sum(1 / (1 + ((frequency - f) / 70) ** 2) / (n + 1) for n, f in enumerate(formants))


VOWELS_HZ = ((800, 1250, 2600), (480, 1850, 2500), (290, 2250, 3000))  # formants of a, e, i


def _vowels(rng: np.random.Generator, num_samples: int, rate: int, opening: bool) -> Signal:
    """Speak three vowels in a loop: a-e-i, or i-e-a when ``opening``."""
    position, _ = _cycle(rng, num_samples, rate, 0.3, 0.48)
    pitch = rng.uniform(90, 240) * 2.0 ** (0.08 * _smooth_noise(rng, num_samples, rate, 3.0))
    half = np.pi * np.cumsum(pitch) / rate
    num_partials = int(0.45 * rate / pitch.max())
    # A sum of equal partials in closed form (the Dirichlet kernel), so that nothing folds back above half the rate.
    source = np.sin((2 * num_partials + 1) * half) / np.where(np.abs(np.sin(half)) < 1e-6, 1e-6, np.sin(half))
    size, output = rng.uniform(0.88, 1.15), np.zeros(num_samples)  # size: of the speaker's vocal tract
    for place, formants in enumerate(VOWELS_HZ[::-1] if opening else VOWELS_HZ):
        weight = _fade_ends(np.clip(position * 3 - place, 0, 1), 0.2)
        output += weight * _filter(source, rate, partial(_resonances, np.array(formants) * size))
    return output


Synth = Callable[[np.random.Generator, int, int], Signal]
CLASSES: dict[str, Synth] = {
    "chirps_rising": lambda rng, n, rate: _chirps(rng, n, rate, rising=True),
    "chirps_falling": lambda rng, n, rate: _chirps(rng, n, rate, rising=False),
    "arpeggio_rising": lambda rng, n, rate: _arpeggio(rng, n, rate, rising=True),
    "arpeggio_falling": lambda rng, n, rate: _arpeggio(rng, n, rate, rising=False),
    "tremolo_slow": lambda rng, n, rate: _tremolo(rng, n, rate, fast=False),
    "tremolo_fast": lambda rng, n, rate: _tremolo(rng, n, rate, fast=True),
    "pulses_regular": lambda rng, n, rate: _pulses(rng, n, rate, regular=True),
    "pulses_irregular": lambda rng, n, rate: _pulses(rng, n, rate, regular=False),
    "vowels_closing": lambda rng, n, rate: _vowels(rng, n, rate, opening=False),
    "vowels_opening": lambda rng, n, rate: _vowels(rng, n, rate, opening=True),
}


# ------------------------------------------------------------------ one clip


def _draw_duration(rng: np.random.Generator) -> float:
    """Draw a length in seconds: mostly 1 to 4, sometimes down to 0.5 or up to 12."""
    kind = rng.uniform()
    if kind < 0.08:
        return rng.uniform(0.5, 1.0)
    return rng.uniform(1.0, 4.0) if kind < 0.95 else rng.uniform(4.0, 12.0)


def _tilt(signal: Signal, rate: int, db_per_octave: float) -> Signal:
    """Darken or brighten ``signal`` (S,) with a straight slope that turns around 1 kHz."""
    return _filter(signal, rate, lambda f: (np.maximum(f, 50.0) / 1000) ** (db_per_octave / (20 * np.log10(2))))


def _background(rng: np.random.Generator, num_samples: int, rate: int) -> Signal:
    """Draw noise (S,) of unit power and random colour."""
    noise = _tilt(rng.standard_normal(num_samples), rate, rng.uniform(-6, 1))
    return noise / np.sqrt(np.mean(noise**2))


def synthesise(label: str, rate: int, channels: int, rng: np.random.Generator) -> Signal:
    """Make one clip of class ``label``, shape (S, channels), within -1 and 1; ``rate`` in Hz."""
    num_samples = int(_draw_duration(rng) * rate)
    onset = int(rng.uniform(0, 0.2) * num_samples)
    dry = _tilt(CLASSES[label](rng, num_samples - onset, rate), rate, rng.uniform(-3, 2))
    edges = np.clip(np.minimum(np.arange(len(dry)), np.arange(len(dry))[::-1]) / (0.005 * rate), 0, 1)
    sound = np.concatenate([np.zeros(onset), dry * edges / np.sqrt(np.mean(dry**2))])
    noise_gain = 10 ** (-rng.uniform(20, 40) / 20)
    pan = rng.uniform(0.5, 1.0, channels)
    wet = np.stack([g * sound + noise_gain * _background(rng, num_samples, rate) for g in pan], axis=1)
    return wet / np.abs(wet).max() * 10 ** (-rng.uniform(1, 16) / 20)


# ------------------------------------------------------------------ files


def _write_matroska(path: Path, samples: Signal, rate: int, codec: str) -> None:
    integers = np.round(samples * 32767).astype(np.int16)
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    # bitexact: Matroska otherwise draws a random identity for each file.
    with av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(integers.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _write_soundfile(path: Path, samples: Signal, rate: int, codec: str) -> None:
    with soundfile.SoundFile(path, "w", rate, samples.shape[1], subtype=codec) as output:
        for start in range(0, len(samples), rate):  # in pieces: libsndfile's Vorbis keeps a whole write on the stack
            output.write(samples[start : start + rate])


def _write_clip(folder: Path, index: int, seed: int) -> None:
    """Write clip ``index`` below ``folder``; everything about it follows from ``seed`` and ``index`` alone."""
    rng = np.random.default_rng([seed, index])
    label = list(CLASSES)[index % len(CLASSES)]
    # A step of one more than the round of classes, so that no class prefers a container.
    container = CONTAINERS[(index + index // len(CLASSES)) % len(CONTAINERS)]
    rate, channels = int(rng.choice(container.rates)), int(rng.integers(1, 3))
    samples = synthesise(label, rate, channels, rng)
    path = folder / label / f"clip_{index:05d}.{container.extension}"
    path.parent.mkdir(exist_ok=True)
    write = _write_matroska if container.extension == "mkv" else _write_soundfile
    write(path, samples, rate, container.codec)


def _is_complete(folder: Path, parameters: dict[str, int]) -> bool:
    """Tell whether ``folder`` already holds this corpus; raises `PlainError` when it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    if not marker.is_file():
        raise PlainError(f"{folder} holds something that is not a demo corpus; name an empty or a new folder.")
    if marker.read_text(encoding="utf-8") != json.dumps(parameters):
        found = marker.read_text(encoding="utf-8")
        raise PlainError(
            f"{folder} holds a demo corpus made with {found} where {json.dumps(parameters)} was asked for; "
            "remove it or name a new folder."
        )
    return True


def write_corpus(folder: Path, num_clips: int = 360, seed: int = 1) -> None:
    """Write ``num_clips`` clips as ``folder/CLASS/NAME.EXT``; a folder that already holds them is left as it is.

    The corpus grows beside ``folder`` and is moved there when whole. Raises `PlainError` for less than one clip, a
    negative seed, and a folder that holds anything else.
    """
    if num_clips < 1 or seed < 0:
        raise PlainError(f"A corpus needs at least 1 clip and a seed from 0 up, but got {num_clips} and {seed}.")
    folder = Path(folder)
    parameters = {"version": VERSION, "num_clips": num_clips, "seed": seed}
    if _is_complete(folder, parameters):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        growing = Path(temporary, folder.name)
        growing.mkdir()
        for index in range(num_clips):
            _write_clip(growing, index, seed)
        (growing / MARKER).write_text(json.dumps(parameters), encoding="utf-8")
        _move(growing, folder, parameters)


def _move(growing: Path, folder: Path, parameters: dict[str, int]) -> None:
    try:
        os.replace(growing, folder)
    except OSError:
        if not _is_complete(folder, parameters):  # otherwise another process was faster, with the same result
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m mae_ast_plugin.demo.corpus FOLDER [--clips N] [--seed N]``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mae_ast_plugin.demo.corpus", description=write_corpus.__doc__)
    parser.add_argument("folder", type=Path, help="where the corpus goes: a new or an empty folder")
    parser.add_argument("--clips", type=int, default=360, help="number of clips (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other clips (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        write_corpus(options.folder, options.clips, options.seed)
    except PlainError as error:
        parser.exit(2, f"{error}\n")
    print(f"{options.folder}: {options.clips} clips in {min(options.clips, len(CLASSES))} classes")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_program(main))
