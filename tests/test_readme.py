"""The README is right: a test runs every command that it prints, and what it names exists.

A command stands in a fenced block or between backticks. The tests type it into a shell as it is printed, in a folder
where AUDIO and MANIFESTS are names of real folders; what is added makes the network small and the run short.
"""

from __future__ import annotations

import email
import importlib.util
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile
import torch
import yaml
from packaging.requirements import Requirement

from mae_ast_plugin.__main__ import main as commands
from mae_ast_plugin.audio.manifest import write_manifest
from mae_ast_plugin.demo import __main__ as demo
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from manifests.__main__ import main as manifests

PROGRAMS = ("make", "pip", "python", "pytest", "fairseq-hydra-train", "torchrun", "srun")
LOW_HZ, HIGH_HZ = 200, 2000
SMALL = (
    "model.encoder_layers=2",
    "model.decoder_layers=1",
    "model.encoder_embed_dim=32",
    "model.decoder_embed_dim=32",
    "model.encoder_ffn_embed_dim=64",
    "model.encoder_attention_heads=4",
    "dataset.num_workers=0",
    "task.min_sample_size=null",
)
TWO_UPDATES = ("optimization.max_update=2", "lr_scheduler.warmup_updates=0", "common.log_interval=1")

Test = TypeVar("Test", bound=Callable[..., None])
TESTED: set[str] = set()


def runs(*commands: str) -> Callable[[Test], Test]:
    """Say which commands of the README a test runs."""
    TESTED.update(commands)
    return lambda test: test


def fenced(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands between backticks outside the blocks, on one line each."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside)]


def commands_of(text: str) -> set[str]:
    """Every command line: all lines of blocks without a language, and what starts with a program between backticks."""
    lines = [line for language, body in fenced(text) if not language for line in body.splitlines() if line]
    return {*lines, *(span for span in spans(text) if span.split()[0] in PROGRAMS and " " in span)}


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


# ---- what the commands work on


def write_classes(audio: Path, per_class: int = 12) -> None:
    """Write two folders of short tones, easy to tell apart."""
    draw = np.random.default_rng(0)
    for label, pitch_hz in (("low", LOW_HZ), ("high", HIGH_HZ)):
        (audio / label).mkdir(parents=True)
        for index in range(per_class):
            time_s = np.arange(int(16000 * draw.uniform(0.3, 0.6))) / 16000
            tone = 0.3 * np.sin(2 * np.pi * pitch_hz * draw.uniform(1, 1.3) * time_s)
            path = audio / label / f"clip {index:02d}.wav"
            soundfile.write(path, tone + 0.02 * draw.standard_normal(len(time_s)), 16000)


@dataclass(frozen=True)
class Shell:
    """A folder, and a shell there with the set-up's environment on its path."""

    folder: Path

    def __call__(self, line: str, *settings: str, status: int = 0, **variables: str) -> str:
        """Type a line, with settings behind it; what it prints to both outputs."""
        launchers = ("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MAKE", "MFLAGS", "PYTEST")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # threads that wait for each other on a busy machine are slower than one
        environment = {**clean, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
        typed = " ".join([line, *(f"'{setting}'" for setting in settings)])
        done = subprocess.run(
            ["bash", "-c", typed], cwd=self.folder, env=environment, timeout=300, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == status, f"{typed}\n{done.stdout[-6000:]}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in a folder with AUDIO."""
    folder = tmp_path / "elsewhere"
    write_classes(folder / "AUDIO")
    return Shell(folder)


def scan(folder: Path) -> None:
    """Make MANIFESTS of AUDIO without paying for another process."""
    assert manifests(["scan", str(folder / "AUDIO"), "--out", str(folder / "MANIFESTS"), "--jobs", "1"]) == 0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def num_updates(run: Path) -> int:
    stored = torch.load(run / "checkpoints" / "checkpoint_last.pt", weights_only=True)
    return int(stored["optimizer_history"][-1]["num_updates"])


# ---- nothing is left out


def test_every_command_of_the_readme_has_a_test(readme: str) -> None:
    assert commands_of(readme) - TESTED == set(), "run these in a test and name them in its @runs(...)"
    assert TESTED - commands_of(readme) == set(), "the README has these no longer, or worded differently"


def test_commands_are_found_wherever_they_stand() -> None:
    inline = "`make all`, `make`, `x y` and `pip install\nx`"
    text = f"{inline}\n\n```\nA=1 run it\n\nls `x y`\n```\n\n```python\nmake it\n```\n"
    assert commands_of(text) == {"make all", "pip install x", "A=1 run it", "ls `x y`"}


# ---- make


@runs("make demo", "make demo DATA=DIR", "make test")
def test_make_sets_up_first_and_then_runs_what_it_says(repository: Path) -> None:
    def recipe(line: str) -> list[str]:
        return [" ".join(each.split()) for each in Shell(repository)(f"{line} --dry-run").splitlines()]

    python = ".venv/bin/python -m"
    assert recipe("make demo") == [".ci/setup", f"{python} mae_ast_plugin.demo"]
    assert recipe("make demo DATA='my sounds'") == [".ci/setup", f'{python} mae_ast_plugin.demo --data "my sounds"']
    *first, last = recipe("make test")
    assert first == [".ci/setup", ".venv/bin/ruff check .", ".venv/bin/mypy"]
    assert last.startswith(f"{python} pytest")
    assert "tests" not in last  # a folder named here would leave others out
    assert os.access(repository / ".ci" / "setup", os.X_OK)


@runs("make demo DATA=DIR", "make demo")
def test_the_demo_shows_what_it_learned_from_a_folder_and_from_its_own_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    audio = tmp_path / "Field Recordings (2026)"
    write_classes(audio)
    short = ("optimization.max_update=20", "common.log_interval=5", "checkpoint.save_interval=1000")
    assert demo.main(["--data", audio.name, *SMALL, *short]) == 0
    (run,) = Path("demo").glob("*_run")
    check_results(run, capsys.readouterr().out)

    # without DATA: the same with a corpus of its own, which is not trained on a second time here
    monkeypatch.setattr(demo, "write_corpus", write_classes)
    monkeypatch.setattr(demo, "pretrain", lambda _, folder, __: shutil.copytree(run, folder))
    assert demo.main([]) == 0
    check_results(Path("demo", "corpus_run"), capsys.readouterr().out)
    assert {path.name for path in tmp_path.iterdir()} == {audio.name, "demo"}


def check_results(run: Path, printed: str) -> None:
    """Everything is where the demo says, and the table compares with both baselines."""
    for name in ("loss.png", "reconstruction.png", "checkpoints/checkpoint_last.pt", "tensorboard"):
        assert re.search(rf"^\w+ (.* )?{re.escape(str(run / name))}$", printed, re.MULTILINE), printed
        assert (run / name).exists()
    for name in ("loss.png", "reconstruction.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    first, last = re.findall(r"^loss +([0-9.]+) at update 5 -> ([0-9.]+) at update 20 ", printed, re.MULTILINE)[0]
    assert float(last) < float(first)
    table = (run / "scores.txt").read_text()
    assert table.strip() in printed
    scores = dict(re.findall(r"^(\S.*?)  +([0-9.]+) %", table, re.MULTILINE))
    assert set(scores) == {"pretrained", "random weights", "log-mel mean and std", "chance"}
    assert "5-NN over 24 clips, 2 classes" in table
    assert float(scores["pretrained"]) > 75 > float(scores["chance"]) == 50


# ---- from audio to embeddings, as a reader goes


@runs(
    "python -m manifests scan AUDIO --out MANIFESTS --valid 0.01 --test 0.01",
    "fairseq-hydra-train --config-name mae_ast common.user_dir=mae_ast_plugin task.data=MANIFESTS",
)
def test_the_commands_lead_from_a_folder_of_audio_to_embeddings(
    shell: Shell, readme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("python -m manifests scan AUDIO --out MANIFESTS --valid 0.01 --test 0.01")
    check_manifests(shell.folder)
    shell(
        "fairseq-hydra-train --config-name mae_ast common.user_dir=mae_ast_plugin task.data=MANIFESTS",
        *SMALL, *TWO_UPDATES, "task.picture_interval_updates=1",
    )  # fmt: skip
    run = shell.folder / "runs" / "mae_ast"
    assert num_updates(run) == 2
    assert {path.name for path in shell.folder.iterdir()} == {"AUDIO", "MANIFESTS", "runs"}
    names = {path.name for path in run.iterdir()}
    assert {"checkpoints", "tensorboard", "hydra_train.log", "resolved_config.yaml"} <= names
    assert list(run.rglob("*.png"))

    (code,) = [body for language, body in fenced(readme) if language == "python"]
    monkeypatch.chdir(run / "checkpoints")
    names_of_code = {"waveform": np.sin(np.arange(16000) / 20).astype(np.float32)}
    exec(code, names_of_code)
    out = names_of_code["out"]
    assert out.clip.shape == (1, 8 * 32)  # 8 patches beside each other make a frame
    assert torch.isfinite(out.clip).all()
    assert len(out.hidden_states) == 2 + 1
    assert out.frames.shape[0] == 1


@runs(
    "python -m mae_ast_plugin embed AUDIO --checkpoint CHECKPOINT --out vectors.npz",
    "python -m mae_ast_plugin info CHECKPOINT",
    "python -m mae_ast_plugin export CHECKPOINT FOLDER",
    "python -m mae_ast_plugin evaluate knn --checkpoint CHECKPOINT --train TRAIN.tsv --test TEST.tsv",
)
def test_the_commands_take_what_a_checkpoint_has_to_give(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one process: each of them starts PyTorch otherwise; ``tests/commands`` starts some of them as programs."""
    monkeypatch.chdir(shell.folder)
    small = dict(setting.removeprefix("model.").split("=") for setting in SMALL if setting.startswith("model."))
    model = ModelSettings(**{name: int(value) for name, value in small.items()})
    state = {f"autoencoder.{name}": tensor for name, tensor in autoencoder_of(model, 128).state_dict().items()}
    torch.save({"cfg": {"model": asdict(model), "task": asdict(TaskSettings())}, "model": state}, "CHECKPOINT")
    rows = [(f"{label}/clip {index:02d}.wav", 1) for label in ("low", "high") for index in range(12)]
    for split, part in (("TRAIN", rows[::2]), ("TEST", rows[1::2])):
        write_manifest(f"{split}.tsv", "AUDIO", part, labels=[name.split("/")[0] for name, _ in part])

    def type_in(line: str) -> str:
        assert line in TESTED
        assert commands(line.split()[3:]) == 0
        return capsys.readouterr().out

    type_in("python -m mae_ast_plugin embed AUDIO --checkpoint CHECKPOINT --out vectors.npz")
    with np.load("vectors.npz") as archive:
        assert archive["vectors"].shape == (24, 8 * 32) and archive["names"].shape == (24,)
    assert "8 patches a column" in type_in("python -m mae_ast_plugin info CHECKPOINT")
    type_in("python -m mae_ast_plugin export CHECKPOINT FOLDER")
    assert {path.name for path in Path("FOLDER").iterdir()} == {"model.safetensors", "config.json"}
    table = type_in("python -m mae_ast_plugin evaluate knn --checkpoint CHECKPOINT --train TRAIN.tsv --test TEST.tsv")
    assert "random weights" in table and "chance" in table


@runs(
    "make s3prl-setup",
    "python -m s3prl_upstream.run_downstream -m train -u mae_ast_plugin_local -k CHECKPOINT -d speech_commands -c ks "
    '-p runs/ks -o "config.downstream_expert.datarc.speech_commands_root=SPEECH_COMMANDS,,config.downstream_expert.'
    'datarc.speech_commands_test_root=SPEECH_COMMANDS_TEST"',
)
def test_superb_is_set_up_and_its_command_is_that_of_its_page(repository: Path, readme: str) -> None:
    """``tests/s3prl_upstream/test_downstream.py`` trains with the commands of the page."""
    printed = Shell(repository)("make s3prl-setup --dry-run").splitlines()
    assert [" ".join(line.split()) for line in printed] == [".ci/setup", ".ci/s3prl-setup"]
    page = (repository / "docs" / "superb.md").read_text(encoding="utf-8")
    (line,) = [line for line in commands_of(readme) if "run_downstream" in line]
    assert line in commands_of(page)


def check_manifests(folder: Path) -> None:
    root, *rows = (folder / "MANIFESTS" / "train.tsv").read_text().splitlines()
    rates = (folder / "MANIFESTS" / "train.rates").read_text().split()
    assert root == str(folder / "AUDIO")
    assert set(rates) == {"16000"}
    assert len(rates) == len(rows)
    others = [(folder / "MANIFESTS" / f"{split}.tsv").read_text().splitlines()[1:] for split in ("valid", "test")]
    assert all(others)
    assert len({*rows, *others[0], *others[1]}) == 24
    for row in rows:
        name, length = row.split("\t")
        assert soundfile.info(folder / "AUDIO" / name).frames == int(length)


@runs("torchrun --nproc_per_node 8 $(which fairseq-hydra-train) --config-name mae_ast common.user_dir=mae_ast_plugin "
      "task.data=MANIFESTS")  # fmt: skip
def test_torchrun_starts_the_command(shell: Shell) -> None:
    """With one process; ``tests/training/test_processes.py`` trains with two."""
    scan(shell.folder)
    shell(
        "torchrun --nproc_per_node 1 $(which fairseq-hydra-train) --config-name mae_ast common.user_dir=mae_ast_plugin "
        "task.data=MANIFESTS", *SMALL, *TWO_UPDATES, PET_MASTER_PORT=str(free_port()),
    )  # fmt: skip
    assert num_updates(shell.folder / "runs" / "mae_ast") == 2


@runs("torchrun --nnodes 4 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint FIRST_NODE:29500 "
      "$(which fairseq-hydra-train) --config-name mae_ast common.user_dir=mae_ast_plugin "
      "task.data=MANIFESTS")  # fmt: skip
def test_torchrun_starts_the_command_on_several_nodes(shell: Shell) -> None:
    """With one node of one process."""
    scan(shell.folder)
    shell(
        f"torchrun --nnodes 1 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint localhost:{free_port()} "
        "$(which fairseq-hydra-train) --config-name mae_ast common.user_dir=mae_ast_plugin task.data=MANIFESTS",
        *SMALL, *TWO_UPDATES,
    )  # fmt: skip
    assert num_updates(shell.folder / "runs" / "mae_ast") == 2


SRUN = """#!/bin/sh
shift 6  # --nodes 1 --ntasks-per-node 2 --gpus-per-node 0
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks="$tasks $!"; done
for task in $tasks; do wait "$task" || exit 1; done
"""


@runs("srun --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 fairseq-hydra-train --config-name mae_ast "
      "common.user_dir=mae_ast_plugin task.data=MANIFESTS")  # fmt: skip
def test_srun_starts_the_command(shell: Shell) -> None:
    """With a stand-in for srun that starts two tasks with the variables of Slurm."""
    scan(shell.folder)
    (shell.folder / "srun").write_text(SRUN)
    (shell.folder / "srun").chmod(0o755)
    shell(
        "PATH=.:$PATH; srun --nodes 1 --ntasks-per-node 2 --gpus-per-node 0 fairseq-hydra-train --config-name mae_ast "
        "common.user_dir=mae_ast_plugin task.data=MANIFESTS", *SMALL, *TWO_UPDATES,
        f"distributed_training.distributed_port={free_port()}",
        SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NODELIST="localhost",
    )  # fmt: skip
    assert num_updates(shell.folder / "runs" / "mae_ast") == 2


@runs("fairseq-hydra-train --config-name mae_ast --cfg job")
def test_all_settings_can_be_printed(shell: Shell, repository: Path) -> None:
    printed = shell("fairseq-hydra-train --config-name mae_ast --cfg job 2>errors", PYTHONWARNINGS="ignore")
    config = yaml.safe_load(printed)
    recipe = yaml.safe_load((repository / "config" / "mae_ast.yaml").read_text())
    assert {"common", "checkpoint", "dataset", "optimization", "task", "model", "criterion"} <= set(config)
    for section in ("dataset", "optimization", "task", "model"):
        chosen = {name: value for name, value in recipe[section].items() if value != "???"}
        assert {name: config[section][name] for name in chosen} == chosen
    # settings that the README names
    assert {"dropout", "precision"} <= set(config["model"])
    assert {"max_tokens", "batch_size"} <= set(config["dataset"])


# ---- the package, installed elsewhere


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the sources, built with what the set-up has installed."""
    source = tmp_path_factory.mktemp("source")
    for name in ("mae_ast_plugin", "config", "manifests", "s3prl_upstream", "hydra_plugins"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(repository / name, source / name)
    Shell(source)("python -m pip wheel --no-deps --no-build-isolation --no-index --quiet --wheel-dir dist .")
    (built,) = (source / "dist").glob("*.whl")
    return built


@runs(
    'PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt pip install ".[train]"',
    "pip install .",
)
def test_pip_finds_every_requirement_among_the_pinned_versions(wheel: Path) -> None:
    """With the wheel in the place of the sources, as building those would need an index."""
    shell = Shell(wheel.parent.parent)
    try_only = "--dry-run --no-index --quiet"
    constraints = "PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt"
    shell(f'{constraints} pip install "{wheel}[train]" {try_only}')
    shell(f"pip install {wheel} {try_only}")
    if importlib.util.find_spec("s3prl"):  # by make s3prl-setup; docs/superb.md
        shell(f'{constraints} pip install "{wheel}[s3prl]" {try_only}')


def test_the_wheel_holds_all_of_the_package(wheel: Path, repository: Path, readme: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = email.message_from_bytes(archive.read(metadata))
    modules = {
        path.relative_to(repository).as_posix()
        for folder in ("mae_ast_plugin", "manifests", "s3prl_upstream", "hydra_plugins")
        for path in (repository / folder).rglob("*.py")
    }
    recipes = {f"mae_ast_plugin/config/{path.name}" for path in (repository / "config").glob("*.yaml")}
    recipes |= {path.relative_to(repository).as_posix() for path in (repository / "s3prl_upstream").rglob("*.yaml")}
    recipes |= {path.relative_to(repository).as_posix() for path in (repository / "mae_ast_plugin").rglob("*.json")}
    assert {"hydra_plugins/mae_ast_plugin_recipes/__init__.py", "manifests/__main__.py"} <= modules
    assert names >= modules | recipes | {"mae_ast_plugin/py.typed"}
    others = {name for name in names - modules - recipes if ".dist-info/" not in name}
    assert others == {"mae_ast_plugin/py.typed"}
    assert any(name.endswith("/LICENSE") for name in names)

    extras = set(about.get_all("Provides-Extra", []))
    assert extras == {"train", "manifests", "plots", "hdf5", "evaluation", "onnx", "s3prl", "dev"}
    assert all(f"`{extra}`" in readme for extra in extras - {"train"})
    assert needed(about, "") == {"torch", "numpy", "soundfile", "av", "soxr", "safetensors"}
    assert needed(about, "train") >= needed(about, "manifests") | needed(about, "plots") | {"fairseq-fixed"}
    assert about["Description-Content-Type"] == "text/markdown"


def needed(about: email.message.Message, extra: str) -> set[str]:
    """The packages that an extra asks for beyond the plain ones; of "" those."""
    found = [Requirement(line) for line in about.get_all("Requires-Dist", [])]
    plain = {each.name for each in found if each.marker is None}
    return {each.name for each in found if each.marker and each.marker.evaluate({"extra": extra})} if extra else plain


# Takes the set-up's own, editable installation away, so that nothing but the unpacked wheel can be found.
WITHOUT_EDITABLE = """
import sys
for finders in (sys.meta_path, sys.path_hooks):
    finders[:] = [each for each in finders if "__editable__" not in getattr(each, "__module__", "")]
sys.path[:] = [each for each in sys.path if "__editable__" not in each]
"""


def test_the_wheel_trains_by_the_name_of_a_recipe_from_any_folder(wheel: Path, shell: Shell, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "sitecustomize.py").write_text(WITHOUT_EDITABLE)
    modules = ("manifests", "hydra_plugins.mae_ast_plugin_recipes")
    scan(shell.folder)
    where = shell(
        f'python -c "import {", ".join(modules)}; print(*[{", ".join(f"{name}.__file__" for name in modules)}])"',
        PYTHONPATH=str(site),
    )
    assert [Path(path).is_relative_to(site) for path in where.split()] == [True, True]

    shell(
        "fairseq-hydra-train --config-name mae_ast_tiny common.user_dir=mae_ast_plugin task.data=MANIFESTS",
        *SMALL, *TWO_UPDATES, PYTHONPATH=str(site),
    )  # fmt: skip
    run = shell.folder / "runs" / "mae_ast_tiny"
    assert num_updates(run) == 2
    resolved = yaml.safe_load((run / "resolved_config.yaml").read_text())
    assert resolved["common"]["user_dir"] == str(site / "mae_ast_plugin")
    assert str(site / "mae_ast_plugin" / "config") in (run / ".hydra" / "hydra.yaml").read_text()


# ---- is it right, is it fast


@runs("pytest tests/golden --golden-dir DIR")
def test_golden_cases_are_reported_by_name(repository: Path, tmp_path: Path) -> None:
    shell = Shell(repository)
    quietly = "-p no:cacheprovider -p no:xdist"
    (tmp_path / "empty").mkdir()
    printed = shell(f"pytest tests/golden --golden-dir {tmp_path / 'empty'} {quietly}")
    assert "\n0 cases checked, 0 tensors" in printed
    (tmp_path / "cases" / "a_later_system" / "first_case").mkdir(parents=True)
    printed = shell(f"pytest tests/golden --golden-dir {tmp_path / 'cases'} {quietly}")
    assert "\n0 cases checked, 0 tensors" in printed
    assert "\nnot checked: a_later_system/first_case: system a_later_system is not supported yet\n" in printed


@pytest.fixture
def benchmarks(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of benchmarks, as if they were started there, with short measurements."""
    folder = repository / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for name in ("timing", "peers"):
        specification = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert specification and specification.loader
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["timing"], "REPEATS", 1)
    return folder


@runs("python benchmarks/learn_fsdd.py --data FSDD")
def test_the_benchmark_of_learning_takes_its_data_as_printed(
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["learn_fsdd.py", "--data", "FSDD", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(benchmarks / "learn_fsdd.py"), run_name="__main__")
    assert end.value.code == 0
    assert "--data" in capsys.readouterr().out


@runs("python benchmarks/kills.py")
def test_the_benchmark_of_kills_runs_as_printed(shell: Shell, repository: Path) -> None:
    (shell.folder / "benchmarks").symlink_to(repository / "benchmarks")
    printed = shell("python benchmarks/kills.py --kills 1")
    assert "bit-identical to the run without a break" in printed


def test_the_benchmarks_of_speed_exist_and_start(
    benchmarks: Path, readme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = re.findall(r"^- (`benchmarks/.*) measure speed", readme, re.MULTILINE)
    named = [Path(name).name for name in re.findall(r"`([^`]+)`", line)]
    assert named == ["fbank.py", "masks.py", "step.py", "embed.py", "loader.py", "manifest.py", "check.py"]
    for name in named:  # fbank, step, embed and loader need programs that only `make bench-setup` installs
        assert callable(runpy.run_path(str(benchmarks / name), run_name="benchmark")["main"])
    runpy.run_path(str(benchmarks / "masks.py"), run_name="__main__")
    assert capsys.readouterr().out.count("loop with sets") == 2
    monkeypatch.setattr(sys, "argv", ["manifest.py", "--rows", "1000", "--runs", "1", "--scan", "20"])
    runpy.run_path(str(benchmarks / "manifest.py"), run_name="__main__")
    assert "s to load (median of 1)" in capsys.readouterr().out


# ---- what is named exists


def test_the_table_of_recipes_is_complete(readme: str, repository: Path) -> None:
    listed = re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (repository / "config").glob("*.yaml"))


def pages(repository: Path) -> list[Path]:
    return [repository / "README.md", repository / "CHANGELOG.md", *sorted((repository / "docs").rglob("*.md"))]


def test_every_link_of_the_pages_leads_to_a_file(repository: Path) -> None:
    missing = []
    for page in pages(repository):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not re.match(r"https?://|mailto:", target) and not (page.parent / target).exists():
                missing.append(f"{page.relative_to(repository)}: {target}")
    assert missing == []


def test_every_source_file_that_the_pages_name_exists(repository: Path) -> None:
    folders = (
        "mae_ast_plugin", "manifests", "s3prl_upstream", "hydra_plugins", "config", "tests", "benchmarks", "docs"
    )  # fmt: skip
    files = [str(path) for folder in folders for path in (repository / folder).rglob("*")]
    missing = []
    for page in pages(repository):
        for span in spans(page.read_text(encoding="utf-8")):
            for name in re.findall(r"[\w/]*\w\.(?:py|yaml)\b", span):
                if not any(file.endswith(f"/{name}") for file in files) and name != "resolved_config.yaml":
                    missing.append(f"{page.relative_to(repository)}: {name}")
    assert missing == []


def test_no_page_names_a_path_of_a_machine(repository: Path) -> None:
    for page in pages(repository):
        assert not re.search(r"(?<![\w.])(?:/(?:home|root|work|tmp|mnt|data|Users)/|~/)", page.read_text()), page.name
