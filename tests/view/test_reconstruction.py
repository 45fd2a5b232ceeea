"""Pictures of reconstructions: what is drawn, what is written beside it, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.nn.losses import ERRORS as LOSSES
from mae_ast_plugin.view.reconstruction import (
    ERRORS,
    HIDDEN_COLOUR,
    HiddenError,
    Panel,
    draw_reconstructions,
    save_png,
    to_image,
)


def make_panel(num_frames: int = 60, num_bins: int = 16, name: str = "clip.wav", seed: int = 0) -> Panel:
    rng = np.random.default_rng(seed)
    original = rng.standard_normal((num_frames, num_bins)).astype(np.float32)
    masked = original.copy()
    masked[: num_frames // 2] = np.nan
    return Panel(name, original, masked, original * 0.5)


def images(panels: list[Panel], **options: float) -> list[list[np.ma.MaskedArray]]:
    """The drawn arrays (F, T), row by row, without the colour bars."""
    figure = draw_reconstructions(panels, "title", **options)
    return [[axes.images[0].get_array() for axes in row.axes if axes.images] for row in figure.subfigs]


def test_each_clip_is_a_row_of_original_masked_and_reconstructed() -> None:
    panels = [make_panel(seed=seed) for seed in range(3)]
    drawn = images(panels)
    assert len(drawn) == 3
    for panel, row in zip(panels, drawn, strict=True):
        assert len(row) == 3
        np.testing.assert_array_equal(row[0], panel.original.T)
        np.testing.assert_array_equal(row[1].mask, np.isnan(panel.masked.T))
        np.testing.assert_array_equal(row[2], panel.reconstructed.T)


def test_the_three_pictures_of_a_row_share_the_colours_of_the_original() -> None:
    panel = make_panel()
    figure = draw_reconstructions([panel], "title")
    limits = {axes.images[0].get_clim() for axes in figure.subfigs[0].axes if axes.images}
    assert limits == {tuple(np.percentile(panel.original, (1.0, 99.5)))}


def test_a_hidden_part_has_a_colour_no_value_can_have() -> None:
    image = draw_reconstructions([make_panel()], "title").subfigs[0].axes[1].images[0]
    hidden = np.array([int(HIDDEN_COLOUR[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    np.testing.assert_allclose(image.cmap.get_bad()[:3], hidden)
    assert np.abs(image.cmap(np.linspace(0, 1, 256))[:, :3] - hidden).max(axis=1).min() > 0.1


def test_only_the_first_seconds_of_a_long_clip_are_drawn() -> None:
    assert images([make_panel(num_frames=5000)])[0][0].shape == (16, 400)
    assert images([make_panel(num_frames=5000)], max_seconds=0.5)[0][0].shape == (16, 50)
    assert images([make_panel(num_frames=1)])[0][0].shape == (16, 1)


def test_time_is_in_seconds_whatever_the_frame_shift() -> None:
    values = make_panel(num_frames=100).original
    figure = draw_reconstructions([Panel("clip", values, values, values, frame_shift_ms=20.0)], "title")
    assert figure.subfigs[0].axes[0].images[0].get_extent() == [0.0, 2.0, -0.5, 15.5]


def test_the_error_counts_hidden_places_only_and_over_the_whole_clip() -> None:
    original = np.array([[0.0], [2.0], [4.0], [6.0]])  # its mean is 3
    masked = np.array([[0.0], [2.0], [np.nan], [np.nan]])
    reconstructed = np.array([[99.0], [99.0], [4.0], [4.0]])
    measured = HiddenError.of(Panel("clip", original, masked, reconstructed))
    assert (measured.hidden_share, measured.error, measured.mean_spectrum_error) == (0.5, 2.0, 5.0)
    assert str(measured).startswith("50% hidden")


def test_the_error_beside_a_row_is_of_the_kind_that_was_asked_for() -> None:
    original = np.array([[0.0], [2.0], [4.0], [6.0]])  # its mean is 3
    masked = np.array([[0.0], [2.0], [np.nan], [np.nan]])
    panel = Panel("clip", original, masked, np.array([[99.0], [99.0], [4.0], [4.0]]))
    measured = HiddenError.of(panel, "absolute")
    assert (measured.error, measured.mean_spectrum_error) == (1.0, 2.0)
    text = draw_reconstructions([panel], "title", error="absolute").subfigs[0].get_suptitle()
    assert "absolute error there 1, mean spectrum 2" in text and "squared" not in text


def test_every_error_of_a_loss_can_be_written() -> None:
    assert set(ERRORS) == set(LOSSES)


def test_a_row_says_how_much_was_hidden_and_how_well_it_was_filled_in() -> None:
    panel = make_panel(name="a.wav")
    text = draw_reconstructions([panel], "title").subfigs[0].get_suptitle()
    assert text.startswith("a.wav")
    assert str(HiddenError.of(panel)) in text


def test_nothing_hidden_and_silence_are_drawn_all_the_same() -> None:
    silence = np.zeros((30, 8))
    figure = draw_reconstructions([Panel("silence", silence, silence, silence)], "title")
    assert "nothing hidden" in figure.subfigs[0].get_suptitle()
    assert to_image(figure).ndim == 3


def test_names_with_dollars_or_of_any_length_do_not_break_the_picture() -> None:
    figure = draw_reconstructions([make_panel(name="$\\frac$" + "long/" * 40 + "clip.wav")], "$\\frac$")
    assert "clip.wav" in figure.subfigs[0].get_suptitle()
    assert to_image(figure).std() > 0


def test_to_image_gives_the_pixels_tensorboard_wants() -> None:
    figure = draw_reconstructions([make_panel(), make_panel()], "title")
    image = to_image(figure)
    width, height = (figure.get_size_inches() * figure.dpi).astype(int)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8


def test_save_png_leaves_one_whole_picture_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "picture.png"
    path.parent.mkdir()
    path.write_text("an older picture")
    save_png(draw_reconstructions([make_panel()], "title"), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_keeps_the_older_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, figure = tmp_path / "picture.png", draw_reconstructions([make_panel()], "title")
    path.write_text("an older picture")

    def fail(file: Path, **_: object) -> None:
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(figure, path)
    assert path.read_text() == "an older picture"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_never_imports_pyplot() -> None:
    before = "matplotlib.pyplot" in sys.modules
    draw_reconstructions([make_panel()], "title")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_mistakes_end_in_one_sentence() -> None:
    values = np.zeros((4, 3))
    with pytest.raises(PlainError, match="share one shape"):
        Panel("clip", values, values[:3], values)
    with pytest.raises(PlainError, match="original spectrogram holds NaN"):
        Panel("clip", values * np.nan, values, values)
    with pytest.raises(PlainError, match="frame shift"):
        Panel("clip", values, values, values, frame_shift_ms=0)
    with pytest.raises(PlainError, match="at least one clip"):
        draw_reconstructions([], "title")
    with pytest.raises(PlainError, match="max_seconds"):
        draw_reconstructions([Panel("clip", values, values, values)], "title", max_seconds=0)
