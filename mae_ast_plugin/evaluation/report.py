"""A report of scores as text for people and as data for programs: the same numbers."""

from __future__ import annotations

from typing import Any

from mae_ast_plugin.evaluation.probing import PRETRAINED, Report
from mae_ast_plugin.evaluation.scores import Score
from mae_ast_plugin.evaluation.tables import format_table

SHOWN_UNREADABLE = 10
EMBEDDING = "0 (tokens' embedding)"


def as_data(report: Report) -> dict[str, Any]:
    """Give everything that is known, made of dictionaries, lists, text and numbers."""
    rows = [
        _row(report, network, int(layer), found)
        for network, by_layer in report.networks.items()
        for layer, found in by_layer.items()
    ]
    rows += [_row(report, name, None, found) for name, found in report.others.items()]
    splits = {
        split: {
            "manifest": part.path,
            "clips": len(part),
            "unreadable": [{"name": name, "reason": reason} for name, reason in report.unreadable[split]],
        }
        for split, part in report.splits.parts.items()
    }
    chosen = {network: int(report.chosen(network)) for network in report.networks}
    return {
        "probe": report.probe,
        "splits": splits,
        "classes": report.splits.parts["train"].known(),
        "several_labels": report.splits.has_several,
        "leave_out": report.splits.leave_out,
        "decisive": report.measures[0],
        "rows": rows,
        "chosen": {"on": report.chosen_on, "layers": chosen},
    }


def _row(report: Report, vectors: str, layer: int | None, found: Score) -> dict[str, Any]:
    row: dict[str, Any] = {"vectors": vectors, "layer": layer, "setting": found.setting, "measures": found.measures}
    if found.valid is not None:
        row["valid"] = found.valid
    if report.splits.leave_out is not None:
        row["groups"] = found.by_fold
    return row


def as_text(report: Report) -> str:
    """Lay out what was scored, a table of layers, a table of what needs no network, and which layer is best."""
    return "\n".join([*_clips(report), "", _layers(report), "", _others(report), "", *_conclusions(report)])


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _clips(report: Report) -> list[str]:
    kind = "one or more labels each" if report.splits.has_several else "one label each"
    lines = [f"{report.probe}; {len(report.splits.parts['train'].known())} classes, {kind}"]
    for split, part in report.splits.parts.items():
        bad = report.unreadable[split]
        lines.append(f"{split}: {len(part)} clips of {part.path}, {len(bad)} unreadable")
        lines += [f"  left out: {_printable(name)} {reason}" for name, reason in bad[:SHOWN_UNREADABLE]]
        if len(bad) > SHOWN_UNREADABLE:
            lines.append(f"  and {len(bad) - SHOWN_UNREADABLE} more (--json names all)")
    return lines


def _cells(report: Report, found: Score, is_chosen: bool = False) -> list[str]:
    """The numbers of a row; a star beside the one by which the row was chosen."""
    star = " *" if is_chosen else "  "
    valid = [] if found.valid is None else [_percent(report.decisive(found)) + star]
    first, *rest = (_percent(value) for value in found.measures.values())
    return [*valid, first if valid else first + star, *rest]


def _header(report: Report, name: str) -> list[str]:
    first, *rest = report.measures
    return [f"{name}: valid  ", f"test {first}", *rest] if _has_valid(report) else [f"{name}: {first}  ", *rest]


def _has_valid(report: Report) -> bool:
    return report.chosen_on == "valid"


def _layers(report: Report) -> str:
    names = list(report.networks)
    header = ["layer", *(cell for name in names for cell in _header(report, name))]
    rows = []
    for layer in report.networks[PRETRAINED]:
        cells = (
            cell for name in names
            for cell in _cells(report, report.networks[name][layer], layer == report.chosen(name))
        )  # fmt: skip
        rows.append([EMBEDDING if layer == "0" else layer, *cells])
    return format_table(rows, header)


def _others(report: Report) -> str:
    rows = [[name, *(_percent(value) for value in found.measures.values())] for name, found in report.others.items()]
    return format_table(rows, ["without a network", *report.measures])


def _conclusions(report: Report) -> list[str]:
    first = report.measures[0]
    parts = []
    for name in report.networks:
        layer = report.chosen(name)
        found = report.networks[name][layer]
        parts.append(f"{name} {_percent(found.measures[first])} (layer {layer}, {found.setting})")
    lines = [f"* best layer: {', '.join(parts)}"]
    if report.splits.leave_out is not None:
        layer = report.chosen(PRETRAINED)
        by_group = report.networks[PRETRAINED][layer].by_fold
        shown = ", ".join(f"{group} {_percent(measures[first])}" for group, measures in by_group.items())
        lines.append(f"scores are means over {len(by_group)} groups; layer {layer} of {PRETRAINED}: {shown}")
    if _has_valid(report):
        lines.append("layers and settings were chosen on valid; the scores are those of test")
    elif any(len(by_layer) > 1 for by_layer in report.networks.values()):
        lines.append("the best layer was chosen by the scores themselves, so its score is a little optimistic")
    return lines
