"""Read any audio file, whole or in part, as one mono float32 waveform; whatever is wrong with it is one typed error.

libsndfile comes first (WAV, FLAC, Ogg, Opus, MP3, NIST SPHERE, AIFF ...), FFmpeg through PyAV opens the rest (MKV, MP4,
WebM ...). A file is known by its content, never by its name. Values are passed as decoded: a float file or a lossy
codec may exceed 1. An Ogg stream states no length, and that of an MP3 file is an estimate: cut ones are read as far as
they go. Knows nothing of manifests, features or models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
import soundfile
from numpy.typing import NDArray

from mae_ast_plugin.audio.resample import resample
from mae_ast_plugin.errors import PlainError

if TYPE_CHECKING:
    from av.container import InputContainer

# Crops that begin later than this are reached by a seek inside a container; decoding less than that is cheap and exact.
SEEK_AFTER_SECONDS = 10
# Decoders carry state from packet to packet (overlap, bit reservoir, prediction): decode this much before the crop.
# Only the noise that AAC puts in place of noise-like bands still differs after a seek, it is random by design.
PREROLL_SECONDS = 1
# Priming and padding may make a complete stream end this much before the time its container states.
END_TOLERANCE_SECONDS = Fraction(1, 5)
# Time stamps are whole milliseconds in Matroska: a frame may seem to be off its true place by this much.
STAMP_TOLERANCE_SECONDS = Fraction(3, 2000)
# Containers whose time stamps and durations are stored, not guessed from the bit rate.
TIMED_CONTAINERS = ("matroska", "mov")
# Codecs whose frames all have the same number of samples, so that a rounded time stamp still tells the exact sample.
EVEN_CODECS = ("aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus", "pcm_")
# Headers written to a pipe state no length, or about 2 or 4 GiB.
UNKNOWN_BYTES = 0x7FFF0000
UNKNOWN_SAMPLES = 2**48
COUNT_BLOCK = 2**20

Path = str | os.PathLike[str]
Waveform = NDArray[np.float32]


class AudioError(PlainError):
    """A file that cannot be read as audio: ``path`` is the file, ``reason`` what is wrong with it and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        # Both as arguments of the exception itself: this is what a pickle keeps when it crosses a process.
        super().__init__(os.fspath(path), reason)
        self.path: str = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        shown = self.path.encode("utf-8", "backslashreplace").decode("utf-8")
        return f"{shown}: {self.reason}"


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Length of a file in samples per channel at its own rate, that rate in Hz, and its number of channels."""

    num_samples: int
    sample_rate: int
    num_channels: int


def probe(path: Path) -> AudioInfo:
    """Tell the length that `read` will deliver; what does not store it exactly (MP3, MKV, MP4 ...) is decoded to count.

    Raises AudioError when the file is missing, is no audio, has no samples or is shorter than its header states.
    """
    with _sound_file(path) as sound:
        if sound is not None:
            return AudioInfo(_count_sound(path, sound), sound.samplerate, sound.channels)
    return _probe_container(path)


def read(
    path: Path, *, sample_rate: int | None = None, start: int = 0, num_samples: int | None = None
) -> tuple[Waveform, int]:
    """Read a file or a crop of it, average its channels, then resample it to ``sample_rate`` (Hz) where that is given.

    ``start`` and ``num_samples`` count samples at the file's own rate; like a slice, a crop may end beyond the file.
    Returns the waveform (S,) and its rate. Raises AudioError for whatever is wrong with the file or the crop.
    """
    if start < 0 or (num_samples is not None and num_samples < 1):
        raise AudioError(path, f"cannot read {num_samples} samples from sample {start}: start at 0, read 1 or more")
    waveform, source_rate = _read_crop(path, start, num_samples)
    if not np.isfinite(waveform).all():
        bad = start + int(np.flatnonzero(~np.isfinite(waveform))[0])
        raise AudioError(path, f"sample {bad} is not a finite number (NaN or infinity): write it again or leave it out")
    if sample_rate is None or sample_rate == source_rate:
        return waveform, source_rate
    return resample(waveform, source_rate, sample_rate), sample_rate


def _read_crop(path: Path, start: int, num_samples: int | None) -> tuple[Waveform, int]:
    with _sound_file(path) as sound:
        if sound is not None:
            return _crop_sound(path, sound, start, num_samples), sound.samplerate
    try:
        return _crop_container(path, start, num_samples, seek=True)
    except _UnseekableError:
        return _crop_container(path, start, num_samples, seek=False)


# ---------------------------------------------------------------------------------------------------- libsndfile


@contextmanager
def _sound_file(path: Path) -> Iterator[soundfile.SoundFile | None]:
    """Open with libsndfile; give None where it does not know the format or cannot tell where the audio ends."""
    try:
        handle = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by the with below; only opening is guarded here)
    except OSError as error:
        raise AudioError(path, _system_reason(error)) from error
    with handle:
        try:
            # By descriptor: any file name works, and no format is guessed from the name.
            sound = soundfile.SoundFile(handle.fileno(), closefd=False)
        except soundfile.LibsndfileError:
            sound = None
        if sound is None:
            yield None
            return
        with sound:
            yield sound if _has_exact_end(path, sound) else None


def _has_exact_end(path: Path, sound: soundfile.SoundFile) -> bool:
    if sound.format == "MP3":
        # Without the tag libsndfile guesses the length from the first bit rate, cuts off the rest and seeks wrongly.
        return _has_length_tag(path)
    return 0 < sound.frames < UNKNOWN_SAMPLES


def _has_length_tag(path: Path) -> bool:
    """Tell whether the first frame of an MP3 file is the Xing or Info tag that states the exact length."""
    with open(path, "rb") as handle:
        head = handle.read(10)
        if head[:3] == b"ID3":
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            handle.seek(10 + size)
        else:
            handle.seek(0)
        frame = handle.read(256)
    return b"Xing" in frame or b"Info" in frame


def _count_sound(path: Path, sound: soundfile.SoundFile) -> int:
    num_samples: int = sound.frames
    _check_header(path, sound)
    try:
        if sound.format == "FLAC":
            # The only cheap way to notice a truncated file: its last sample cannot be reached.
            sound.seek(num_samples - 1)
            sound.read(1, dtype="float32")
        elif sound.format == "MP3":
            num_samples = 0
            while block_length := len(sound.read(COUNT_BLOCK, dtype="float32")):
                num_samples += block_length
    except soundfile.LibsndfileError as error:
        raise AudioError(path, _damage_reason(error)) from error
    return num_samples


def _crop_sound(path: Path, sound: soundfile.SoundFile, start: int, num_samples: int | None) -> Waveform:
    promised: int = sound.frames
    if start >= promised:
        raise AudioError(path, _beyond_reason(start, promised))
    wanted = promised - start if num_samples is None else min(num_samples, promised - start)
    if start + wanted == promised:
        _check_header(path, sound)
    try:
        if start:
            sound.seek(start)
        samples = sound.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(path, _damage_reason(error)) from error
    if sound.format == "MP3":
        if len(samples) == 0:
            raise AudioError(path, f"nothing can be decoded from sample {start} on: it ends before that or is damaged")
    elif len(samples) < wanted:
        found = f"only {start + len(samples)} of {promised} samples can be decoded"
        raise AudioError(path, f"is truncated or damaged, {found}: copy it again or leave it out")
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _check_header(path: Path, sound: soundfile.SoundFile) -> None:
    """Raise AudioError where the header states more samples than the file holds, which libsndfile silently corrects."""
    promised = _header_samples(path, sound)
    if promised > sound.frames:
        raise AudioError(path, _truncated_reason(f"{sound.frames} samples", str(promised)))


def _header_samples(path: Path, sound: soundfile.SoundFile) -> int:
    """Give the number of samples that the header states; 0 where it states none."""
    if sound.format == "NIST":
        with open(path, "rb") as handle:
            count = re.search(rb"sample_count -i (\d+)", handle.read(1024))
        return int(count[1]) if count else 0
    # libsndfile's log of the header has "data : 96000 (should be 57582)": the bytes stated and the bytes there.
    correction = re.search(r"(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", sound.extra_info)
    if correction is None:
        return 0
    stated, present = int(correction[1]), int(correction[2])
    return sound.frames * stated // present if present > 0 and stated < UNKNOWN_BYTES else 0


# ---------------------------------------------------------------------------------------------------- FFmpeg


class _UnseekableError(Exception):
    """The place of a frame cannot be told exactly after a seek: decode from the beginning instead."""


@contextmanager
def _container(path: Path) -> Iterator[tuple[InputContainer, av.AudioStream]]:
    """Open the first audio stream with FFmpeg; all its errors leave as AudioError."""
    opened = False
    try:
        # "file:" keeps FFmpeg from taking a name such as "a:b.mkv" for a network address.
        with av.open("file:" + os.fspath(path), metadata_errors="replace") as container:
            opened = True
            if not container.streams.audio:
                raise AudioError(path, _text_reason(path) or "holds no audio stream: leave it out")
            yield container, container.streams.audio[0]
    except av.error.FFmpegError as error:
        reason = _damage_reason(error) if opened else _unknown_reason(path, error)
        raise AudioError(path, reason) from error


def _probe_container(path: Path) -> AudioInfo:
    with _container(path) as (container, stream):
        num_samples = 0
        frame = None
        for frame in _decode(path, container, stream):
            num_samples += frame.samples
        if frame is None or num_samples == 0:
            raise AudioError(path, _EMPTY_REASON)
        _check_end(path, container, stream, frame)
        return AudioInfo(num_samples, frame.sample_rate, frame.layout.nb_channels)


def _crop_container(path: Path, start: int, num_samples: int | None, *, seek: bool) -> tuple[Waveform, int]:
    """Decode from shortly before the crop (``seek``) or from the beginning; _UnseekableError if a seek is inexact."""
    stop = None if num_samples is None else start + num_samples
    pieces: list[Waveform] = []
    end, frame = 0, None
    with _container(path) as (container, stream):
        for position, frame in _place_frames(path, container, stream, start if seek else 0):
            end = position + frame.samples
            if end > start:
                first, last = max(start - position, 0), None if stop is None else stop - position
                pieces.append(_mono(path, frame)[first:last])
            if stop is not None and end >= stop:
                break
        if frame is None or end == 0:
            raise AudioError(path, _EMPTY_REASON)
        if stop is None or end < stop:
            _check_end(path, container, stream, frame)
        if not pieces:
            raise AudioError(path, _beyond_reason(start, end))
        return np.concatenate(pieces), frame.sample_rate


def _place_frames(
    path: Path, container: InputContainer, stream: av.AudioStream, start: int
) -> Iterator[tuple[int, av.AudioFrame]]:
    """Give decoded frames with the position of their first sample; seek when ``start`` is far from the beginning."""
    decoded = _decode(path, container, stream)
    lead = list(islice(decoded, 2))
    if len(lead) == 2 and start > SEEK_AFTER_SECONDS * lead[0].sample_rate:
        yield from _frames_after_seek(path, container, stream, _Clock(container, stream, lead[0], lead[1]), start)
        return
    position = 0
    for frame in chain(lead, decoded):
        yield position, frame
        position += frame.samples


def _frames_after_seek(
    path: Path, container: InputContainer, stream: av.AudioStream, clock: _Clock, start: int
) -> Iterator[tuple[int, av.AudioFrame]]:
    try:
        container.seek(clock.stamp(start - PREROLL_SECONDS * clock.rate), stream=stream)
    except av.error.FFmpegError as error:
        raise _UnseekableError from error
    position = None
    for frame in _decode(path, container, stream):
        if position is None and clock.position(frame) > start - PREROLL_SECONDS * clock.rate // 2:
            raise _UnseekableError
        if position not in (None, clock.position(frame)):
            raise _UnseekableError
        position = clock.position(frame)
        yield position, frame
        position += frame.samples
    if position is None:
        raise _UnseekableError


class _Clock:
    """Turn the time stamps of one stream into exact sample positions, or refuse with _UnseekableError.

    Stamps at least as fine as the samples tell the position themselves. Coarser ones (Matroska has milliseconds) do so
    only for codecs with frames of one size: the stamp then tells how many frames lie before. The first frame may be
    shorter, its priming is cut, so positions are counted from the second.
    """

    def __init__(
        self, container: InputContainer, stream: av.AudioStream, first: av.AudioFrame, second: av.AudioFrame
    ) -> None:
        if not container.format.name.startswith(TIMED_CONTAINERS) or stream.time_base is None:
            raise _UnseekableError
        self.rate = first.sample_rate
        self._time_base = stream.time_base
        self._origin = first.samples
        self._origin_stamp = self._stamp_of(second)
        self._step = 1
        if self._time_base > Fraction(1, self.rate):
            if not stream.codec_context.name.startswith(EVEN_CODECS):
                raise _UnseekableError
            self._step = second.samples

    def stamp(self, position: int) -> int:
        """Give the time stamp of a sample, rounded down."""
        return self._origin_stamp + int(Fraction(position - self._origin, self.rate) / self._time_base)

    def position(self, frame: av.AudioFrame) -> int:
        """Give the position of the first sample of a frame."""
        offset = (self._stamp_of(frame) - self._origin_stamp) * self._time_base * self.rate
        num_steps = round(offset / self._step)
        if abs(offset - num_steps * self._step) > STAMP_TOLERANCE_SECONDS * self.rate:
            raise _UnseekableError
        return self._origin + num_steps * self._step

    def _stamp_of(self, frame: av.AudioFrame) -> int:
        if frame.pts is None or frame.time_base != self._time_base:
            raise _UnseekableError
        return frame.pts


def _decode(path: Path, container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    rate = None
    for frame in container.decode(stream):
        if rate not in (None, frame.sample_rate):
            raise AudioError(path, f"its sample rate changes from {rate} to {frame.sample_rate} Hz: encode it again")
        rate = frame.sample_rate
        yield frame


def _mono(path: Path, frame: av.AudioFrame) -> Waveform:
    """Average the channels of a frame of any sample format: planar (C, S) or packed (1, S * C) becomes (S,)."""
    try:
        samples = frame.to_ndarray()
    except ValueError as error:
        raise AudioError(path, f"its sample format {frame.format.name} cannot be read: encode it again") from error
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / float(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.mean(axis=0, dtype=np.float32)


def _check_end(path: Path, container: InputContainer, stream: av.AudioStream, last: av.AudioFrame) -> None:
    """Raise AudioError where the stream ends clearly before the time that the container states."""
    promised = _stated_end(container, stream)
    if promised is None or last.pts is None or last.time_base is None:
        return
    end = last.pts * last.time_base + Fraction(last.samples, last.sample_rate)
    if end < promised - END_TOLERANCE_SECONDS:
        raise AudioError(path, _truncated_reason(f"{float(end):.2f} s", f"{float(promised):.2f} s"))


def _stated_end(container: InputContainer, stream: av.AudioStream) -> Fraction | None:
    """Give the time in seconds at which the container says the audio ends; None where it says nothing sure."""
    if not container.format.name.startswith(TIMED_CONTAINERS):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return (stream.start_time or 0) * stream.time_base + stream.duration * stream.time_base
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
    if len(container.streams) == 1 and container.duration is not None:
        return Fraction(container.duration, av.time_base)
    return None


# ---------------------------------------------------------------------------------------------------- reasons

_EMPTY_REASON = "holds no samples: leave it out"


def _system_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist: correct the path or the root folder it is joined to"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected an audio file"
    return f"cannot be opened: {error.strerror or error}"


def _unknown_reason(path: Path, error: Exception) -> str:
    if os.path.getsize(path) == 0:
        return "is empty (0 bytes): copy it again or leave it out"
    return _text_reason(path) or f"is no audio that libsndfile or FFmpeg can open ({_first_words(error)})"


def _text_reason(path: Path) -> str | None:
    with open(path, "rb") as handle:
        head = handle.read(512)
    try:
        text = head[:-3].decode("utf-8") if len(head) == 512 else head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    printable = all(letter.isprintable() or letter in "\t\r\n" for letter in text)
    return "holds text, not audio (an error page of a download?): fetch it again or leave it out" if printable else None


def _damage_reason(error: Exception) -> str:
    return f"is truncated or damaged ({_first_words(error)}): copy it again or leave it out"


def _first_words(error: Exception) -> str:
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(words).strip().rstrip(".")


def _truncated_reason(found: str, promised: str) -> str:
    return f"is truncated, {found} are there and its header states {promised}: copy it again or leave it out"


def _beyond_reason(start: int, num_samples: int) -> str:
    return f"the crop starts at sample {start}, beyond the end of its {num_samples} samples: correct the manifest"
