"""Reading: every format, every crop, every way in which a file can be wrong. All audio is made here."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import socket
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from mae_ast_plugin.audio import ffmpeg
from mae_ast_plugin.audio.features import read_features
from mae_ast_plugin.audio.reader import AudioError, AudioInfo, probe, read, read_compact

REAL_FILES = sorted((Path(__file__).resolve().parents[3] / "shared" / "data" / "formats").glob("*.*"))
RATE = 16000

# name: format and subtype of soundfile, whether the samples survive exactly
SOUND_FORMATS = {
    "clip.wav": ("WAV", "PCM_16", True),
    "clip24.wav": ("WAV", "PCM_24", True),
    "clip8.wav": ("WAV", "PCM_U8", True),
    "float.wav": ("WAV", "FLOAT", True),
    "clip.flac": ("FLAC", "PCM_16", True),
    "clip.sph": ("NIST", "PCM_16", True),
    "clip.aiff": ("AIFF", "PCM_16", True),
    "clip.ogg": ("OGG", "VORBIS", False),
    "clip.opus": ("OGG", "OPUS", False),
    "clip.mp3": ("MP3", "MPEG_LAYER_III", False),
}
# name: codec and sample format of FFmpeg, whether the samples survive exactly
CONTAINERS = {
    "aac.mkv": ("aac", "fltp", False),
    "opus.mkv": ("libopus", "s16", False),
    "mp3.mkv": ("libmp3lame", "fltp", False),
    "flac.mkv": ("flac", "s16", True),
    "flac24.mkv": ("flac", "s32", True),
    "pcm.mkv": ("pcm_s16le", "s16", True),
    "pcm8.mkv": ("pcm_u8", "u8", True),
    "double.mkv": ("pcm_f64le", "dbl", True),
    "aac.mp4": ("aac", "fltp", False),
    "alac.m4a": ("alac", "s16p", True),
    "opus.webm": ("libopus", "s16", False),
    "aac.aac": ("aac", "fltp", False),
}


def signal(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A chirp with a little noise, (S, C), on the grid of 8 bits so that every integer format holds it exactly."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal((len(time), channels))
    chirp = 0.4 * np.sin(2 * np.pi * (200 * time + 40 * time**2))[:, None] / np.arange(1, channels + 1)
    return (np.round((chirp + 0.02 * noise) * 128) / 128).astype(np.float32)


def write_container(path: Path, audio: np.ndarray, codec: str, sample_format: str, rate: int = RATE) -> None:
    """Encode (S, C) with FFmpeg in frames of 1000 samples."""
    layout = "mono" if audio.shape[1] == 1 else "stereo"
    scales = {"u8": 128, "s16": 2**15, "s32": 2**31}
    name = sample_format.removesuffix("p")
    types = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
    samples = audio.astype(np.float64) * scales.get(name, 1) + (128 if name == "u8" else 0)
    samples = samples.astype(types[name])
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, format=sample_format)
        assert isinstance(stream, av.AudioStream)
        for begin in range(0, len(samples), 1000):
            block = samples[begin : begin + 1000]
            planes = block.T if sample_format.endswith("p") else block.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format=sample_format, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip of 1.2 s in every format that libsndfile reads, one of 13 s in every container, all stereo."""
    folder = tmp_path_factory.mktemp("formats")
    short, long = signal(1.2, channels=2), signal(13, channels=2)
    for name, (file_format, subtype, _) in SOUND_FORMATS.items():
        soundfile.write(folder / name, short, RATE, format=file_format, subtype=subtype)
    for name, (codec, sample_format, _) in CONTAINERS.items():
        rate = 48000 if "opus" in name else RATE
        write_container(folder / name, long if rate == RATE else signal(13, rate, 2), codec, sample_format, rate)
    return folder


# ---------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", [*SOUND_FORMATS, *CONTAINERS])
def test_probe_tells_the_length_and_rate_that_read_delivers(folder: Path, name: str) -> None:
    info = probe(folder / name)
    waveform, rate = read(folder / name)
    assert waveform.ndim == 1
    assert waveform.dtype == np.float32
    assert info == AudioInfo(len(waveform), rate, 2)


@pytest.mark.parametrize("name", [*SOUND_FORMATS, *CONTAINERS])
def test_channels_are_averaged_and_values_lie_in_the_unit_range(folder: Path, name: str) -> None:
    waveform, rate = read(folder / name)
    exact = {**SOUND_FORMATS, **CONTAINERS}[name][2]
    expected = signal(1.2 if name in SOUND_FORMATS else 13, rate, 2).mean(axis=1)
    if exact:
        np.testing.assert_allclose(waveform, expected, atol=1e-7)
    else:
        assert abs(len(waveform) - len(expected)) <= 2048
        assert min(np.abs(waveform[lag : lag + 8000] - expected[:8000]).mean() for lag in (0, 1024)) < 0.03


@pytest.mark.parametrize("name", SOUND_FORMATS)
@pytest.mark.parametrize(("start", "num_samples"), [(0, 1), (0, 5000), (777, 5003), (12345, None), (19199, 1)])
def test_a_crop_equals_the_slice_of_the_whole(folder: Path, name: str, start: int, num_samples: int | None) -> None:
    whole, _ = read(folder / name)
    crop, _ = read(folder / name, start=start, num_samples=num_samples)
    expected = whole[start : None if num_samples is None else start + num_samples]
    np.testing.assert_allclose(crop, expected, atol=0 if SOUND_FORMATS[name][2] else 1e-5)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize(("start", "num_samples"), [(0.1, 0.2), (2.5, 0.01), (11.3, 0.5), (12.9, None)])
def test_a_crop_of_a_container_is_exact_to_the_sample(
    folder: Path, name: str, start: float, num_samples: float | None
) -> None:
    whole, rate = read(folder / name)
    first = int(start * rate) + 3
    length = None if num_samples is None else int(num_samples * rate) + 1
    crop, _ = read(folder / name, start=first, num_samples=length)
    expected = whole[first : None if length is None else first + length]
    np.testing.assert_allclose(crop, expected, atol=0 if CONTAINERS[name][2] else 1e-5)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if not name.endswith(".aac")])
def test_a_late_crop_is_reached_by_a_seek(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = []
    original = ffmpeg._frames_after_seek

    def spy(*arguments):  # type: ignore[no-untyped-def]
        for position, frame in original(*arguments):
            positions.append(position)
            yield position, frame

    monkeypatch.setattr(ffmpeg, "_frames_after_seek", spy)
    rate = probe(folder / name).sample_rate
    read(folder / name, start=12 * rate, num_samples=100)
    assert positions[0] > 4 * rate


def test_a_container_whose_seek_is_inexact_is_decoded_from_the_beginning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = read(folder / "aac.mkv", start=12 * RATE, num_samples=999)
    monkeypatch.setattr(ffmpeg, "EVEN_CODECS", ())
    monkeypatch.setattr(ffmpeg._Clock, "stamp", lambda *_: pytest.fail("no seek was due"))
    crop, _ = read(folder / "aac.mkv", start=12 * RATE, num_samples=999)
    np.testing.assert_allclose(crop, expected, atol=1e-5)


def test_ffmpeg_and_libsndfile_agree_on_the_same_samples(folder: Path) -> None:
    in_mkv, _ = read(folder / "flac.mkv")
    soundfile.write(folder / "same.flac", signal(13, channels=2), RATE, subtype="PCM_16")
    np.testing.assert_array_equal(in_mkv, read(folder / "same.flac")[0])


def test_a_crop_that_ends_beyond_the_end_is_shorter_as_a_slice_is(folder: Path) -> None:
    for name in ("clip.flac", "clip.mp3", "pcm.mkv"):
        whole, _ = read(folder / name)
        crop, _ = read(folder / name, start=len(whole) - 10, num_samples=100)
        np.testing.assert_allclose(crop, whole[-10:], atol=1e-5)


def test_resampling_follows_the_averaging_and_reports_the_new_rate(tmp_path: Path) -> None:
    time = np.arange(48000) / 48000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, np.zeros_like(tone)], axis=1), 48000, subtype="FLOAT")
    waveform, rate = read(tmp_path / "tone.wav", sample_rate=16000)
    assert rate == 16000
    assert len(waveform) == 16000
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(waveform - expected)[200:-200].max() < 1e-3


def test_the_content_counts_and_not_the_name(folder: Path, tmp_path: Path) -> None:
    for source, name in (("clip.flac", "clip.wav"), ("clip.mp3", "clip.raw"), ("aac.mkv", "a:b.wav")):
        shutil.copy(folder / source, tmp_path / name)
        np.testing.assert_array_equal(read(tmp_path / name)[0], read(folder / source)[0])


@pytest.mark.parametrize(
    "name", [b"with space.wav", "ü日本.wav".encode(), b"latin\xe9.wav", b"-dash.wav", b"tab\tname.wav"]
)
@pytest.mark.parametrize("source", ["clip.wav", "pcm.mkv"])
def test_any_file_name_can_be_read(folder: Path, tmp_path: Path, name: bytes, source: str) -> None:
    path = os.path.join(tmp_path, os.fsdecode(name))
    shutil.copy(folder / source, path)
    assert len(read(path)[0]) == len(read(folder / source)[0])


def test_a_stream_without_a_length_in_its_header_is_read_to_its_end(folder: Path, tmp_path: Path) -> None:
    flac = bytearray((folder / "clip.flac").read_bytes())
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(flac)
    wav = bytearray((folder / "clip.wav").read_bytes())
    place = wav.index(b"data") + 4
    for name, length in (("pipe_zero.wav", bytes(4)), ("pipe_full.wav", b"\xff" * 4), ("sox.wav", b"\x00\xf0\xff\x7f")):
        wav[place : place + 4] = length
        (tmp_path / name).write_bytes(wav)
    for name in ("piped.flac", "pipe_zero.wav", "pipe_full.wav", "sox.wav"):
        np.testing.assert_array_equal(read(tmp_path / name)[0], read(folder / "clip.wav")[0])
        assert probe(tmp_path / name) == probe(folder / "clip.wav")


def test_an_mp3_without_a_length_tag_is_read_whole(tmp_path: Path) -> None:
    quiet_then_loud = np.concatenate([signal(3)[:, 0] * 0, np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)])
    soundfile.write(tmp_path / "tagged.mp3", quiet_then_loud, RATE, bitrate_mode="VARIABLE", compression_level=0.5)
    data = (tmp_path / "tagged.mp3").read_bytes()
    (tmp_path / "bare.mp3").write_bytes(data[data.index(data[:2], 4) :])
    whole, _ = read(tmp_path / "bare.mp3")
    assert probe(tmp_path / "bare.mp3").num_samples == len(whole) >= 7 * RATE
    crop, _ = read(tmp_path / "bare.mp3", start=5 * RATE, num_samples=1000)
    np.testing.assert_array_equal(crop, whole[5 * RATE : 5 * RATE + 1000])


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_real_files_are_read_as_probed(path: Path) -> None:
    info = probe(path)
    waveform, rate = read(path)
    assert (len(waveform), rate) == (info.num_samples, info.sample_rate)
    assert 0.001 < np.abs(waveform).max() <= 1.01
    half = len(waveform) // 2
    crop, _ = read(path, start=half, num_samples=1000)
    np.testing.assert_allclose(crop, waveform[half : half + 1000], atol=1e-4)


# ---------------------------------------------------------------------------------------------- what is wrong


def message_of(path: Path, **crop: int) -> str:
    with pytest.raises(AudioError) as caught:
        read(path, **crop)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert "does not exist" in message_of(tmp_path / "absent.wav")


def test_a_folder_says_so(tmp_path: Path) -> None:
    assert "is a folder" in message_of(tmp_path)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["pipe.wav", "a:pipe", "pipe.npy"])
def test_a_pipe_says_so_and_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"linked {name}").symlink_to(name)
    for path in (tmp_path / name, tmp_path / f"linked {name}"):
        for look in (probe, read_features if name.endswith(".npy") else read):
            with pytest.raises(AudioError, match=r": is not a regular file: leave it out$"):
                look(path)  # type: ignore[operator]


@pytest.mark.timeout(10)
def test_a_device_and_a_socket_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")
        assert message_of(Path("socket.wav")) == "is not a regular file: leave it out"
    assert message_of(Path("/dev/zero")) == "is not a regular file: leave it out"


def test_a_link_to_a_file_is_read_as_the_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(folder / "clip.wav")
    np.testing.assert_array_equal(read(tmp_path / "link.wav")[0], read(folder / "clip.wav")[0])


@pytest.mark.parametrize(
    "name", ["a\0b.wav", "a\0b:c", "\ud800.wav", "a\0b.npy", "a\0b.tar:512:9", "a\0b.zip:c", "\0.h5:1"]
)
def test_a_name_that_no_file_can_have_says_so(name: str) -> None:
    for look in (probe, read_features if name.endswith(".npy") else read):
        with pytest.raises(AudioError, match="no name of a file"):
            look(name)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["clip.mp3", "clip.sph", "text.wav"])
def test_a_read_that_the_system_refuses_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever is looked up beside a decoder; the decoders themselves read by the descriptor."""
    path = tmp_path / name
    path.write_bytes((folder / name).read_bytes() if name != "text.wav" else b"text")

    class Refusing(io.FileIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("mae_ast_plugin.audio.places._open_file", Refusing)
    assert message_of(path) == "cannot be read: Input/output error"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that refuses to be read")
def test_a_file_that_refuses_to_be_read_says_so() -> None:
    assert message_of(Path("/proc/self/mem")) == "cannot be read: Input/output error"


@pytest.mark.parametrize("name", ["empty.wav", "empty.mkv"])
def test_an_empty_file_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "is empty (0 bytes)" in message_of(tmp_path / name)


@pytest.mark.parametrize("name", ["none.wav", "none.flac"])
def test_a_file_without_samples_says_so(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, np.zeros(0), RATE)
    assert "holds no samples" in message_of(tmp_path / name)
    with pytest.raises(AudioError, match="holds no samples"):
        probe(tmp_path / name)


def test_text_named_wav_says_so(tmp_path: Path) -> None:
    (tmp_path / "page.wav").write_text("<html><body>404 nicht gefunden: ü</body></html>\n" * 50, encoding="utf-8")
    assert "holds text, not audio" in message_of(tmp_path / "page.wav")


def test_bytes_of_no_format_say_so(tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(1).bytes(3000))
    assert "is no audio that libsndfile or FFmpeg can open" in message_of(tmp_path / "noise.wav")


def test_a_film_without_sound_says_so(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "silent.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert "holds no audio stream" in message_of(tmp_path / "silent.mkv")


@pytest.mark.parametrize("name", ["clip.wav", "float.wav", "clip.aiff", "clip.sph", "clip.flac", "pcm.mkv", "opus.mkv"])
def test_a_truncated_file_says_so_when_read_and_when_probed(folder: Path, tmp_path: Path, name: str) -> None:
    path = cut(folder / name, tmp_path / name, 0.6)
    assert "is truncated" in message_of(path)
    with pytest.raises(AudioError, match="is truncated"):
        probe(path)


@pytest.mark.parametrize("name", ["clip.wav", "pcm.mkv"])
def test_a_truncated_file_still_gives_a_crop_from_its_good_part(folder: Path, tmp_path: Path, name: str) -> None:
    path = cut(folder / name, tmp_path / name, 0.6)
    crop, _ = read(path, start=100, num_samples=500)
    np.testing.assert_array_equal(crop, read(folder / name, start=100, num_samples=500)[0])


def test_a_truncated_mp3_gives_what_is_there_because_its_header_is_an_estimate(folder: Path, tmp_path: Path) -> None:
    path = cut(folder / "clip.mp3", tmp_path / "clip.mp3", 0.6)
    waveform, _ = read(path)
    assert 0 < len(waveform) < 0.7 * probe(folder / "clip.mp3").num_samples
    assert probe(path).num_samples == len(waveform)
    assert "nothing can be decoded" in message_of(path, start=len(waveform) + 2000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_says_where(tmp_path: Path, value: float) -> None:
    samples = signal(0.1, channels=2)
    samples[100, 1] = value
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    assert message_of(tmp_path / "bad.wav", start=40).startswith("sample 100 is not a finite number")


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.ogg", "clip.mp3", "pcm.mkv", "aac.mp4", "aac.aac"])
def test_a_crop_that_starts_beyond_the_end_says_so(folder: Path, name: str) -> None:
    num_samples = probe(folder / name).num_samples
    assert f"beyond the end of its {num_samples} samples" in message_of(folder / name, start=num_samples)


@pytest.mark.parametrize("crop", [{"start": -1}, {"num_samples": 0}, {"num_samples": -5}])
def test_a_crop_that_makes_no_sense_is_refused(folder: Path, crop: dict[str, int]) -> None:
    assert "start at 0" in message_of(folder / "clip.wav", **crop)


def test_damage_in_the_middle_is_an_error_and_not_silence(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.ogg", signal(8), RATE, format="OGG", subtype="VORBIS")
    for source in (folder / "clip.flac", tmp_path / "long.ogg"):
        data = bytearray(source.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
        (tmp_path / "damaged").write_bytes(data)
        assert "is truncated or damaged" in message_of(tmp_path / "damaged")


def test_an_ogg_file_that_was_cut_is_read_as_far_as_it_goes(folder: Path, tmp_path: Path) -> None:
    path = cut(folder / "clip.ogg", tmp_path / "cut.ogg", 0.9)
    waveform, _ = read(path)
    np.testing.assert_allclose(waveform, read(folder / "clip.ogg")[0][: len(waveform)], atol=1e-5)
    assert probe(path).num_samples == len(waveform)


def test_an_audio_error_survives_the_way_between_processes() -> None:
    error = AudioError("odd\udcff.wav", "is broken")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.path, copy.reason, str(copy)) == (AudioError, error.path, error.reason, str(error))
    assert str(error) == "odd\\udcff.wav: is broken"


def test_no_file_descriptor_is_left_open(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("text")
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        read(folder / "clip.wav")
        read(folder / "aac.mkv", start=11 * RATE, num_samples=10)
        message_of(tmp_path / "text.wav")
    assert len(os.listdir("/dev/fd")) <= before


# ---- 16 bits


@pytest.mark.parametrize(("start", "num_samples"), [(0, None), (100, 700)])
@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.sph", "clip.aiff"])
def test_what_has_16_bits_keeps_them_and_is_the_same_audio(
    tmp_path: Path, name: str, start: int, num_samples: int | None
) -> None:
    file_format, subtype, _ = SOUND_FORMATS[name]
    soundfile.write(tmp_path / name, signal(0.1), RATE, format=file_format, subtype=subtype)
    compact, rate = read_compact(tmp_path / name, start=start, num_samples=num_samples)
    floats, _ = read(tmp_path / name, start=start, num_samples=num_samples)
    assert (compact.dtype, floats.dtype, rate) == (np.int16, np.float32, RATE)
    np.testing.assert_array_equal(compact / 32768, floats)


def test_channels_and_rates_that_must_be_computed_with_are_floats(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "stereo.wav", signal(0.1, channels=2), RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "mono.wav", signal(0.1), RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "fine.wav", signal(0.1), RATE, subtype="PCM_24")
    assert read_compact(tmp_path / "stereo.wav")[0].dtype == np.float32
    assert read_compact(tmp_path / "fine.wav")[0].dtype == np.float32
    resampled, rate = read_compact(tmp_path / "mono.wav", sample_rate=RATE // 2)
    assert rate == RATE // 2
    np.testing.assert_array_equal(resampled, read(tmp_path / "mono.wav", sample_rate=RATE // 2)[0])
