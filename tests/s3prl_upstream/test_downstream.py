"""The real s3prl trains and evaluates its tasks with this upstream, by the commands that docs/superb.md prints.

Each command runs as printed, in a folder where the names in capitals are corpora in the layouts of the real ones; what
is added makes the run short.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import s3prl_toys as toys
import torch
from s3prl_engine import Engine

PROGRAM = "python -m s3prl_upstream.run_downstream"
BENCHMARK = "python benchmarks/superb_fsdd.py --checkpoint CHECKPOINT --data FSDD"
DATARC = "config.downstream_expert.datarc"


def lines_of(page: str) -> list[str]:
    """All lines of the blocks that are in no language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [line for language, block in blocks if not language for line in block.splitlines()]


def printed_commands(page: str) -> dict[str, list[str]]:
    """The arguments of every command that the page prints, by the name of the run (``-p`` or ``-e``)."""
    found = {}
    for line in lines_of(page):
        if not line.startswith(PROGRAM):
            continue
        arguments = shlex.split(line.removeprefix(PROGRAM))
        run = arguments[arguments.index("-p" if "-p" in arguments else "-e") + 1]
        found[run.removeprefix("runs/")] = arguments
    return found


@pytest.fixture(scope="module")
def commands(repository: Path) -> dict[str, list[str]]:
    return printed_commands((repository / "docs" / "superb.md").read_text(encoding="utf-8"))


def shortened(arguments: list[str], settings: Mapping[str, object]) -> list[str]:
    """A command with more settings behind those it has, on the CPU."""
    added = [f"{name}={value}" for name, value in settings.items()]
    place = arguments.index("-o") + 1
    changed = [*arguments, "--device", "cpu"]
    changed[place] = ",,".join([arguments[place], *added])
    return changed


def few_steps(steps: int, **datarc: int) -> dict[str, object]:
    runner = {"total_steps": steps, "eval_step": steps, "save_step": steps, "log_step": steps}
    runner["gradient_accumulate_steps"] = 1
    chosen: dict[str, object] = {f"config.runner.{name}": value for name, value in runner.items()}
    return chosen | {f"{DATARC}.{name}": value for name, value in {"num_workers": 0, **datarc}.items()}


def scores(run: Path) -> dict[str, float]:
    """Accuracy by split, of a run's last evaluation."""
    return {
        split: float(value)
        for split, value in re.findall(r"^(\w+) at step \d+: (\S+)", (run / "log.log").read_text(), re.M)
    }


def stored(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def check_run(folder: Path, name: str, steps: int, num_test: int) -> None:
    """What a run must leave behind: a score of dev and test, a prediction per clip, the weights that were trained."""
    run = folder / "runs" / name
    assert {"train", "dev", "test"} <= set(scores(run))
    (predictions,) = run.glob("test*_predict.txt")
    assert len(predictions.read_text().splitlines()) == num_test
    state = stored(run / f"states-{steps}.ckpt")
    assert state["Step"] == steps
    assert Path(state["Args"].upstream_ckpt).is_absolute()  # the upstream is read from there again, from any folder
    fine_tuned = "finetune" in name
    assert ("Upstream" in state) == fine_tuned
    layers = {"hidden_states": 3, "last_hidden_state": 0}  # the tokens' embedding and two layers are weighted, or none
    assert len(state["Featurizer"].get("weights", [])) == layers[state["Args"].upstream_feature_selection]
    if fine_tuned:
        before = torch.load(folder / "CHECKPOINT", weights_only=True)["model"]
        after = {key.removeprefix("encoder.network."): value for key, value in state["Upstream"].items()}
        for key in ("embed.weight", "encoder.layers.0.fc1.weight", "encoder.layers.1.attention.out.weight"):
            assert not torch.equal(after[key], before[f"autoencoder.{key}"]), key


def test_every_command_of_the_page_is_run(repository: Path) -> None:
    page = (repository / "docs" / "superb.md").read_text(encoding="utf-8")
    others = [line for line in lines_of(page) if not line.startswith(PROGRAM)]
    assert others == ["make s3prl-setup", BENCHMARK]  # the first by test_setup.py


def test_the_page_has_a_command_for_each_task_frozen_and_fine_tuned(commands: dict[str, list[str]]) -> None:
    tasks = {"ks", "ks_finetune", "sid", "sid_finetune", "er_fold1", "er_finetune_fold1"}
    assert set(commands) == {*tasks, "ks/dev-best.ckpt"}
    for name in tasks:
        assert ("-f" in commands[name]) == ("finetune" in name)


def test_a_random_network_finds_the_tones_and_is_evaluated_in_a_process_of_its_own(
    engine: Engine, commands: dict[str, list[str]], checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    """Random layers keep tones apart; an upstream that loses its input stays at a tenth."""
    toys.write_speech_commands(tmp_path, toys.Tones())
    shutil.copy(checkpoints("patch"), tmp_path / "CHECKPOINT")
    settings = few_steps(100, batch_size=16) | {"config.optimizer.lr": 1e-2}
    engine(tmp_path, *shortened(commands["ks"], settings))
    check_run(tmp_path, "ks", 100, num_test=20)
    found = scores(tmp_path / "runs" / "ks")
    assert found["test"] >= 0.9 and found["dev"] >= 0.9

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *PROGRAM.split()[1:], *commands["ks/dev-best.ckpt"], "--device", "cpu"],
        cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    (again,) = re.findall(r"^test acc: (\S+)", done.stdout, re.MULTILINE)
    assert float(again) == pytest.approx(found["test"])


@pytest.mark.parametrize(
    ("name", "kind", "num_test", "datarc"),
    [
        ("ks_finetune", "frame", 20, {"batch_size": 16}),
        ("sid", "frame", 4, {"train_batch_size": 4, "num_workers": 1}),
        ("sid_finetune", "patch", 4, {}),
        ("er_fold1", "patch", 12, {}),
        ("er_finetune_fold1", "frame", 12, {}),
    ],
)
def test_s3prl_trains_and_evaluates_by_the_printed_command(
    engine: Engine, commands: dict[str, list[str]], checkpoints: Callable[..., Path], speech: toys.Source,
    tmp_path: Path, name: str, kind: str, num_test: int, datarc: dict[str, int],
) -> None:  # fmt: skip
    corpus = {"ks": toys.write_speech_commands, "sid": toys.write_voxceleb, "er": toys.write_iemocap}[
        name.split("_")[0]
    ]
    corpus(tmp_path, speech)
    shutil.copy(checkpoints(kind), tmp_path / "CHECKPOINT")
    engine(tmp_path, *shortened(commands[name], few_steps(8, **datarc)))
    check_run(tmp_path, name, 8, num_test)
    (tmp_path / "elsewhere").mkdir()
    moved = f"args.expdir={tmp_path / 'elsewhere'}"  # an evaluation writes its predictions again
    printed = engine(tmp_path, "-m", "evaluate", "-e", f"runs/{name}/states-8.ckpt", "--device", "cpu", "-o", moved)
    (again,) = re.findall(r"^test acc: (\S+)", printed, re.MULTILINE)
    assert float(again) == pytest.approx(scores(tmp_path / "runs" / name)["test"])


def test_speaker_id_keeps_the_lists_of_two_corpora_apart(
    engine: Engine, commands: dict[str, list[str]], checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    """s3prl stores them in its own package and would take the first corpus for the second."""
    shutil.copy(checkpoints("frame"), tmp_path / "CHECKPOINT")
    toys.write_voxceleb(tmp_path, toys.Tones())
    settings = few_steps(1, train_batch_size=2)
    engine(tmp_path, *shortened(commands["sid"], settings))
    (tmp_path / "VOXCELEB1").rename(tmp_path / "OTHER")
    listed = (tmp_path / "VOXCELEB1_LIST").read_text().splitlines()
    (tmp_path / "VOXCELEB1_LIST").write_text("\n".join(listed[:10]))
    printed = engine(tmp_path, *shortened(commands["sid"], settings | {f"{DATARC}.file_path": "OTHER"}))
    assert re.findall(r"there are (\d+) files found", printed) == ["6", "2", "2"]
    assert len(list((tmp_path / "runs" / "sid" / "file_lists").glob("*/train.pkl"))) == 2
    found = importlib.util.find_spec("s3prl")
    assert found and found.origin
    assert not (Path(found.origin).parent / "downstream" / "voxceleb1" / ".cache").exists()


def test_fewer_files_than_a_batch_are_an_error_instead_of_a_run_without_end(
    engine: Engine, commands: dict[str, list[str]], checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    toys.write_speech_commands(tmp_path, toys.Tones())
    shutil.copy(checkpoints("frame"), tmp_path / "CHECKPOINT")
    command = shortened(commands["ks"], few_steps(1, batch_size=64))
    printed = engine(tmp_path, *command, status=2, seconds=60)
    assert "s3prl_upstream: the split 'train' has not a single batch" in printed
    assert "Traceback" not in printed


def test_an_unknown_option_of_the_upstream_is_one_sentence(
    engine: Engine, commands: dict[str, list[str]], checkpoints: Callable[..., Path], tmp_path: Path
) -> None:
    toys.write_speech_commands(tmp_path, toys.Tones())
    shutil.copy(checkpoints("frame"), tmp_path / "CHECKPOINT")
    (tmp_path / "mine.yaml").write_text("column: mean\n")
    command = [*shortened(commands["ks"], few_steps(1, batch_size=4)), "-g", "mine.yaml"]
    printed = engine(tmp_path, *command, status=2)
    assert "mine.yaml: there is no option 'column'; there are columns, decoder" in printed
    assert "Traceback" not in printed


def test_help_is_s3prls_own_and_lists_this_upstream(engine: Engine, tmp_path: Path) -> None:
    printed = engine(tmp_path, "--help")
    assert "--upstream_trainable" in printed and "mae_ast_plugin_local" in printed


def test_the_benchmark_compares_with_random_weights_and_the_log_mel(
    engine: Engine, checkpoints: Callable[..., Path], repository: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As printed, with two updates, on tones in the place of the recordings."""
    tones = toys.Tones()
    for digit in range(10):
        for number, speaker in enumerate(("anna", "ben")):
            for index in (0, 5, 6, 7):
                toys.write(tmp_path / "FSDD" / f"{digit}_{speaker}_{index}.wav", tones.word(digit, number, index))
    shutil.copy(checkpoints("frame"), tmp_path / "CHECKPOINT")
    monkeypatch.chdir(tmp_path)
    found = importlib.util.spec_from_file_location("superb_fsdd", repository / "benchmarks" / "superb_fsdd.py")
    assert found and found.loader
    benchmark = importlib.util.module_from_spec(found)
    found.loader.exec_module(benchmark)

    def in_the_engine(command: list[str], **named: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["-m", "s3prl_upstream.run_downstream"]
        place = command.index("-o") + 1
        smaller = [*command[:place], f"{command[place]},,{DATARC}.batch_size=8", *command[place + 1 :]]
        return subprocess.CompletedProcess(command, 0, engine(tmp_path, *smaller[3:]))

    monkeypatch.setattr(benchmark.subprocess, "run", in_the_engine)
    _, script, *arguments = BENCHMARK.split()
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--steps", "2", "--leave-out", "ben"])
    benchmark.main()
    *_, header, _, first, second, third = capsys.readouterr().out.splitlines()
    assert header.startswith("keyword spotting, 2 steps, accuracy %")
    names = [re.sub(r"\s{2,}.*", "", line) for line in (first, second, third)]
    assert names == ["pretrained", "random weights", "log-mel (fbank)"]
