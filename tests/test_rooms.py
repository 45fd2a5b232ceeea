"""The rooms of the house stay apart: who imports whom, no circles, and fairseq only where training is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "mae_ast_plugin"
TRAINER = {"fairseq", "fairseq_cli", "hydra", "omegaconf"}

# what the rooms for inference may import; a room may always import itself
_BASE = {"errors", "audio", "nn", "methods"}
_INFERENCE = _BASE | {"containers", "checkpoint", "segments", "pooling", "encoder"}
GROUND: dict[str, set[str]] = {
    "errors": set(),
    "programs": set(),
    "audio": {"errors"},
    "nn": {"errors"},
    "methods": {"nn", "audio", "errors"},
    "containers": {"errors"},
    "checkpoint": _BASE | {"containers"},
    "segments": set(),
    "pooling": set(),
    "encoder": _INFERENCE,
    "corpus": _INFERENCE,
    "evaluation": _INFERENCE | {"corpus"},
    "view": _INFERENCE,
    "onnx": _INFERENCE,
    "commands": _INFERENCE | {"corpus", "evaluation", "onnx"},
    "__main__": {"commands", "errors", "programs"},
    "demo": _INFERENCE | {"corpus", "view", "evaluation", "programs"},  # trains by command
    "": {"encoder", "checkpoint", "errors"},  # the package's face
}
# the fairseq side: these import everything below, and only they know the trainer
FAIRSEQ_ROOMS = ("data", "models", "criterions", "tasks", "launch")
FAIRSEQ: dict[str, set[str]] = {room: {*GROUND, *FAIRSEQ_ROOMS} for room in FAIRSEQ_ROOMS}
ALLOWED = GROUND | FAIRSEQ


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module or name that ``source`` imports anywhere, dotted in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str:
    """``mae_ast_plugin.nn.tokens.PatchTokens`` lies in ``nn``, ``mae_ast_plugin.load_model`` in the face ``""``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else ""


def target_of(name: str, modules: Iterable[str]) -> str | None:
    """The module of ``modules`` that has or is the name; that its packages run as well is no import of theirs."""
    return max((module for module in modules if f"{name}.".startswith(f"{module}.")), key=len, default=None)


def trespasses(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """One sentence for each import that crosses a wall."""
    found = []
    for module, names in imports.items():
        room = room_of(module)
        for name in names:
            top = name.split(".")[0]
            if top in TRAINER and room not in FAIRSEQ:
                found.append(f"{module} imports {name}, and only {', '.join(FAIRSEQ)} may")
            if top == PACKAGE and room_of(name) not in ALLOWED[room] | {room}:
                found.append(f"{module} imports {name}, and {room or 'the face'} may not")
    return found


@pytest.fixture(scope="module")
def imports(repository: Path) -> dict[str, set[str]]:
    """All modules of the package with the names they import."""
    found = {}
    for path in sorted((repository / PACKAGE).rglob("*.py")):
        module = module_name(path, repository)
        found[module] = set(imported_names(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"))
    return found


def test_every_module_has_a_room_with_a_rule(imports: dict[str, set[str]]) -> None:
    strangers = [module for module in imports if module != PACKAGE and module.split(".")[1] not in ALLOWED]
    assert strangers == [], "give the new room its rule in this test"


def test_no_import_crosses_a_wall(imports: dict[str, set[str]]) -> None:
    assert trespasses(imports) == []


def test_no_module_imports_itself_by_a_detour(imports: dict[str, set[str]]) -> None:
    graph = {module: {target_of(name, imports) for name in names} - {module, None} for module, names in imports.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


# of the scripts for manifests these two read recipes, and one of them trains a step, when they are asked to
MANIFESTS_OF_RECIPES = {"stats.py": {"launch"}, "doctor.py": {"launch"}}


def test_the_scripts_for_manifests_need_no_model_and_no_trainer(repository: Path) -> None:
    for path in sorted((repository / "manifests").glob("*.py")):
        rooms = {"audio", "errors", "programs"} | MANIFESTS_OF_RECIPES.get(path.name, set())
        for name in imported_names(path.read_text(encoding="utf-8"), "manifests", True):
            assert name.split(".")[0] not in TRAINER
            assert name.split(".")[0] != PACKAGE or room_of(name) in rooms, f"{path.name} imports {name}"


def test_the_scripts_for_manifests_start_without_the_trainer(repository: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED_IMPORTS, ",".join(sorted(TRAINER)), "manifests.__main__"],
        cwd=repository, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_the_upstream_for_s3prl_needs_no_trainer_and_its_folder_can_be_copied(repository: Path) -> None:
    for path in sorted((repository / "s3prl_upstream").glob("*.py")):
        names = set(imported_names(path.read_text(encoding="utf-8"), f"s3prl_upstream.{path.stem}", False))
        assert not {name for name in names if name.split(".")[0] in TRAINER}, path.name
        ours = {name for name in names if name.split(".")[0] == PACKAGE}
        assert not {name for name in ours if room_of(name) not in {"", *_INFERENCE}}, path.name
    # in s3prl/upstream these find each other under another name
    for name in ("hubconf", "expert", "options", "fetch", "windows"):
        source = (repository / "s3prl_upstream" / f"{name}.py").read_text(encoding="utf-8")
        assert "from s3prl_upstream" not in source and "import s3prl_upstream" not in source, name


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mae_ast_plugin.nn.tokens", "from mae_ast_plugin.methods import names"),
        ("mae_ast_plugin.nn.tokens", "def later():\n    import mae_ast_plugin.audio.frontend"),
        ("mae_ast_plugin.nn.tokens", "from ..audio import frontend"),
        ("mae_ast_plugin.audio.reader", "from mae_ast_plugin import load_model"),
        ("mae_ast_plugin.view.curves", "from mae_ast_plugin.evaluation.knn import best"),
        ("mae_ast_plugin.encoder", "from fairseq.models import BaseFairseqModel"),
        ("mae_ast_plugin.methods.build", "import hydra.core.config_store as store"),
        ("mae_ast_plugin", "import mae_ast_plugin.tasks"),
    ],
)
def test_the_check_sees_what_it_should_see(module: str, source: str) -> None:
    assert len(trespasses({module: imported_names(source, module, is_package=False)})) == 1


BLOCKED_IMPORTS = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Blocker())
for module in sys.argv[2].split(","):
    importlib.import_module(module)
loaded = BLOCKED & set(sys.modules)
assert not loaded, loaded
"""


def test_all_but_the_fairseq_rooms_import_without_the_trainer(repository: Path, imports: dict[str, set[str]]) -> None:
    for extra in ("sklearn", "matplotlib"):  # evaluation and view need theirs
        pytest.importorskip(extra)
    modules = [module for module in imports if room_of(module) in GROUND and not module.endswith("__main__")]
    assert {PACKAGE, f"{PACKAGE}.encoder", f"{PACKAGE}.nn.autoencoder", f"{PACKAGE}.view.curves"} <= set(modules)
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED_IMPORTS, ",".join(sorted(TRAINER)), ",".join(modules)],
        cwd=repository, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
