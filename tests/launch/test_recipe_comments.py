"""The recipes explain themselves: every field says what it is, in the same words wherever it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
OTHERWISE = {"model.mask_length"}  # of a group of columns, or of a span of tokens


def fields_of(text: str) -> Iterator[tuple[str, str]]:
    """The ``section.key`` and the comment ("" where there is none) of every line that gives a field its value."""
    above: list[str] = []
    for line in text.splitlines():
        found = re.fullmatch(r"( *)(\w+):(?: +([^# ].*?))?(?: +# *(.*))?", line)
        if found is None:
            continue
        indent, key, value, comment = found.groups()
        above = [*above[: len(indent) // 2], key]
        if value is not None:
            yield ".".join(above), comment or ""


def begins_like(one: str, other: str) -> bool:
    """Whether two comments begin with the same three words, or with all the words of the shorter one."""
    mine, others = (re.findall(r"[\w'-]+", each)[:3] for each in (one, other))
    shorter = min(len(mine), len(others))
    return mine[:shorter] == others[:shorter]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_field_of_a_recipe_says_what_it_is(recipe: Path) -> None:
    fields = list(fields_of(recipe.read_text()))
    assert fields
    assert not [name for name, comment in fields if not comment], f"{recipe.name}: add what it is and its unit"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_no_line_of_a_recipe_is_wider_than_120_columns(recipe: Path) -> None:
    wide = [number for number, line in enumerate(recipe.read_text().splitlines(), 1) if len(line) > 120]
    assert not wide, f"{recipe.name}, lines {wide}"


def test_a_field_is_called_the_same_in_every_recipe() -> None:
    first: dict[str, str] = {}
    for recipe in RECIPES:
        for name, comment in fields_of(recipe.read_text()):
            begins = first.setdefault(name, comment)
            assert name in OTHERWISE or begins_like(begins, comment), f"{recipe.name}: {name} is {begins!r} elsewhere"


def test_a_field_without_a_comment_is_found() -> None:
    text = (
        "# head\ndefaults:\n  - mae_ast\n\ntask:\n  data: ???   # folder\n  cut: crop\nhydra:\n  job:\n    chdir: no\n"
    )
    assert list(fields_of(text)) == [("task.data", "folder"), ("task.cut", ""), ("hydra.job.chdir", "")]
