"""What a person reads of a check: the same report as text and as one page of HTML that needs no other file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from textwrap import wrap
from typing import IO

import numpy as np

from mae_ast_plugin.errors import PlainError
from manifests.blocks import Corpus
from manifests.durations import Durations, summary
from manifests.findings import KINDS, Finding

SHOWN = 20  # of each kind; all are in findings.tsv
NOTE = (
    "Levels are those of the average of the channels, which is what training reads. Clips are alike when their decoded "
    "samples and rates are: a lossless copy in another format is found, a lossy one is not."
)


@dataclass(frozen=True)
class Report:
    """What was checked and what was found; ``part`` says which share of the rows, where it is not all."""

    corpus: Corpus
    findings: Sequence[Finding]
    durations: Durations
    num_checked: int
    part: str = ""

    @property
    def title(self) -> str:
        bad = sum(len(finding.rows) for finding in self.findings)
        what = f"{self.num_checked} clips of {', '.join(self.corpus.names)}{self.part}"
        return f"{what}: {bad} finding{'s' * (bad > 1)}" if bad else f"{what}: nothing found"

    def counts(self) -> list[tuple[str, str, list[int]]]:
        """Each kind, its meaning, and how many rows of each split it holds for."""
        splits = len(self.corpus.names)
        return [
            (
                finding.kind,
                KINDS[finding.kind],
                np.bincount(self.corpus.splits[finding.rows], minlength=splits).tolist(),
            )
            for finding in self.findings
        ]

    def examples(self, finding: Finding) -> Iterator[tuple[str, int, str, str]]:
        """The first rows of a kind: split, line, name and sentence, in letters that can be printed anywhere."""
        for row in finding.rows[:SHOWN].tolist():
            clip = self.corpus[row]
            yield clip.split, clip.line, printable(clip.name), printable(finding.detail(row))


def printable(text: str) -> str:
    """Show what is no text, and line breaks, by their numbers."""
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)


def as_text(report: Report) -> str:
    """The report in lines of text."""
    return "\n".join(
        [report.title, "", *_table(report), "", *summary(report.durations), *_details(report), "", *wrap(NOTE, 100), ""]
    )


def _table(report: Report) -> Iterator[str]:
    """Findings by split; splits that were given by path are numbered."""
    short = [name if "/" not in name else f"#{number}" for number, name in enumerate(report.corpus.names, start=1)]
    yield " ".join([f"{'':14}", *(f"{name:>10}" for name in short)])
    yield " ".join([f"{'clips':14}", *(f"{len(manifest):>10}" for manifest in report.corpus.manifests)])
    for kind, meaning, counts in report.counts():
        yield " ".join([f"{kind:14}", *(f"{count:>10}" for count in counts)]) + f"  {meaning}"


def _details(report: Report) -> Iterator[str]:
    for finding in report.findings:
        if len(finding.rows):
            yield ""
            yield f"{finding.kind}: {KINDS[finding.kind]} ({_how_many(finding)})"
            for split, line, name, detail in report.examples(finding):
                yield f"  {split} line {line}, {name}: {detail}"


def _how_many(finding: Finding) -> str:
    count = len(finding.rows)
    return f"{count}" if count <= SHOWN else f"{count}, the first {SHOWN} of them; all are in findings.tsv"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ report.title }}</title>
<style>
body { font-family: sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; }
td.name { font-family: monospace; word-break: break-all; }
tr.bad { background: #fff0e8; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>{{ report.title }}</h1>
<table>
<tr><th>finding</th>{% for name in report.corpus.names %}<th class="number">{{ printable(name) }}</th>{% endfor %}\
<th>meaning</th></tr>
<tr><td>clips</td>{% for manifest in report.corpus.manifests %}<td class="number">{{ manifest|length }}</td>\
{% endfor %}<td>rows of the manifest</td></tr>
{% for kind, meaning, counts in report.counts() %}
<tr{% if counts|sum %} class="bad"{% endif %}><td>{{ kind }}</td>{% for count in counts %}\
<td class="number">{{ count }}</td>{% endfor %}<td>{{ meaning }}</td></tr>
{% endfor %}
</table>
<h2>Durations</h2>
<p>{% for line in durations %}{{ line }}<br>{% endfor %}</p>
{{ picture|safe }}
{% for finding in report.findings if finding.rows|length %}
<h2>{{ finding.kind }}: {{ kinds[finding.kind] }} ({{ how_many(finding) }})</h2>
<table>
<tr><th>split</th><th class="number">line</th><th>clip</th><th></th></tr>
{% for split, line, name, detail in report.examples(finding) %}
<tr><td>{{ printable(split) }}</td><td class="number">{{ line }}</td><td class="name">{{ name }}</td>\
<td>{{ detail }}</td></tr>
{% endfor %}
</table>
{% endfor %}
<p>{{ note }}</p>
</body>
</html>
"""


def check_html() -> None:
    """Raise PlainError where what makes the page is not installed."""
    if find_spec("jinja2") is None:
        raise PlainError('--html needs jinja2: pip install "mae-ast-plugin[manifests]"')
    check_plots("--html")


def check_plots(option: str) -> None:
    """Raise PlainError where pictures cannot be drawn, which an ``option`` asks for."""
    if find_spec("matplotlib") is None:
        raise PlainError(f'{option} needs matplotlib: pip install "mae-ast-plugin[plots]"')


def as_html(report: Report) -> str:
    """The report as one page; `check_html` tells beforehand whether it can be made."""
    import jinja2

    page = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined).from_string(PAGE)
    lines = summary(report.durations)[:2]  # the picture takes the place of the histogram in letters
    return page.render(
        report=report,
        durations=lines,
        picture=histogram(report.durations),
        kinds=KINDS,
        note=NOTE,
        printable=printable,
        how_many=_how_many,
    )


def histogram(durations: Durations) -> str:
    """Draw the durations as an SVG element; empty where none is known."""
    if not len(durations):
        return ""
    picture = io.StringIO()
    draw_histogram(durations, picture, "svg")
    return re.sub(r"^.*?(?=<svg)", "", picture.getvalue(), flags=re.DOTALL)


def draw_histogram(durations: Durations, target: str | IO[str], format: str | None = None) -> None:
    """Draw the durations into a file; the format follows from its name where it is not given."""
    from matplotlib.figure import Figure

    bars = durations.bars()
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(bars)), [count for _, _, count in bars], width=0.95, color="#4a7ba6")
    axes.set_xticks(range(len(bars)), [f"{low:g} to {high:g}" for low, high, _ in bars], rotation=45, ha="right")
    axes.set_xlabel("duration [s]")
    axes.set_ylabel("clips")
    figure.savefig(target, format=format)
