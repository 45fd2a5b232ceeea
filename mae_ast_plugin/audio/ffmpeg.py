"""Decode what libsndfile does not know (MKV, MP4, WebM ...) with FFmpeg through PyAV, whole or in part.

A crop far inside a file is reached by a seek where the place of every frame can be told exactly, and otherwise decoded
from the beginning. Knows neither other decoders nor resampling.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import FileIO
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np

from mae_ast_plugin.audio.outcomes import (
    EMPTY_REASON,
    AudioError,
    AudioInfo,
    Path,
    Waveform,
    beyond_reason,
    damage_reason,
    text_reason,
    truncated_reason,
    unknown_reason,
)
from mae_ast_plugin.audio.places import check_reading, opened_place, peek

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


class _UnseekableError(Exception):
    """The place of a frame cannot be told exactly after a seek: decode from the beginning instead."""


@contextmanager
def _container(path: Path) -> Iterator[tuple[InputContainer, av.AudioStream]]:
    """Open the first audio stream with FFmpeg; all its errors leave as AudioError."""
    opened = False
    with opened_place(path) as handle:
        # "file:" keeps FFmpeg from taking a name such as "a:b.mkv" for a network address.
        source: Any = "file:" + os.fspath(path) if isinstance(handle, FileIO) else handle
        try:
            with av.open(source, metadata_errors="replace") as container:
                opened = True
                if not container.streams.audio:
                    raise AudioError(path, text_reason(peek(handle)) or "holds no audio stream: leave it out")
                yield container, container.streams.audio[0]
        except av.error.FFmpegError as error:
            check_reading(path, handle)
            reason = damage_reason(error) if opened else unknown_reason(peek(handle), error)
            raise AudioError(path, reason) from error
        check_reading(path, handle)


def probe_container(path: Path) -> AudioInfo:
    """Decode a file to count its samples; AudioError where it has none or fewer than its header states."""
    with _container(path) as (container, stream):
        num_samples = 0
        frame = None
        for frame in _decode(path, container, stream):
            num_samples += frame.samples
        if frame is None or num_samples == 0:
            raise AudioError(path, EMPTY_REASON)
        _check_end(path, container, stream, frame)
        return AudioInfo(num_samples, frame.sample_rate, frame.layout.nb_channels)


def container_rate(path: Path) -> int:
    """Read the sample rate (Hz) of the first audio stream from the header."""
    with _container(path) as (_, stream):
        return int(stream.codec_context.sample_rate)


def crop_container(path: Path, start: int, num_samples: int | None) -> tuple[Waveform, int]:
    """Decode a crop, given in samples at the file's own rate, to a mono waveform (S,) and that rate."""
    try:
        return _crop(path, start, num_samples, seek=True)
    except _UnseekableError:
        return _crop(path, start, num_samples, seek=False)


def _crop(path: Path, start: int, num_samples: int | None, *, seek: bool) -> tuple[Waveform, int]:
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
            raise AudioError(path, EMPTY_REASON)
        if stop is None or end < stop:
            _check_end(path, container, stream, frame)
        if not pieces:
            raise AudioError(path, beyond_reason(start, end))
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
        raise AudioError(path, truncated_reason(f"{float(end):.2f} s", f"{float(promised):.2f} s"))


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
