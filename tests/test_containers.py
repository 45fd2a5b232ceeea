"""Named tensors and their configuration come back as written, or one sentence says why the file cannot be used."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_plugin import containers
from mae_ast_plugin.containers import CONFIG, TENSORS, CheckpointError, read_container, read_folder, write_folder

CONTENT: dict[str, Any] = {"format": "mine", "version": 3, "nested": {"list": [1, None, "ü"], "share": 0.1}}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(4, 6, generator=generator)
    return {
        "weight": torch.randn(5, 7, generator=generator),
        "transposed": torch.randn(5, 7, generator=generator).T,
        "half": torch.randn(3, generator=generator).half(),
        "brain": torch.randn(3, generator=generator).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "table": table,
        "tied": table,
        "part of it": table[1:, ::2],
        "trained": torch.randn(2, generator=generator).requires_grad_(),
        "extremes": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    }


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "model", CONTENT, tensors())
    return tmp_path / "model"


def reason(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and "\n" not in sentence
    return sentence


# ----------------------------------------------------------------------------------------------------------- folders


def test_a_folder_comes_back_as_it_was_written(folder: Path) -> None:
    content = read_folder(folder)
    state = content.pop("state")
    assert content == CONTENT
    assert state.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert (state[name].dtype, state[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes_of(state[name]) == bytes_of(tensor)


def test_a_folder_has_two_files_and_nothing_beside(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == [CONFIG, TENSORS]
    write_folder(folder, CONTENT, tensors())
    assert sorted(os.listdir(folder)) == [CONFIG, TENSORS]


def test_folders_above_are_made(tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "b", CONTENT, tensors())
    assert read_folder(tmp_path / "a" / "b")["version"] == 3


def test_whoever_has_read_a_folder_keeps_what_was_in_it_when_it_is_written_again(folder: Path) -> None:
    before = read_folder(folder)["state"]
    write_folder(folder, CONTENT, {"weight": torch.zeros(1)})
    assert torch.equal(before["weight"], tensors()["weight"])
    assert torch.equal(read_folder(folder)["state"]["weight"], torch.zeros(1))


def test_a_folder_can_be_written_over_with_what_was_read_from_it(folder: Path) -> None:
    write_folder(folder, CONTENT, read_folder(folder)["state"])
    assert torch.equal(read_folder(folder)["state"]["transposed"], tensors()["transposed"])


@pytest.mark.parametrize("at", ["tensors", "configuration"])
@pytest.mark.parametrize("over", ["nothing", "an older one"])
def test_an_interrupted_writing_is_not_taken_for_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, over: str
) -> None:
    if over == "an older one":
        write_folder(tmp_path, CONTENT, tensors())

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if at == "tensors":
            patch.setattr(containers, "save_file", stop)
        else:
            patch.setattr(containers.json, "dumps", stop)
        write_folder(tmp_path, CONTENT, {"weight": torch.zeros(1)})
    assert f"has no {CONFIG}" in reason(read_folder, tmp_path)
    write_folder(tmp_path, CONTENT, tensors())
    assert sorted(read_folder(tmp_path)["state"]) == sorted(tensors())


def test_where_nothing_can_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "it cannot be written" in reason(lambda path: write_folder(path, CONTENT, tensors()), tmp_path / "file")
    assert "it cannot be written" in reason(lambda path: write_folder(path, CONTENT, {}), tmp_path / "file" / "below")


@pytest.mark.parametrize("missing", [CONFIG, TENSORS])
def test_a_folder_without_one_of_its_files_is_no_model(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    assert f"has no {missing}, so it is no exported model" in reason(read_folder, folder)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"{'a': 1}", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}{"b": 2}'], ids=lambda text: str(text[:9])
)
def test_a_configuration_that_is_no_json_is_named(folder: Path, text: bytes) -> None:
    (folder / CONFIG).write_bytes(text)
    assert f"{CONFIG}: it is not valid JSON" in reason(read_folder, folder)


@pytest.mark.parametrize("text", ["[]", '"text"', "null", "3"])
def test_json_that_is_no_configuration_is_named_by_its_type(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    assert f"it holds a {type(json.loads(text)).__name__}" in reason(read_folder, folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_tensors_are_named(folder: Path, share: float) -> None:
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[: int(share * len(data))])
    assert f"{TENSORS}: it is truncated or damaged" in reason(read_folder, folder)


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_header_is_a_sentence_or_reads_as_other_tensors(folder: Path, seed: int) -> None:
    draw, data = random.Random(seed), bytearray((folder / TENSORS).read_bytes())
    for _ in range(draw.choice([1, 5, 50])):
        data[draw.randrange(500)] = draw.randrange(256)
    (folder / TENSORS).write_bytes(data)
    try:
        read_folder(folder)
    except CheckpointError as error:
        assert str(error).startswith(str(folder / TENSORS)) and "\n" not in str(error)


def test_a_pickle_in_place_of_the_tensors_is_not_opened(folder: Path, tmp_path: Path) -> None:
    torch.save({"weight": Code(tmp_path / "made")}, folder / TENSORS)
    assert "truncated or damaged" in reason(read_folder, folder)
    assert not (tmp_path / "made").exists()


# -------------------------------------------------------------------------------------------------------------- files


class Code:
    """What a checkpoint must not hold: opening it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_file_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    torch.save({**CONTENT, "state": tensors()}, tmp_path / "file.pt")
    content = read_container(tmp_path / "file.pt")
    state = content.pop("state")
    assert content == CONTENT
    assert all(bytes_of(state[name]) == bytes_of(tensor) for name, tensor in tensors().items())


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_a_sentence_or_reads_as_other_numbers(tmp_path: Path, newer: bool, seed: int) -> None:
    path, draw = tmp_path / "file.pt", random.Random(seed)
    torch.save({**CONTENT, "state": tensors()}, path, _use_new_zipfile_serialization=newer)
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 30])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data)
    try:
        read_container(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


@pytest.mark.parametrize("seed", range(60))
def test_bytes_that_look_like_a_pickle_are_a_sentence(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    words = bytes(draw.choice(b"()}]K\x00abc.qtRN0123sXubi\x80\x88\x89e") for _ in range(draw.randrange(40)))
    (tmp_path / "file.pt").write_bytes(b"\x80\x02" + words)
    reason(read_container, tmp_path / "file.pt")


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_code_is_refused_and_does_not_run(tmp_path: Path, way: str) -> None:
    path = tmp_path / "code.pt"
    if way == "torch":
        torch.save({"model": Code(tmp_path / "made")}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Code(tmp_path / "made")}, protocol=2))
    assert "holds code" in reason(read_container, path)
    assert not (tmp_path / "made").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("way", ["zip", "old", "pickle"])
def test_code_is_named_in_every_protocol_and_container_and_cut_code_is_damage(
    tmp_path: Path, way: str, protocol: int
) -> None:
    path, content = tmp_path / "code.pt", {"model": Code(tmp_path / "made"), "tensor": torch.ones(3)}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=way == "zip")
    found = reason(read_container, path)
    assert re.search(r"it holds code, not only data \(.*\b_?io\.open\b.*\), and is not opened; convert it", found)
    assert not (tmp_path / "made").exists()
    path.write_bytes(path.read_bytes()[:8])  # before its first object
    assert "damaged" in (found := reason(read_container, path)) or "truncated" in found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("newer", [True, False])
def test_tensors_in_a_protocol_that_torch_refuses_are_neither_code_nor_damage(tmp_path: Path, newer: bool) -> None:
    path = tmp_path / "file.pt"
    torch.save(tensors(), path, pickle_protocol=4, _use_new_zipfile_serialization=newer)
    assert "save it again without pickle_protocol=" in reason(read_container, path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "there is no such file" in reason(read_container, tmp_path)
