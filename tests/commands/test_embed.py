"""``embed``: the file holds what the encoder gives, and a stopped command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ast_plugin import corpus, load_model
from mae_ast_plugin.__main__ import main
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.commands import embed


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive.items())


def test_vectors_are_those_of_the_encoder_in_the_order_of_the_list(
    checkpoint: Path, manifest: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    assert main(["embed", str(manifest), "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    found = arrays(out)
    assert found["names"].tolist() == ["a.wav", "b.wav", "c.wav", "sub/d.wav", "sub/e.wav"]
    assert found["labels"].tolist() == ["x", "y", "x", "y", "z"]
    assert json.loads(str(found["settings"]))["num_updates"] == 77
    encoder = load_model(checkpoint)
    with torch.no_grad():
        for name, vector in zip(found["names"], found["vectors"], strict=True):
            waveform, rate = read(clips / name)
            torch.testing.assert_close(
                torch.from_numpy(vector), encoder([waveform], rate).clip[0], atol=1e-5, rtol=1e-5
            )
    assert not (tmp_path / "out.npz.parts").exists()


@pytest.mark.parametrize("layer", ["last", "0", "1", "-1"])
def test_frames_of_any_layer_without_pooling(checkpoint: Path, clips: Path, tmp_path: Path, layer: str) -> None:
    out = tmp_path / "out.npz"
    options = ["--checkpoint", str(checkpoint), "--out", str(out), "--pool", "none", "--columns", "mean"]
    assert main(["embed", str(clips), f"--layer={layer}", *options]) == 0
    found = arrays(out)
    ends = np.cumsum(found["lengths"])
    encoder = load_model(checkpoint, columns="mean")
    with torch.no_grad():
        for name, steps in zip(found["names"], np.split(found["frames"], ends[:-1]), strict=True):
            waveform, rate = read(clips / name)
            embedded = encoder([waveform], rate)
            wanted = embedded.frames if layer == "last" else embedded.hidden_states[int(layer)]
            torch.testing.assert_close(torch.from_numpy(steps), wanted[0], atol=1e-5, rtol=1e-5)
    assert len(found["frames"]) == ends[-1]


def test_a_stopped_command_goes_on_where_it_was(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "bad.wav").write_text("no audio")
    command = ["embed", str(clips), "--checkpoint", str(checkpoint), "--out"]
    assert main([*command, str(tmp_path / "whole.npz")]) == 0

    monkeypatch.setattr(corpus, "GROUP_CLIPS", 2)
    add, calls = embed.Parts.add, []

    def add_then_stop(self: embed.Parts, *arguments: object) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        add(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(embed.Parts, "add", add_then_stop)
    with pytest.raises(SystemExit) as stop:
        main([*command, str(tmp_path / "parts.npz")])
    assert stop.value.code == 130 and "stopped after 4 of 6 clips" in capsys.readouterr().err
    monkeypatch.setattr(embed.Parts, "add", add)
    assert main([*command, str(tmp_path / "parts.npz")]) == 0
    assert "going on after 4 of 6 clips" in capsys.readouterr().out
    whole, parts = arrays(tmp_path / "whole.npz"), arrays(tmp_path / "parts.npz")
    assert whole.keys() == parts.keys()
    assert parts["names"].tolist() == whole["names"].tolist()
    assert parts["unreadable"].tolist() == whole["unreadable"].tolist() and "text" in whole["unreadable"][0, 1]
    np.testing.assert_allclose(parts["vectors"], whole["vectors"], atol=1e-5)


def test_the_same_command_again_has_nothing_to_do_and_another_is_refused(
    checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(clips / "a.wav"), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out.npz")]
    assert main(command) == 0
    written = (tmp_path / "out.npz").read_bytes()
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().out
    assert main([*command, "--layer", "1"]) == 2
    assert "begun with layer last, not 1" in capsys.readouterr().err
    assert main(["embed", str(clips), *command[2:]]) == 2
    assert "another list of clips" in capsys.readouterr().err
    assert (tmp_path / "out.npz").read_bytes() == written


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (["--out", "x.csv"], "name ending in .npz"),
        (["--layer", "top"], "give last or the number of a layer"),
        (["--layer", "9"], "there is no layer 9; this network has 0"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt: there is no such file"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used here"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: list[str], found: str
) -> None:
    options = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out.npz"), *changed]
    assert main(["embed", str(clips), *options]) == 2
    said = capsys.readouterr().err
    assert found in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "found"), [({"bad.wav": b"text"}, "none of the 1 clips could be read"), ({}, "holds no file")]
)
def test_nothing_to_read_is_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, bytes], found: str
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    out = tmp_path / "out.npz"
    assert main(["embed", str(folder), "--checkpoint", str(checkpoint), "--out", str(out)]) == 2
    assert found in capsys.readouterr().err and not out.exists()


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "fairseq_cli", "hydra", "omegaconf"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocker())
from mae_ast_plugin.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_embed_info_and_export_need_no_trainer(checkpoint: Path, clips: Path, tmp_path: Path, repository: Path) -> None:
    def run(*arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", BLOCKED, *arguments], check=True, cwd=tmp_path, env=environment)

    run("export", str(checkpoint), "plain")
    run("embed", str(clips), "--checkpoint", "plain", "--out", "vectors.npz")
    run("info", "plain")
    assert len(arrays(tmp_path / "vectors.npz")["vectors"]) == 5
