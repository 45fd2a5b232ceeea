"""Draw how a quantity moved over the updates of a run, such as the loss.

Pure drawing from numbers, through matplotlib's object interface: no pyplot, no window, no global state. Knows nothing
of runs or logs. Needs matplotlib, the extra ``plots``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mae_ast_plugin.errors import PlainError

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator
except ImportError as error:
    raise PlainError('Pictures need matplotlib: pip install "mae-ast-plugin[plots]".') from error

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")  # safe for colour-blind eyes
MANY_POINTS = 120  # from here on the points become a pale line behind their running mean
FEW_POINTS = 40  # up to here every point has a dot

Curve = tuple[Sequence[float], Sequence[float]]


def draw_curves(series: Mapping[str, Curve], title: str, ylabel: str) -> Figure:
    """Draw one line per entry of ``series``, which maps a name to (updates, values).

    A NaN leaves a gap. Raises `PlainError` for no series, an empty one, and updates and values of differing lengths.
    """
    if not series:
        raise PlainError("There is nothing to draw; give at least one series.")
    figure = Figure(figsize=(8.5, 4.6), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (name, (updates, values)) in enumerate(series.items()):
        _draw_curve(axes, name, *_checked(name, updates, values), colour=COLOURS[index % len(COLOURS)])
    _dress(axes, title, ylabel)
    return figure


def _checked(name: str, updates: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(updates, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) == 0:
        raise PlainError(
            f"Series {name!r} needs as many values as updates, and at least one: got {y.size} and {x.size}."
        )
    return x, y


def _draw_curve(axes: Axes, name: str, updates: np.ndarray, values: np.ndarray, colour: str) -> None:
    name = name.replace("$", r"\$").lstrip("_") or "unnamed"  # matplotlib hides names that begin with an underscore
    if len(values) < MANY_POINTS:
        dots = "o" if len(values) <= FEW_POINTS else None
        axes.plot(updates, values, color=colour, linewidth=1.8, marker=dots, markersize=4, label=name)
        return
    window = len(values) // 40 * 2 + 1
    axes.plot(updates, values, color=colour, linewidth=0.8, alpha=0.3)
    label = f"{name} (mean of {window} points)"
    axes.plot(updates, running_mean(values, window), color=colour, linewidth=1.8, label=label)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Average ``values`` (N,) over an odd ``window`` around each point, fewer at the ends; a NaN stays a gap."""
    known = np.isfinite(values)
    kernel = np.ones(window)
    half = window // 2
    total = np.convolve(np.where(known, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(known.astype(np.float64), kernel)[half : half + len(values)]
    return np.where(known, total / np.maximum(count, 1.0), np.nan)


def _dress(axes: Axes, title: str, ylabel: str) -> None:
    axes.set_title(title.replace("$", r"\$"), fontsize=13, fontweight="bold", loc="left")
    axes.set_xlabel("update", fontsize=10.5)
    axes.set_ylabel(ylabel.replace("$", r"\$"), fontsize=10.5)
    left, right = axes.dataLim.intervalx
    if right - left < 1:  # one update only: room for a whole number on either side
        axes.set_xlim(left - 1, right + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9.5, color="#888888")
    axes.legend(fontsize=9.5, frameon=True, framealpha=0.9, edgecolor="none")
