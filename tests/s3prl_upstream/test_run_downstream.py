"""What the command does before s3prl has its turn; needs no s3prl."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from mae_ast_plugin.errors import PlainError
from s3prl_upstream.run_downstream import CORPORA, HERE, check, completed, our_names, refuse_empty_loaders

TASKS = {"ks": "speech_commands", "sid": "voxceleb1", "er": "emotion"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_arguments_are_passed_on_as_they_are() -> None:
    Path("task.yaml").touch()
    for line in (
        "--mode train --upstream fbank -d emotion -c task.yaml -f -s last_hidden_state --device cpu -o config.a=1",
        "-m evaluate -e runs/ks --device cpu",
        "-m train -d emotion -n name -a",
        "--help",
    ):
        assert completed(line.split()) == line.split()


def test_our_configurations_and_options_have_short_names() -> None:
    Path("CHECKPOINT").touch()
    given = ["-m", "train", "-u", "mae_ast_plugin_local", "-k", "CHECKPOINT", "-d", "emotion", "-c", "er", "-g", "flat"]
    assert completed(given) == [
        *given,
        "--config", str(HERE / "configs" / "er.yaml"),
        "--upstream_model_config", str(HERE / "upstreams" / "flat.yaml"),
        "--upstream_ckpt", os.path.abspath("CHECKPOINT"),
    ]  # fmt: skip
    Path("er").touch()  # a file of the user's comes first
    assert "--config" not in completed(["-m", "train", "-d", "emotion", "-c", "er"])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("-m train -d emotion -n x", "there is no configuration of emotion, and s3prl's package brings none; give -c"),
        ("-m train -d emotion -c ear", "ear: there is no such file, and ours are er, er_finetune, ks,"),
        (
            "-m train -d emotion -c er -g wide",
            "wide: there is no such file, and ours are dasheng, decoder, flat, join, mae_ast,",
        ),
    ],
)
def test_what_is_no_file_and_no_name_is_one_sentence(line: str, sentence: str) -> None:
    with pytest.raises(PlainError) as error:
        completed(line.split())
    assert sentence in str(error.value) and "\n" not in str(error.value)


def configuration(name: str) -> dict[str, Any]:
    return yaml.safe_load((HERE / "configs" / f"{name}.yaml").read_text())


def test_the_configurations_hold_superbs_settings_and_the_papers() -> None:
    def settings(name: str) -> tuple[Any, ...]:
        config = configuration(name)
        datarc, runner = config["downstream_expert"]["datarc"], config["runner"]
        batch = datarc.get("train_batch_size", datarc.get("batch_size"))
        return config["optimizer"]["lr"], runner["total_steps"], batch, runner["gradient_accumulate_steps"]

    assert our_names("configs") == ["er", "er_finetune", "ks", "ks_finetune", "sid", "sid_finetune"]
    assert settings("ks") == (1e-4, 200_000, 32, 1)
    assert settings("sid") == (1e-4, 200_000, 8, 4)
    assert settings("er") == (1e-4, 30_000, 4, 8)
    assert settings("ks_finetune") == (1e-5, 10_000, 512, 1)
    assert settings("sid_finetune") == (1e-4, 60_000, 4, 4)
    assert settings("er_finetune") == (1e-4, 3_000, 6, 5)


@pytest.mark.parametrize("name", our_names("configs"))
def test_a_configuration_evaluates_and_saves_before_it_ends(name: str) -> None:
    """s3prl does both at multiples of their settings only."""
    runner = configuration(name)["runner"]
    assert {"gradient_clipping", "log_step", "max_keep", "eval_dataloaders"} <= set(runner)
    assert runner["total_steps"] % runner["eval_step"] == runner["total_steps"] % runner["save_step"] == 0
    assert runner["eval_step"] % runner["save_step"] == 0
    head = configuration(name)["downstream_expert"]["modelrc"]
    assert (head["projector_dim"], head["UtteranceLevel"]["pooling"]) == (256, "MeanPooling")


@pytest.mark.parametrize("name", our_names("configs"))
def test_a_corpus_that_is_not_there_is_named_before_the_run(name: str, tmp_path: Path) -> None:
    task, config = TASKS[name.split("_")[0]], configuration(name)
    options = argparse.Namespace(device="cpu", downstream=task)
    for key in CORPORA[task]:
        with pytest.raises(PlainError, match=rf"datarc\.{key} is None, which does not exist; give it with -o"):
            check(options, config)
        config["downstream_expert"]["datarc"][key] = "nowhere"
        with pytest.raises(PlainError, match=rf"datarc\.{key} is 'nowhere', which does not exist"):
            check(options, config)
        config["downstream_expert"]["datarc"][key] = str(tmp_path)
    check(options, config)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(PlainError, match=r"--device is cuda, .* give --device cpu"):
        check(argparse.Namespace(device="cuda", downstream="asr"), {})
    check(argparse.Namespace(device="cpu", downstream="asr"), {})


def test_only_loaders_without_a_batch_are_refused() -> None:
    downstream = argparse.Namespace(get_dataloader=lambda split, epoch=0: [epoch] if split == "dev" else [])
    refuse_empty_loaders(downstream)
    assert downstream.get_dataloader("dev", epoch=3) == [3]
    with pytest.raises(PlainError, match="the split 'train' has not a single batch"):
        downstream.get_dataloader("train")
