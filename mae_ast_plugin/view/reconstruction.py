"""Draw what a masked model saw and what it made of it: original, masked and reconstructed spectrograms side by side.

Pure drawing from arrays, through matplotlib's object interface: no pyplot, no window, no global state. Knows nothing of
models. Needs matplotlib, the extra ``plots``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_ast_plugin.errors import PlainError

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage
except ImportError as error:
    raise PlainError('Pictures need matplotlib: pip install "mae-ast-plugin[plots]".') from error

COLUMNS = ("original", "masked (grey: hidden)", "reconstructed")
COLOUR_MAP = "magma"  # has no grey, so a hidden part cannot pass for data
HIDDEN_COLOUR = "#c9ced6"
ROBUST_PERCENTILES = (1.0, 99.5)
WIDTH_INCHES, ROW_INCHES, TITLE_INCHES, DPI = 12.0, 2.15, 0.5, 120
LONGEST_NAME = 48
ERRORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"squared": np.square, "absolute": np.abs}


@dataclass(frozen=True)
class Panel:
    """One clip: three spectrograms (T, F) on one scale; ``masked`` is NaN where the model saw nothing."""

    name: str
    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray
    frame_shift_ms: float = 10.0

    def __post_init__(self) -> None:
        shapes = {self.original.shape, self.masked.shape, self.reconstructed.shape}
        if len(shapes) > 1 or self.original.ndim != 2 or 0 in self.original.shape:
            raise PlainError(f"{self.name}: the spectrograms must share one shape (T, F), but have {sorted(shapes)}.")
        if not np.isfinite(self.original).all():
            raise PlainError(f"{self.name}: the original spectrogram holds NaN or infinity; only the masked one may.")
        if not self.frame_shift_ms > 0:
            raise PlainError(f"{self.name}: the frame shift must be above 0 ms, but is {self.frame_shift_ms}.")


@dataclass(frozen=True)
class HiddenError:
    """How well the hidden part was filled in: its share, and mean errors on it (NaN when nothing is hidden)."""

    hidden_share: float
    error: float
    mean_spectrum_error: float
    kind: str = "squared"

    @classmethod
    def of(cls, panel: Panel, kind: str = "squared") -> HiddenError:
        """Measure ``panel`` over its whole length; the yardstick predicts each bin's mean over the clip."""
        hidden = np.isnan(panel.masked)
        if not hidden.any():
            return cls(0.0, float("nan"), float("nan"), kind)
        original = panel.original.astype(np.float64)
        plain = np.broadcast_to(original.mean(axis=0), original.shape)
        of_value = ERRORS[kind]
        error, plain_error = (
            float(np.mean(of_value((guess - original)[hidden]))) for guess in (panel.reconstructed, plain)
        )
        return cls(float(hidden.mean()), error, plain_error, kind)

    def __str__(self) -> str:
        if self.hidden_share == 0:
            return "nothing hidden"
        return (
            f"{self.hidden_share:.0%} hidden   ·   {self.kind} error there {self.error:.3g}, "
            f"mean spectrum {self.mean_spectrum_error:.3g}"
        )


def draw_reconstructions(
    panels: Sequence[Panel], title: str, max_seconds: float = 4.0, error: str = "squared"
) -> Figure:
    """Draw one row per clip: original, masked and reconstructed on one colour scale, at most ``max_seconds`` of each.

    The error written beside a row, of a kind in `ERRORS`, counts the whole clip. Raises `PlainError` for no panels and
    for ``max_seconds`` not above 0.
    """
    if not panels:
        raise PlainError("There is nothing to draw; give at least one clip.")
    if not max_seconds > 0:
        raise PlainError(f"max_seconds must be above 0, but is {max_seconds}.")
    size = (WIDTH_INCHES, TITLE_INCHES + ROW_INCHES * len(panels))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title), fontsize=14, fontweight="bold")
    rows = figure.subfigures(len(panels), 1, squeeze=False)[:, 0]
    for index, panel in enumerate(panels):
        axes = _draw_row(rows[index], panel, max_seconds, error)
        for column, name in enumerate(COLUMNS):
            if index == 0:
                axes[column].set_title(name, fontsize=9.5, color="#444444")
            if index == len(panels) - 1:
                axes[column].set_xlabel("time (s)", fontsize=9.5)
    return figure


def _draw_row(row: SubFigure, panel: Panel, max_seconds: float, error: str) -> Sequence[Axes]:
    colours = colormaps[COLOUR_MAP].with_extremes(bad=HIDDEN_COLOUR)
    low, high = np.percentile(panel.original, ROBUST_PERCENTILES)
    if not high > low:  # silence: any scale will do, as long as it is one
        low, high = low - 1.0, low + 1.0
    row.suptitle(f"{_shorten(panel.name)}   ·   {HiddenError.of(panel, error)}", fontsize=10.5, x=0.04, ha="left")
    axes = row.subplots(1, 3, sharey=True)
    for column, values in enumerate((panel.original, panel.masked, panel.reconstructed)):
        image = _draw_spectrogram(axes[column], values, panel.frame_shift_ms, max_seconds, (low, high), colours)
    axes[0].set_ylabel("mel bin", fontsize=9.5)
    bar = row.colorbar(image, ax=axes, pad=0.012, aspect=14, extend="both")
    bar.ax.tick_params(labelsize=8.5)
    bar.outline.set_visible(False)
    return axes


def _draw_spectrogram(
    axes: Axes, values: np.ndarray, shift_ms: float, max_seconds: float, limits: tuple[float, float], colours: Colormap
) -> AxesImage:
    shown = values[: max(1, round(max_seconds * 1000 / shift_ms))]
    extent = (0.0, len(shown) * shift_ms / 1000, -0.5, shown.shape[1] - 0.5)  # whole numbers lie on the middle of a bin
    axes.tick_params(labelsize=8.5, length=3, color="#888888")
    axes.spines[:].set_visible(False)
    return axes.imshow(
        shown.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=extent,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
    )


def _shorten(name: str) -> str:
    """Keep the end of a long name, where the file's own name stands."""
    return _plain(name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :])


def _plain(text: str) -> str:
    """Keep matplotlib from reading a pair of dollar signs as mathematics."""
    return text.replace("$", r"\$")


def save_png(figure: Figure, path: Path) -> None:
    """Write ``figure`` to ``path``, making its folder; a reader never sees half a picture."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    growing = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(growing, format="png", metadata={"Software": None})
        os.replace(growing, path)
    finally:
        growing.unlink(missing_ok=True)


def to_image(figure: Figure) -> np.ndarray:
    """Draw ``figure`` into an array (H, W, 3) of uint8, as TensorBoard wants it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
