"""The bytes of a clip as they go into a shard: copied, or encoded so that no sample changes, or converted when asked.

FLAC holds whole numbers of up to 24 bits, so WAV, AIFF and the like become FLAC without loss; what a codec with losses
has made, and floats, are copied. Resampling and MP3 change samples, and happen only where they are asked for.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame

from mae_ast_plugin.audio.places import check_reading, open_place
from mae_ast_plugin.audio.reader import AudioError, Waveform, probe, read

# libsndfile's names of whole numbers that FLAC can hold, and what it stores them as
FLAC_SUBTYPES = {"PCM_S8": "PCM_16", "PCM_U8": "PCM_16", "PCM_16": "PCM_16", "PCM_24": "PCM_24"}
MAGIC = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"NIST": "sph", b"FORM": "aiff",
         b".snd": "au", b"caff": "caf", b"\x1aE\xdf\xa3": "mka", b"riff": "w64"}  # fmt: skip


class Settings(NamedTuple):
    """How clips are packed: ``flac`` without loss, ``sample_rate`` [Hz] where it is to be changed, as ``mp3``."""

    flac: bool
    sample_rate: int | None
    mp3: bool


class Packed(NamedTuple):
    """A clip's bytes, the ending of its name, its length in samples, its rate in Hz, and what was done to it."""

    data: bytes
    ending: str
    num_samples: int
    sample_rate: int
    how: str  # "copied", "encoded" (no sample changed) or "converted"
    clipped: bool = False  # whether samples beyond full scale were cut off


def pack_clip(path: str, ending: str, settings: Settings) -> Packed:
    """Read a clip and give it as it is to be packed; AudioError where it cannot be read.

    ``ending`` is that of its name, "" where none is known.
    """
    info = probe(path)
    data = read_bytes(path)
    rate = settings.sample_rate or info.sample_rate
    if settings.mp3:
        if _kind_of(data) == "MP3" and (info.num_channels, info.sample_rate) == (1, rate):
            return Packed(data, "mp3", info.num_samples, rate, "copied")
        return _as_mp3(read(path, sample_rate=rate)[0], rate)
    if info.sample_rate != rate:
        return _as_flac(read(path, sample_rate=rate)[0], rate)
    if settings.flac and (flac := lossless_flac(data)):
        return Packed(flac, "flac", info.num_samples, rate, "encoded")
    if not (ending := ending or _guess_ending(data)):
        raise AudioError(path, "has no ending that tells what audio it is: rename it")
    return Packed(data, ending, info.num_samples, rate, "copied")


def read_bytes(path: str) -> bytes:
    """Read the bytes of a clip, wherever it lies."""
    with open_place(path) as handle:
        data = handle.read()
        check_reading(path, handle)
    return data or b""


def lossless_flac(data: bytes) -> bytes | None:
    """Encode a file as FLAC with the same samples; None where it is FLAC already or cannot become FLAC unchanged."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            subtype = FLAC_SUBTYPES.get(sound.subtype)
            if sound.format == "FLAC" or subtype is None:
                return None
            samples, rate = sound.read(dtype="int32", always_2d=True), sound.samplerate
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, rate, format="FLAC", subtype=subtype)
        decoded, _ = soundfile.read(io.BytesIO(encoded.getvalue()), dtype="int32", always_2d=True)
    except soundfile.LibsndfileError:  # unknown to libsndfile, or more channels or another rate than FLAC can have
        return None
    return encoded.getvalue() if np.array_equal(samples, decoded) else None


def _as_flac(waveform: Waveform, rate: int) -> Packed:
    """Encode a waveform as FLAC of 16 bits, rounded to the nearest."""
    scaled = np.rint(waveform * 32768.0)
    samples = np.clip(scaled, -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format="FLAC", subtype="PCM_16")
    return Packed(encoded.getvalue(), "flac", len(samples), rate, "converted", bool((scaled != samples).any()))


def _as_mp3(waveform: Waveform, rate: int) -> Packed:
    """Encode a waveform as MP3 with the encoder's defaults; its header states the delay, which decoders then skip."""
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=rate, layout="mono")
        frame = AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = encoded.getvalue()
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        num_samples = len(sound.read(dtype="float32"))
    return Packed(data, "mp3", num_samples, rate, "converted")


def _kind_of(data: bytes) -> str | None:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            return str(sound.format)
    except soundfile.LibsndfileError:
        return None


def _guess_ending(data: bytes) -> str:
    """Tell the ending by the first bytes, for what lies in a container without a name."""
    if data[4:8] == b"ftyp":
        return "m4a"
    if data[:1] == b"\xff" and data[1:2] >= b"\xe0":
        return "mp3"
    return next((ending for magic, ending in MAGIC.items() if data.startswith(magic)), "")
