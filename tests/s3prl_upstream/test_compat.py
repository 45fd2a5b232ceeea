"""The bridge to today's torchaudio: adds what is absent, replaces nothing that works."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from s3prl_upstream import compat


@pytest.fixture
def package() -> Iterator[Any]:
    """An empty package in the place of torchaudio."""
    module = ModuleType("stub_of_torchaudio")
    yield module
    sys.modules.pop("stub_of_torchaudio.sox_effects", None)


def working(*arguments: object, **named: object) -> str:
    return "works"


def failing(*arguments: object, **named: object) -> None:
    raise ImportError("TorchCodec is required")


# ---- what is added


def test_nothing_is_replaced_where_everything_works(package: Any) -> None:
    effects = ModuleType("effects")
    effects.apply_effects_file = effects.apply_effects_tensor = working  # type: ignore[attr-defined]
    for name in ("set_audio_backend", "load", "info", "save"):
        setattr(package, name, working)
    package.sox_effects = effects
    before = dict(vars(package))
    assert compat.complete(package) == []
    assert vars(package) == before
    assert "stub_of_torchaudio.sox_effects" not in sys.modules


def test_only_what_is_absent_or_fails_is_added(package: Any) -> None:
    package.load, package.save, package.info = failing, working, working
    assert compat.complete(package) == ["set_audio_backend", "load", "sox_effects"]
    assert package.load is compat.load and package.save is working and package.info is working
    package.set_audio_backend("sox_io")
    assert importlib.import_module("stub_of_torchaudio.sox_effects") is package.sox_effects
    assert compat.complete(package) == []


def test_effects_without_sox_beneath_are_replaced(package: Any) -> None:
    """As in torchaudio 2.1 to 2.8 built without sox."""

    def without_sox(*arguments: object) -> None:
        raise RuntimeError("TorchAudio is not built with sox extension")

    package.sox_effects = ModuleType("effects")
    package.sox_effects.apply_effects_file = without_sox
    assert "sox_effects" in compat.complete(package)
    assert package.sox_effects.apply_effects_file is compat.apply_effects_file


# ---- what the additions do


def write(path: Path, channels: int = 2, rate: int = 16000) -> np.ndarray:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, channels)).astype(np.float32)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return samples


def test_load_info_and_save_behave_as_torchaudios(tmp_path: Path) -> None:
    samples = write(tmp_path / "clip.wav")
    waveform, rate = compat.load(str(tmp_path / "clip.wav"))
    assert rate == 16000 and waveform.dtype == torch.float32
    assert np.array_equal(waveform.numpy(), samples.T)
    part, _ = compat.load(tmp_path / "clip.wav", frame_offset=10, num_frames=5, channels_first=False)
    assert np.array_equal(part.numpy(), samples[10:15])
    compat.save(tmp_path / "copy.wav", waveform, 16000)
    assert torch.equal(compat.load(tmp_path / "copy.wav")[0], waveform)
    assert compat.info(tmp_path / "clip.wav") == compat.AudioMetaData(16000, 1000, 2, 32, "FLOAT")
    soundfile.write(tmp_path / "pcm.flac", samples, 8000, subtype="PCM_16")
    assert compat.info(tmp_path / "pcm.flac").bits_per_sample == 16


def test_sox_effects_are_those_of_keyword_spotting(tmp_path: Path) -> None:
    samples = write(tmp_path / "clip.wav")
    waveform, rate = compat.apply_effects_file(str(tmp_path / "clip.wav"), [["channels", "1"], ["gain", "-3.0"]])
    assert rate == 16000
    np.testing.assert_allclose(waveform.numpy(), samples.mean(axis=1)[None] * 10 ** (-3 / 20), atol=1e-6)


def test_each_effect_does_what_its_name_says() -> None:
    wave = torch.tensor([[0.1, -0.25, 0.2]])

    def apply(*effect: str) -> torch.Tensor:
        return compat.apply_effects_tensor(wave, 16000, [effect])[0]

    assert apply("norm")[0].tolist() == pytest.approx([0.4, -1.0, 0.8])
    assert apply("norm", "-6.0206")[0, 1].item() == pytest.approx(-0.5, abs=1e-5)
    assert apply("reverse").tolist() == wave.flip(-1).tolist()
    assert apply("pad", "2s", "1s").tolist() == [[0.0, 0.0, *wave[0].tolist(), 0.0]]
    assert apply("pad", "0.001").shape == (1, 19)
    assert apply("gain", "40").tolist() == [[1.0, -1.0, 1.0]]  # limited
    assert compat.apply_effects_tensor(torch.zeros(1, 3), 16000, [["norm"]])[0].tolist() == [[0.0, 0.0, 0.0]]
    assert torch.equal(
        compat.apply_effects_tensor(wave.T, 16000, [["reverse"]], channels_first=False)[0], wave.flip(-1).T
    )


@pytest.mark.parametrize(
    "effect", [["silence", "1", "0.1", "0.1%"], ["vad"], ["gain", "-n"], ["channels", "2"], ["reverse", "1"]]
)
def test_an_effect_that_is_not_here_is_refused(effect: list[str]) -> None:
    with pytest.raises(NotImplementedError, match="is not among those that stand in for torchaudio's"):
        compat.apply_effects_tensor(torch.zeros(1, 10), 16000, [effect])


# ---- the installed torchaudio


INSTALLED = """
import hashlib, pathlib, sys
import torch
from s3prl_upstream import compat

torchaudio = compat.import_torchaudio()
assert compat.import_torchaudio() is torchaudio
folder = pathlib.Path(torchaudio.__file__).parent
assert torchaudio.compliance.kaldi.fbank(torch.randn(1, 1600)).shape[1] == 23
waveform, rate = compat.apply_effects_tensor(torch.randn(1, 44100).clamp(-1, 1), 44100, [["rate", "16000"]])
assert rate == 16000 and abs(waveform.shape[1] - 16000) <= 1
compat.complete(torchaudio)
torchaudio.save(sys.argv[1], waveform, rate)
assert torch.equal(torchaudio.load(sys.argv[1])[0], waveform)
assert torchaudio.sox_effects.apply_effects_file(sys.argv[1], [["channels", "1"]])[1] == 16000
"""


def test_the_installed_torchaudio_is_entered_though_its_compiled_part_may_not_load(tmp_path: Path) -> None:
    """Its published package is a CUDA build, which beside a CPU build of torch ends with an OSError."""
    found = importlib.util.find_spec("torchaudio")
    if found is None or found.origin is None:
        pytest.skip("torchaudio is not installed; make s3prl-setup installs it")
    package = Path(found.origin).parent
    before = {path: path.stat().st_mtime_ns for path in package.rglob("*.so")}
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(tmp_path / "clip.wav")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in package.rglob("*.so")} == before


BROKEN = {
    "__init__.py": "from . import _extension\n",
    "_extension/__init__.py": "from .utils import _load_lib\nAVAILABLE = _load_lib('_torchaudio')\n",
    "_extension/utils.py": "def _load_lib(name):\n    raise OSError(f'Could not load this library: {name}.abi3.so')\n",
}
ENTER = """
import sys
sys.path.insert(0, sys.argv[1])
from s3prl_upstream import compat
print(compat.import_torchaudio()._extension.AVAILABLE)
"""


@pytest.mark.parametrize("breaks_elsewhere", [False, True])
def test_only_a_compiled_part_that_does_not_load_is_forgiven(tmp_path: Path, breaks_elsewhere: bool) -> None:
    for name, text in BROKEN.items():
        path = tmp_path / "torchaudio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise OSError('the disk')\n" + text if breaks_elsewhere and "/" not in name else text)
    done = subprocess.run([sys.executable, "-c", ENTER, str(tmp_path)], capture_output=True, text=True, timeout=120)
    if breaks_elsewhere:
        assert "OSError: the disk" in done.stderr
    else:
        assert done.stdout == "False\n", done.stderr


# ---- stand-ins


STAND_INS = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
from s3prl_upstream import compat
absent = [name for name in ("catalyst", "librosa") if importlib.util.find_spec(name) is None]
assert compat.add_stand_ins() == absent, absent
assert compat.add_stand_ins() == []
from catalyst.data.sampler import DistributedSamplerWrapper
from librosa.util import find_files
for name, function in (("catalyst", DistributedSamplerWrapper), ("librosa", find_files)):
    assert importlib.util.find_spec(name) is not None
    try:
        function([1])
    except ValueError as error:
        assert name in absent and f"needs {name}" in str(error)
    else:
        assert name not in absent
print(len(absent))
"""


@pytest.mark.parametrize("present", [False, True])
def test_stand_ins_take_no_installed_packages_place(tmp_path: Path, present: bool) -> None:
    contents = {"catalyst/data/sampler": "DistributedSamplerWrapper = len", "librosa/util": "find_files = len"}
    for name, text in contents.items() if present else ():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        (tmp_path / name.split("/")[0] / "__init__.py").touch()
    done = subprocess.run([sys.executable, "-c", STAND_INS, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not present or done.stdout == "0\n"
