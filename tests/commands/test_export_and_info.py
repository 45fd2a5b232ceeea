"""``export`` and ``info``: the exported folder is the same model, and a checkpoint tells what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mae_ast_plugin import AudioEncoder, load_model
from mae_ast_plugin.__main__ import main
from mae_ast_plugin.checkpoint import load_checkpoint
from mae_ast_plugin.errors import PlainError


def test_an_exported_folder_is_the_same_model_without_a_pickle(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    assert main(["export", str(checkpoint), str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert (out / "model.safetensors").read_bytes()[8:9] == b"{"
    before, after = load_checkpoint(checkpoint), load_checkpoint(out)
    assert (after.model, after.task, after.num_updates) == (before.model, before.task, before.num_updates)
    assert after.state.keys() == before.state.keys()
    wave = torch.rand(30000, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        one, two = (load_model(path)([wave], with_decoder=True) for path in (checkpoint, out))
    assert all(torch.equal(a, b) for a, b in zip(one.hidden_states, two.hidden_states, strict=True))


def test_exporting_what_was_exported_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    assert main(["export", str(checkpoint), str(tmp_path / "one")]) == 0
    assert main(["export", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_export_never_overwrites(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["export", str(checkpoint), str(tmp_path)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_onnx_file_that_does_not_pass_its_check_is_not_left_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)

    def refuse(encoder: AudioEncoder, path: Path, tolerance: float) -> float:
        raise PlainError(f"{path}: its frames differ")

    monkeypatch.setattr("mae_ast_plugin.onnx.check_onnx", refuse)
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--onnx"]) == 2
    assert f"{tmp_path / 'out' / 'model.onnx'} is not kept: its frames differ\n" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def test_info_says_what_a_checkpoint_is(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint)]) == 0
    said = capsys.readouterr().out
    for fact in ("77", "2 layers, 16 wide", "16 x 16", "8 patches a column", "16000 Hz", "2800 samples", "128 values"):
        assert fact in said
    assert main(["info", str(checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["updates trained"] == 77


@pytest.mark.parametrize("command", ["info", "export"])
def test_a_foreign_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint at all")
    assert main([command, str(path), *([str(tmp_path / "out")] if command == "export" else [])]) == 2
    said = capsys.readouterr().err
    assert "checkpoint.pt" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()
