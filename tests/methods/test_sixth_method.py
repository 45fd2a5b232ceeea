"""A sixth method is one file: dropped into the folder of methods, its published files load like any other's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mae_ast_plugin.methods as folder
from mae_ast_plugin import load_model
from mae_ast_plugin.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mae_ast_plugin.commands import info
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.method import methods
from mae_ast_plugin.methods.settings import ModelSettings

TOY = '''
"""A toy: a pre-norm network with a class token, whose files call everything otherwise."""
from mae_ast_plugin.methods.method import Method
from mae_ast_plugin.methods.names import NameTable
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings

MODEL = ModelSettings(
    ast_kernel_size_chan=20, ast_kernel_size_time=8, ast_kernel_stride_chan=20, ast_kernel_stride_time=8,
    encoder_layers=2, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16, encoder_ffn_embed_dim=32,
    encoder_attention_heads=2, layer_norm_first=True, class_tokens=1, two_heads=False,
)
METHOD = Method(
    title="Toy",
    recognises=lambda found: found.has("toy.embed.weight"),
    settings=lambda found: (MODEL, TaskSettings(feature_dim=40)),
    names=lambda model, task: NameTable([("toy" + ".{}" * n, ".".join(["{}"] * n)) for n in range(1, 9)]),
)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the toy system, and the one file that makes it known."""
    place = tmp_path / "methods"
    place.mkdir()
    (place / "toy.py").write_text(TOY)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(place)])
    methods.cache_clear()
    model: ModelSettings = methods()["toy"].settings(None)[0]  # type: ignore[arg-type]
    torch.manual_seed(0)
    tensors = autoencoder_of(model, 40).state_dict()
    path = tmp_path / "published.pt"
    torch.save({f"toy.{name}": tensor for name, tensor in tensors.items()}, path)
    yield path
    methods.cache_clear()


def test_one_file_makes_its_published_files_known(toy: Path, tmp_path: Path) -> None:
    encoder = load_model(toy)
    with torch.no_grad():
        out = encoder([torch.rand(16000) - 0.5])
        assert out.frames.shape == (1, 12, 2 * 16) and len(out.hidden_states) == 3
        assert load_checkpoint(toy).origin == "published Toy"
        assert "2 layers, 16 wide" in info.describe(encoder.checkpoint, encoder)["encoder"]  # type: ignore[arg-type]
    save_checkpoint(load_checkpoint(toy), tmp_path / "plain")
    assert load_checkpoint(tmp_path / "plain").model == load_checkpoint(toy).model


def test_without_the_file_they_are_refused(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "__path__", folder.__path__[:-1])
    methods.cache_clear()
    with pytest.raises(CheckpointError, match="of no known method"):
        load_checkpoint(toy)


def texts_in(source: str) -> list[tuple[int, str]]:
    """Strings in code, docstrings left out: line and lower-case text."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [(node.lineno, node.value.lower()) for node in constants if isinstance(node.value, str)]


def asks_in(source: str) -> list[int]:
    """Lines of code that name a method, in whatever way."""
    names = {*methods(), *(method.title.lower() for method in methods().values())}
    ours = {"mae_ast", "mae-ast"}  # also the names of this package and its distribution
    lines = [line for line, text in texts_in(source) if any(name in text for name in names - ours)]
    named = "|".join(map(re.escape, methods()))
    code = re.compile(
        rf"""==\s*["']mae.ast["']|["']mae.ast["']\s*==|methods import.*\b({named})\b|methods\.({named})\b"""
    )
    lines += [number for number, line in enumerate(source.splitlines(), 1) if code.search(line)]
    return sorted(set(lines))


@pytest.mark.parametrize(
    "line",
    [
        'kind == "ssast"',
        'kind in ("ssast", "dasheng")',
        'origin.startswith("published MSM-MAE")',
        '{"maskspec": 64}[kind]',
        'kind == "mae_ast"',
        "from mae_ast_plugin.methods import ssast",
    ],
)
def test_a_line_that_names_a_method_is_found(line: str) -> None:
    assert asks_in(f'"""As SSAST does."""\n{line}\n') == [2]


def test_nothing_but_the_methods_themselves_names_a_method(repository: Path) -> None:
    """Values, not names: a comment may say where a formula comes from, code may not ask which method it is."""
    package = repository / "mae_ast_plugin"
    others = [
        path for path in package.rglob("*.py") if path.parent != package / "methods" or path.stem not in methods()
    ]
    found = [f"{path.relative_to(repository)}:{line}" for path in others for line in asks_in(path.read_text("utf-8"))]
    assert found == []
