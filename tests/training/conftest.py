"""A small corpus, and the training command as a function.

``run("task.data=...", ...)`` starts fairseq-hydra-train with a network of toy size, through ``command_server.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import hydra_init
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from tensorboardX.proto.event_pb2 import Event

from mae_ast_plugin.launch.prepare import SCHEMA
from mae_ast_plugin.launch.recipes import recipe_folder
from mae_ast_plugin.tasks import mae_ast_pretraining as _registers_the_task  # noqa: F401
from manifests.__main__ import main as manifests

NUM_TRAIN, NUM_VALID = 19, 5
SIZES = {
    "task.min_sample_size": "null",
    "model.encoder_layers": 2,
    "model.decoder_layers": 1,
    "model.encoder_embed_dim": 32,
    "model.decoder_embed_dim": 32,
    "model.encoder_ffn_embed_dim": 64,
    "model.encoder_attention_heads": 4,
    "model.decoder_attention_heads": 4,
    "dataset.max_tokens": 100000,
    "dataset.num_workers": 0,
    "optimization.max_update": 3,
    "lr_scheduler.warmup_updates": 0,
    "common.log_interval": 1,
    "checkpoint.save_interval_updates": 2,
}


@dataclass(frozen=True)
class Corpus:
    """Manifests in ``data``, clips in ``audio``; ``seconds`` of the training clips together."""

    folder: Path
    seconds: float
    num_train: int = NUM_TRAIN
    num_valid: int = NUM_VALID

    @property
    def data(self) -> Path:
        return self.folder / "data"


def write_clips(folder: Path, number: int, seed: int) -> float:
    """Write chirps in noise of 0.3 to 1.5 s, WAV and FLAC, 16 and 8 kHz; returns their seconds."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    total = 0.0
    for index in range(number):
        rate, ending = (16000, 8000)[index % 2], ("wav", "flac")[index % 3 == 1]
        time_s = np.arange(int(rate * draw.uniform(0.3, 1.5))) / rate
        chirp = np.sin(2 * np.pi * (draw.uniform(100, 900) + draw.uniform(0, 800) * time_s) * time_s)
        waveform = 0.3 * chirp + 0.05 * draw.standard_normal(len(time_s))
        soundfile.write(folder / f"clip {index:02d}.{ending}", waveform, rate)
        total += len(time_s) / rate
    return total


def scan(folder: Path, splits: tuple[str, ...] = ("train", "valid")) -> None:
    """Make ``folder/data`` with one manifest for each sub-folder of ``folder/audio``."""
    for split in splits:
        out = folder / split
        options = ["--out", str(out), "--valid", "0", "--test", "0", "--jobs", "1"]
        assert manifests(["scan", str(folder / "audio" / split), *options]) == 0
        (folder / "data").mkdir(exist_ok=True)
        for ending in ("tsv", "rates"):
            (out / f"train.{ending}").rename(folder / "data" / f"{split}.{ending}")


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Corpus]:
    """Write the corpus anew, for a test that means to spoil it."""

    def make() -> Corpus:
        folder = tmp_path_factory.mktemp("corpus")
        seconds = write_clips(folder / "audio" / "train", NUM_TRAIN, seed=1)
        write_clips(folder / "audio" / "valid", NUM_VALID, seed=2)
        scan(folder)
        return Corpus(folder, seconds)

    return make


@pytest.fixture(scope="session")
def corpus(make_corpus: Callable[[], Corpus]) -> Corpus:
    return make_corpus()


@pytest.fixture(scope="session")
def compose_recipe() -> Callable[..., Any]:
    """The configuration that the command would compose of a recipe, without a run."""
    hydra_init("config")
    ConfigStore.instance().store(name=SCHEMA, node=FairseqConfig)

    def composed(recipe: str, *overrides: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["fairseq-hydra-train"])  # which the plugin's hook looks at
            with initialize_config_dir(str(recipe_folder()), version_base=None):
                return compose(recipe, overrides=["task.data=nowhere", *overrides])

    return composed


# ---- the command


@dataclass(frozen=True)
class Run:
    """A command that was started: its process, what it prints, its run directory."""

    process: int
    printed: Path
    folder: Path

    @property
    def output(self) -> str:
        return self.printed.read_text(errors="replace")

    @property
    def sentence(self) -> str:
        """The sentence that the command ended with instead of a trace."""
        assert "Traceback" not in self.output, self.output
        found = re.findall(r"^error: (.*)$", self.output, re.MULTILINE)
        assert len(found) == 1, self.output
        return str(found[0])

    def logged(self, tag: str = "train_inner") -> list[dict[str, Any]]:
        """The values of every line that was logged under ``tag``."""
        lines = re.findall(rf"\[{tag}\]\[INFO\] - (\{{.*\}})$", self.output, re.MULTILINE)
        return [json.loads(line) for line in lines]

    def num_updates(self) -> int:
        """Updates told of so far."""
        return max((int(values["num_updates"]) for values in self.logged()), default=0)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def checkpoint(self, name: str = "checkpoint_last.pt") -> dict[str, Any]:
        return torch.load(self.checkpoints / name, weights_only=True)  # type: ignore[no-any-return]

    def weights(self) -> dict[str, torch.Tensor]:
        return self.checkpoint()["model"]  # type: ignore[no-any-return]

    def audio_seconds(self) -> float:
        return float(self.checkpoint()["extra_state"]["MaskedPretrainingTask"]["audio_seconds"])

    def scalars(self, tag: str, logger: str = "train_inner") -> dict[int, float]:
        """What TensorBoard has: update to value."""
        return {event.step: value.simple_value for event, value in self.points(logger) if value.tag == tag}

    def points(self, logger: str) -> Iterator[tuple[Any, Any]]:
        """Every value in the event files of one logger."""
        for path in sorted((self.folder / "tensorboard" / logger).glob("events.*")):
            content, place = path.read_bytes(), 0
            while place < len(content):  # length, its checksum, the event, its checksum
                (length,) = struct.unpack_from("<Q", content, place)
                event = Event.FromString(content[place + 12 : place + 12 + length])
                yield from ((event, value) for value in event.summary.value)
                place += length + 16


class Command:
    """fairseq-hydra-train as a function; arguments later in the list replace those before."""

    def __init__(self, server: subprocess.Popen[str], corpus: Corpus, folder: Path) -> None:
        self.server, self.corpus, self.folder = server, corpus, folder
        self.num_started = 0

    def _ask(self, **request: Any) -> int:
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(json.loads(self.server.stdout.readline()))

    def start(
        self,
        *arguments: str,
        folder: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        bare: bool = False,
        script: Path | None = None,
    ) -> Run:
        """Start a run in the run directory ``folder``; ``bare`` gives the arguments alone, ``script`` to
        another program.
        """
        self.num_started += 1
        folder = folder or self.folder / f"run{self.num_started}"
        printed = self.folder / f"printed{self.num_started}.txt"
        printed.touch()
        argv = list(arguments) if bare else self.arguments(*arguments, folder=folder)
        cwd = cwd or self.folder / "elsewhere"
        cwd.mkdir(exist_ok=True)
        request = {"argv": argv, "cwd": str(cwd), "env": dict(env or {}), "output": str(printed)}
        return Run(self._ask(**request, script=script and str(script)), printed, folder)

    def arguments(self, *arguments: str, folder: Path) -> list[str]:
        """The whole command line for these arguments: options first, then settings."""
        settings: dict[str, Any] = {**SIZES, "task.data": self.corpus.data, "hydra.run.dir": folder}
        options = []
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if equals and not name.startswith("-"):
                settings[name] = value
            else:
                options.append(argument)
        if "--config-name" not in options:
            options += ["--config-name", "mae_ast"]
        return [*options, *(f"{name}={value}" for name, value in settings.items() if value != "DEFAULT")]

    def elsewhere(self, folder: Path, output: str) -> Run:
        """A run that something else started and that has ended."""
        self.num_started += 1
        printed = self.folder / f"printed{self.num_started}.txt"
        printed.write_text(output)
        return Run(0, printed, folder)

    def wait(self, run: Run, seconds: float = 90) -> int:
        """Wait for the end of a run; its exit status, negative for a signal."""
        return self._ask(wait=run.process, seconds=seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60, every: float = 0.02) -> None:
        """Wait for something that a run does."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(every)

    def __call__(self, *arguments: str, status: int = 0, **options: Any) -> Run:
        """Run to the end and compare the exit status."""
        run = self.start(*arguments, **options)
        found = self.wait(run)
        assert found == status, f"exit status {found}\n{run.output[-6000:]}"
        return run


@pytest.fixture(scope="session")
def command_server() -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("command_server.py")
    launchers = ("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # threads that wait for each other on a busy machine are slower than one
        env={**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    with server:
        assert server.stdout and server.stdin
        assert server.stdout.readline().strip() == "0"
        yield server
        server.kill()  # it may not see the end of its input: data workers of other tests hold copies of the pipe


@pytest.fixture
def run(command_server: subprocess.Popen[str], corpus: Corpus, tmp_path: Path) -> Command:
    """The training command; run directories, what is printed and the working directory lie in ``tmp_path``."""
    return Command(command_server, corpus, tmp_path)


@pytest.fixture(scope="session")
def _finished(command_server: subprocess.Popen[str], corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Command(command_server, corpus, tmp_path_factory.mktemp("finished"))()


@pytest.fixture
def finished(_finished: Run, tmp_path: Path) -> Run:
    """A run of three updates in ``tmp_path/run``, to spoil or to continue."""
    shutil.copytree(_finished.folder, tmp_path / "run")
    return Run(_finished.process, _finished.printed, tmp_path / "run")


@pytest.fixture(scope="module")
def run_of_module(
    command_server: subprocess.Popen[str], corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Command:
    """``run`` for runs that several tests of a module look at."""
    return Command(command_server, corpus, tmp_path_factory.mktemp("module"))
