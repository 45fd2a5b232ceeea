"""Read any audio, whole or in part, as one mono float32 waveform; whatever is wrong with it is one typed error.

libsndfile comes first (WAV, FLAC, Ogg, Opus, MP3, NIST SPHERE, AIFF ...), FFmpeg (``ffmpeg.py``) opens the rest (MKV,
MP4, WebM ...). Audio is known by its content, never by its name; it may be a file or, by the names of ``places.py``, a
part of one. Values are passed as decoded: a float file or a lossy codec may exceed 1. An Ogg stream states no length,
and that of an MP3 file is an estimate: cut ones are read as far as they go. Knows nothing of manifests or models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from soundfile import LibsndfileError, SoundFile

from mae_ast_plugin.audio.archives import Handle
from mae_ast_plugin.audio.features import is_features, probe_features
from mae_ast_plugin.audio.ffmpeg import container_rate, crop_container, probe_container
from mae_ast_plugin.audio.outcomes import (
    AudioError,
    AudioInfo,
    Path,
    Waveform,
    beyond_reason,
    damage_reason,
    truncated_reason,
)
from mae_ast_plugin.audio.places import check_reading, opened_place, peek
from mae_ast_plugin.audio.resample import resample

__all__ = ["AudioError", "AudioInfo", "Path", "Waveform", "probe", "read", "read_compact", "sample_rate_of"]

Samples16 = NDArray[np.int16]

# Headers written to a pipe state no length, or about 2 or 4 GiB.
UNKNOWN_BYTES = 0x7FFF0000
UNKNOWN_SAMPLES = 2**48
COUNT_BLOCK = 2**20
FULL_SCALE_16 = 32768  # what is 1 in samples of 16 bits


class _Sound(NamedTuple):
    """What libsndfile has opened, and the bytes it reads."""

    path: Path
    file: SoundFile
    handle: Handle


def probe(path: Path) -> AudioInfo:
    """Tell the length that `read` will deliver; what does not store it exactly (MP3, MKV, MP4 ...) is decoded to count.

    Of features (``.npy``) it tells the frames. Raises AudioError when the file is missing, is no audio, has no samples
    or is shorter than its header states.
    """
    if is_features(path):
        return probe_features(path)
    with _sound_file(path) as sound:
        if sound is not None:
            return AudioInfo(_count_sound(sound), sound.file.samplerate, sound.file.channels)
    return probe_container(path)


def sample_rate_of(path: Path) -> int:
    """Read a file's sample rate (Hz) from its header, without decoding; AudioError as `probe`."""
    with _sound_file(path) as sound:
        if sound is not None:
            return int(sound.file.samplerate)
    return container_rate(path)


def read(
    path: Path, *, sample_rate: int | None = None, start: int = 0, num_samples: int | None = None
) -> tuple[Waveform, int]:
    """Read a file or a crop of it, average its channels, then resample it to ``sample_rate`` (Hz) where that is given.

    ``start`` and ``num_samples`` count samples at the file's own rate; like a slice, a crop may end beyond the file.
    Returns the waveform (S,) and its rate. Raises AudioError for whatever is wrong with the file or the crop.
    """
    waveform, found = read_compact(path, sample_rate=sample_rate, start=start, num_samples=num_samples)
    return _as_float(waveform), found


def read_compact(
    path: Path, *, sample_rate: int | None = None, start: int = 0, num_samples: int | None = None
) -> tuple[Waveform | Samples16, int]:
    """As `read`, but what is no more than 16 bits a sample stays so: int16 (S,), of which 32768 is 1.

    That is a file of one channel and 16 bits that needs no resampling. Half the bytes are half the cost of handing them
    on, and to make floats of them loses nothing.
    """
    if start < 0 or (num_samples is not None and num_samples < 1):
        raise AudioError(path, f"cannot read {num_samples} samples from sample {start}: start at 0, read 1 or more")
    waveform, source_rate = _read_crop(path, start, num_samples)
    if waveform.dtype != np.int16 and not np.isfinite(waveform).all():
        bad = start + int(np.flatnonzero(~np.isfinite(waveform))[0])
        raise AudioError(path, f"sample {bad} is not a finite number (NaN or infinity): write it again or leave it out")
    if sample_rate is None or sample_rate == source_rate:
        return waveform, source_rate
    return resample(_as_float(waveform), source_rate, sample_rate), sample_rate


def _as_float(waveform: Waveform | Samples16) -> Waveform:
    floats: Waveform = waveform.astype(np.float32, copy=False)
    return floats / np.float32(FULL_SCALE_16) if waveform.dtype == np.int16 else floats


def _read_crop(path: Path, start: int, num_samples: int | None) -> tuple[Waveform | Samples16, int]:
    with _sound_file(path) as sound:
        if sound is not None:
            return _crop_sound(sound, start, num_samples), sound.file.samplerate
    return crop_container(path, start, num_samples)


@contextmanager
def _sound_file(path: Path) -> Iterator[_Sound | None]:
    """Open with libsndfile; give None where it does not know the format or cannot tell where the audio ends."""
    with opened_place(path) as handle:
        try:
            # By descriptor where there is one: any file name works, and no format is guessed from the name.
            file = SoundFile(handle.fileno() if isinstance(handle, FileIO) else handle, closefd=False)
        except LibsndfileError:
            check_reading(path, handle)
            file = None
        if file is None:
            yield None
            return
        try:
            with file:
                yield _Sound(path, file, handle) if _has_exact_end(handle, file) else None
        finally:
            check_reading(path, handle)


def _has_exact_end(handle: Handle, sound: SoundFile) -> bool:
    if sound.format == "MP3":
        # Without the tag libsndfile guesses the length from the first bit rate, cuts off the rest and seeks wrongly.
        return _has_length_tag(handle)
    return 0 < sound.frames < UNKNOWN_SAMPLES


def _has_length_tag(handle: Handle) -> bool:
    """Tell whether the first frame of an MP3 file is the Xing or Info tag that states the exact length."""
    head, begin = peek(handle, 10), 0
    if head[:3] == b"ID3":
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    frame = peek(handle, 256, begin)
    return b"Xing" in frame or b"Info" in frame


def _count_sound(sound: _Sound) -> int:
    file = sound.file
    num_samples: int = file.frames
    _check_header(sound)
    try:
        if file.format == "FLAC":
            # The only cheap way to notice a truncated file: its last sample cannot be reached.
            file.seek(num_samples - 1)
            file.read(1, dtype="float32")
        elif file.format == "MP3":
            num_samples = 0
            while block_length := len(file.read(COUNT_BLOCK, dtype="float32")):
                num_samples += block_length
    except LibsndfileError as error:
        raise AudioError(sound.path, damage_reason(error)) from error
    return num_samples


def _crop_sound(sound: _Sound, start: int, num_samples: int | None) -> Waveform | Samples16:
    path, file = sound.path, sound.file
    promised: int = file.frames
    if start >= promised:
        raise AudioError(path, beyond_reason(start, promised))
    wanted = promised - start if num_samples is None else min(num_samples, promised - start)
    if start + wanted == promised:
        _check_header(sound)
    try:
        if start:
            file.seek(start)
        small = file.subtype == "PCM_16" and file.channels == 1
        samples = file.read(wanted, dtype="int16" if small else "float32", always_2d=True)
    except LibsndfileError as error:
        raise AudioError(path, damage_reason(error)) from error
    if file.format == "MP3":
        if len(samples) == 0:
            raise AudioError(path, f"nothing can be decoded from sample {start} on: it ends before that or is damaged")
    elif len(samples) < wanted:
        found = f"only {start + len(samples)} of {promised} samples can be decoded"
        raise AudioError(path, f"is truncated or damaged, {found}: copy it again or leave it out")
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _check_header(sound: _Sound) -> None:
    """Raise AudioError where the header states more samples than the file holds, which libsndfile silently corrects."""
    promised = _header_samples(sound)
    if promised > sound.file.frames:
        raise AudioError(sound.path, truncated_reason(f"{sound.file.frames} samples", str(promised)))


def _header_samples(sound: _Sound) -> int:
    """Give the number of samples that the header states; 0 where it states none."""
    if sound.file.format == "NIST":
        count = re.search(rb"sample_count -i (\d+)", peek(sound.handle, 1024))
        return int(count[1]) if count else 0
    # libsndfile's log of the header has "data : 96000 (should be 57582)": the bytes stated and the bytes there.
    correction = re.search(r"(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", sound.file.extra_info)
    if correction is None:
        return 0
    stated, present = int(correction[1]), int(correction[2])
    return sound.file.frames * stated // present if present > 0 and stated < UNKNOWN_BYTES else 0
