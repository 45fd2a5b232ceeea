"""Real recordings in the containers that users have: a crop equals the slice of FFmpeg's decode of the whole file.

How closely, by codec. PCM and FLAC store the samples: exactly. AAC, and MP3 without a length tag, are decoded by FFmpeg
here too, from the beginning in clips as short as these: exactly. MP3 with a tag goes to libsndfile, whose decoder
rounds in another order: 1e-5 of full scale. Opus has no rate of its own: libsndfile decodes to the rate of the original
(8 kHz), FFmpeg to 48 kHz, and libopus's way down to 8 kHz rounds off the highest frequencies and comes within one
sample of 8 kHz: 2 % of the signal's effective value after bringing ours back up.
"""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.audio.resample import resample

FILES = sorted((Path(__file__).resolve().parents[3] / "shared" / "data" / "formats").glob("*.*"))
OPUS_FILES = [path for path in FILES if path.suffix == ".opus"]
TOLERANCES = {"flac": 0.0, "pcm_s16le": 0.0, "aac": 0.0, "mp3float": 1e-5}
OPUS_SHARE, OPUS_RATE = 0.02, 48000
CROPS = ((0.0, 0.1), (0.13, 0.2), (0.371, 0.3), (0.5, None), (0.99, None))  # begin, length as shares of the file

pytestmark = pytest.mark.skipif(not FILES, reason="../shared/data/formats is not there")


def decoded(path: Path) -> tuple[np.ndarray, int, str]:
    """FFmpeg's decode of the whole first audio stream (S,), its rate, and the name of its codec."""
    pieces = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        for frame in container.decode(stream):
            samples = frame.to_ndarray()
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            if samples.dtype == np.int16:
                samples = samples.astype(np.float32) / 2**15
            pieces.append(samples.mean(axis=0, dtype=np.float32))
        return np.concatenate(pieces), stream.codec_context.sample_rate, stream.codec_context.name


def places(path: Path, folder: Path) -> list[str]:
    """The file itself, and the same as a member of a tar, of a zip that stores and of one that compresses."""
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.add(path, path.name)
    with tarfile.open(folder / "x.tar") as archive:
        [info] = archive.getmembers()
    for name, kind in (("stored.zip", zipfile.ZIP_STORED), ("packed.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / name, "w", kind) as archive:
            archive.write(path, path.name)
    zipped = [f"{folder}/{name}:{path.name}" for name in ("stored.zip", "packed.zip")]
    return [str(path), f"{folder}/x.tar:{info.offset_data}:{info.size}", *zipped]


def crops_of(num_samples: int) -> list[tuple[int, int | None]]:
    return [(int(begin * num_samples), None if share is None else int(share * num_samples)) for begin, share in CROPS]


@pytest.mark.parametrize("path", [path for path in FILES if path not in OPUS_FILES], ids=lambda path: path.name)
def test_a_crop_is_the_slice_of_a_full_decode_by_ffmpeg(path: Path, tmp_path: Path) -> None:
    whole, rate, codec = decoded(path)
    for place in places(path, tmp_path):
        for start, length in crops_of(len(whole)):
            crop, found = read(place, start=start, num_samples=length)
            assert found == rate
            expected = whole[start : None if length is None else start + length]
            np.testing.assert_allclose(crop, expected, rtol=0, atol=TOLERANCES[codec], err_msg=f"{place} {start}")


@pytest.mark.parametrize("path", OPUS_FILES, ids=lambda path: path.name)
def test_a_crop_of_opus_is_the_slice_of_a_full_decode_at_another_rate(path: Path, tmp_path: Path) -> None:
    whole, rate, codec = decoded(path)
    assert (codec, rate) == ("opus", OPUS_RATE)
    whole_here, here = read(path)
    assert abs(len(whole_here) - len(whole) * here / rate) < 1
    up = resample(whole_here, here, rate)
    margin, count = rate // here, min(len(up), len(whole)) - 2 * rate // here
    errors = [
        np.sqrt(np.mean((up[margin + lag : count + lag] - whole[margin:count]) ** 2))
        for lag in range(-margin, margin + 1)
    ]
    assert min(errors) < OPUS_SHARE * np.sqrt(np.mean(whole**2))
    for place in places(path, tmp_path):
        for start, length in crops_of(len(whole_here)):
            crop, _ = read(place, start=start, num_samples=length)
            expected = whole_here[start : None if length is None else start + length]
            np.testing.assert_allclose(crop, expected, rtol=0, atol=1e-5)
