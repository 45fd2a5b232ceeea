"""The set-up: what .ci/setup does the first time and every other time, what it asks for, and the versions it pins.

It runs on a copy whose Python only writes down what it is asked to do: nothing is installed.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOOLS = ("bash", "dirname", "cat", "cksum", "env", "mkdir", "cp")
# Notes its arguments and what pip would read; fails where $FAIL occurs in them; makes an environment of itself.
PYTHON = """#!/bin/sh
echo "$*|$PIP_CONSTRAINT|$PIP_BUILD_CONSTRAINT|${CUDA_HOME-unset}" >> "$CALLS"
[ "$*" = --version ] && echo Python 3.9.2
[ -n "${FAIL-}" ] && case "$*" in *"$FAIL"*) exit 1;; esac
[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
exit 0
"""


@dataclass
class Checkout:
    """A copy of what the set-up reads, a Python that writes down its calls, and the only programs on the path."""

    folder: Path
    tools: Path
    calls: Path

    def set_up(self, status: int = 0, **environment: str) -> str:
        """Run .ci/setup from a foreign folder; its standard output, or what it complained of."""
        variables = {"PATH": str(self.tools), "CALLS": str(self.calls), "CUDA_HOME": "somewhere", **environment}
        script = str(self.folder / ".ci" / "setup")
        done = subprocess.run([script], cwd=self.tools, env=variables, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    def installs(self) -> list[str]:
        """The calls of pip so far."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith("-m pip")]

    def state(self) -> dict[str, tuple[int, int]]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Checkout:
    folder, tools = tmp_path / "my projects" / "checkout", tmp_path / "tools"
    tools.mkdir()
    (folder / ".ci").mkdir(parents=True)
    for name in (".ci/setup", "constraints.txt", "setup.cfg", "pyproject.toml"):
        shutil.copy(repository / name, folder / name)
    for name in TOOLS:
        program = shutil.which(name)
        assert program, name
        (tools / name).symlink_to(program)
    for name in ("c++", "nvidia-smi"):  # with a driver, no index is asked for a CPU build
        write_program(tools / name, "#!/bin/sh\nexit 0\n")
    write_program(tools / "python3", PYTHON)
    (tmp_path / "calls").touch()
    return Checkout(folder, tools, tmp_path / "calls")


def test_the_first_set_up_makes_an_environment_and_installs_the_pinned_versions(checkout: Checkout) -> None:
    printed = checkout.set_up()
    assert "-m venv .venv|" in checkout.calls.read_text()
    (install,) = checkout.installs()
    arguments, constraint, build_constraint, cuda = install.split("|")
    assert arguments.endswith("-e .[train,evaluation,dev]")
    # relative: pip would take the blank in "my projects" for the end of a name
    assert constraint == build_constraint == "constraints.txt"
    assert cuda == "unset"
    assert re.search(r"^set-up: ready after \d+ seconds$", printed, re.MULTILINE)


def test_a_repeated_set_up_does_nothing_and_is_done_at_once(checkout: Checkout) -> None:
    checkout.set_up()
    calls, state, begin = checkout.calls.read_text(), checkout.state(), time.monotonic()
    assert checkout.set_up() == ""
    assert time.monotonic() - begin < 2
    assert checkout.calls.read_text() == calls
    assert checkout.state() == state


@pytest.mark.parametrize("name", ["constraints.txt", "setup.cfg", "pyproject.toml"])
def test_a_change_of_what_is_wanted_is_installed_into_the_same_environment(name: str, checkout: Checkout) -> None:
    checkout.set_up()
    with (checkout.folder / name).open("a") as file:
        file.write("# another line\n")
    checkout.set_up()
    checkout.set_up()
    assert len(checkout.installs()) == 2
    assert checkout.calls.read_text().count("-m venv") == 1


def test_a_set_up_that_failed_is_not_taken_for_done(checkout: Checkout) -> None:
    checkout.set_up(status=1, FAIL="-m pip install")
    assert not (checkout.folder / ".venv" / ".ready").exists()
    checkout.set_up()
    assert len(checkout.installs()) == 2


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ("version_info", "Python 3.9.2 is too old; Python 3.11 or newer is needed"),
        ("ensurepip", "python3 cannot make environments; install its venv package"),
        ("Python.h", "the headers of python3 are missing; install them"),
    ],
)
def test_a_python_that_will_not_do_is_refused_in_one_sentence(lacking: str, sentence: str, checkout: Checkout) -> None:
    error = checkout.set_up(status=1, FAIL=lacking)
    assert error.startswith(f"set-up: {sentence}")
    assert error.count("\n") == 1
    assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("c++", "there is no C++ compiler, which fairseq is built with; install one"),
        ("python3", "there is no python3; install Python 3.11 or newer, or name one with PYTHON="),
    ],
)
def test_a_missing_program_is_named_in_one_sentence(program: str, sentence: str, checkout: Checkout) -> None:
    (checkout.tools / program).unlink()
    error = checkout.set_up(status=1)
    assert error.startswith(f"set-up: {sentence}")
    assert error.count("\n") == 1


def test_another_python_can_be_named(checkout: Checkout) -> None:
    (checkout.tools / "python3").rename(checkout.tools / "python3.99")
    checkout.set_up(PYTHON="python3.99")
    assert len(checkout.installs()) == 1


def test_the_python_of_these_tests_is_good_enough(checkout: Checkout) -> None:
    environment = checkout.folder / ".venv" / "bin"
    environment.mkdir(parents=True)
    (checkout.tools / "python3").rename(environment / "python")
    checkout.set_up(PYTHON=sys.executable)
    assert len(checkout.installs()) == 1


# ---- versions


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    """Package to version, of constraints.txt."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 and re.fullmatch(r"[0-9][0-9A-Za-z.]*", pair[1]) for pair in found)
    names = [canonicalize_name(name) for name, _ in found]
    assert len(set(names)) == len(names), "a package is pinned twice"
    return {canonicalize_name(name): version for name, version in found}


def requirements(repository: Path) -> list[Requirement]:
    """Everything setup.cfg asks for, with and without extras."""
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return [Requirement(line) for text in lists for line in text.split("\n") if line]


def test_every_package_that_is_asked_for_is_pinned_to_a_version_that_is_allowed(
    repository: Path, pins: dict[str, str]
) -> None:
    wanted = requirements(repository)
    assert {"torch", "fairseq-fixed", "matplotlib", "scikit-learn", "pytest"} <= {each.name for each in wanted}
    assert [each.name for each in wanted if canonicalize_name(each.name) not in pins] == [], "pin these"
    assert [str(each) for each in wanted if not each.specifier.contains(pins[canonicalize_name(each.name)])] == []


def test_torch_is_pinned_once_whatever_its_build(pins: dict[str, str]) -> None:
    assert pins["torch"] == "2.13.0"  # without +cpu: the same line serves both builds


def test_no_version_and_no_setting_names_a_path_of_a_machine(repository: Path) -> None:
    for name in (
        "constraints.txt",
        "setup.cfg",
        "pyproject.toml",
        "Makefile",
        ".ci/setup",
        ".ci/s3prl-setup",
        ".ci/run",
    ):
        text = (repository / name).read_text()
        text = re.sub(r"^#!.*$|https://\S+|/dev/null", "", text, flags=re.MULTILINE)
        assert re.findall(r"(?<![\w.)}\"\]])[/~]\w[\w./-]*|file:\S+", text) == [], name


def test_no_source_is_hidden_from_git(repository: Path) -> None:
    """A pattern such as ``demo/`` would also match a folder deep in the package, and a clone would lack it."""
    if not (repository / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a checkout")
    folders = (
        "mae_ast_plugin", "manifests", "s3prl_upstream", "hydra_plugins", "config", "tests", "benchmarks", "docs"
    )  # fmt: skip
    found = [path for folder in folders for path in (repository / folder).rglob("*")]
    sources = [str(path.relative_to(repository)) for path in found if path.suffix in (".py", ".yaml", ".md", ".typed")]
    assert "mae_ast_plugin/demo/__main__.py" in sources
    command = ["git", "-c", f"core.excludesFile={os.devnull}", "check-ignore", "--no-index", "--stdin"]
    listed = "\n".join(sources)
    done = subprocess.run(command, cwd=repository, input=listed, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.split() == []
