"""What the demo shows of a run: its loss, a picture, and how well its clip vectors tell classes apart."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_ast_plugin.audio.manifest import Manifest, Row
from mae_ast_plugin.audio.reader import read
from mae_ast_plugin.encoder import load_model
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.evaluation.baselines import baseline_vectors, random_twin
from mae_ast_plugin.evaluation.knn import stratified_folds_accuracy
from mae_ast_plugin.evaluation.tables import best, format_table, layer_table
from mae_ast_plugin.evaluation.vectors import clip_vectors
from mae_ast_plugin.methods.build import mask_settings_of
from mae_ast_plugin.nn.masking import MASKERS, MaskRequest
from mae_ast_plugin.nn.noise import combine
from mae_ast_plugin.view.curves import draw_curves
from mae_ast_plugin.view.pretraining import reconstruction_panels, scale_of
from mae_ast_plugin.view.reconstruction import draw_reconstructions, save_png

LOG_LINE = re.compile(r"\[(train_inner|valid)\]\[INFO\] - (\{.*\})$")
NUM_PICTURES = 4


def read_losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read (update, loss) of training and validation from a run's log."""
    found: dict[str, list[tuple[int, float]]] = {"train": [], "valid": []}
    for line in (folder / "hydra_train.log").read_text().splitlines():
        match = LOG_LINE.search(line)
        if match:
            values = json.loads(match[2])
            prefix, name = ("valid_", "valid") if match[1] == "valid" else ("", "train")
            found[name].append((int(values[f"{prefix}num_updates"]), float(values[f"{prefix}loss"])))
    if not found["train"]:
        log = folder / "hydra_train.log"
        raise PlainError(f"{log} holds no training loss; was the run shorter than common.log_interval?")
    return found


def draw_loss(losses: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw the curves of ``read_losses`` as a PNG."""
    series = {name: tuple(zip(*points, strict=True)) for name, points in losses.items() if points}
    save_png(draw_curves(series, "pretraining loss", "loss"), path)  # type: ignore[arg-type]


@torch.no_grad()
def draw_pictures(checkpoint: Path, manifest: Path, path: Path, max_seconds: float = 4.0) -> None:
    """Draw what a checkpoint makes of hidden parts of some clips of a manifest, with the run's own kind of mask."""
    encoder = load_model(checkpoint)
    assert encoder.checkpoint is not None
    rate = encoder.frontend.sample_rate
    rows = _spread(list(Manifest.load(str(manifest))), NUM_PICTURES)
    panels = []
    for number, row in enumerate(rows):
        waveform, _ = read(row.path, sample_rate=rate)
        samples = torch.from_numpy(waveform[: int(max_seconds * rate)])
        samples = torch.nn.functional.pad(samples, (0, max(0, encoder.shortest - len(samples))))
        clips = encoder.network.cut(encoder.frontend(samples[None]))
        request = MaskRequest(
            torch.tensor([combine(1, number)]),
            combine(2, number),
            clips.num_tokens,
            clips.patches.shape[1],
            encoder.network.tokens.num_chan,
        )
        mask = MASKERS[encoder.checkpoint.task.mask_type](request, mask_settings_of(encoder.checkpoint.model))
        panels += reconstruction_panels(encoder.network, clips, mask, [Path(row.path).name])
    titles = ("original, what the encoder saw, what the decoder made of it", scale_of(encoder.network))
    save_png(draw_reconstructions(panels, "; ".join(filter(None, titles))), path)


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Pick ``count`` rows evenly from all, so that they are of different folders."""
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(min(count, len(rows)))]


def score_table(checkpoint: Path, waveforms: Sequence[np.ndarray], labels: Sequence[str]) -> str:
    """Score clip vectors by 5-NN, five folds: pretrained, random weights (best layer of each), log-mel statistics."""
    encoder = load_model(checkpoint)
    waves: list[Any] = [torch.from_numpy(waveform) for waveform in waveforms]
    rate = encoder.frontend.sample_rate

    def score(vectors: np.ndarray) -> float:
        return stratified_folds_accuracy(vectors, labels)

    rows = []
    for name, model in (("pretrained", encoder), ("random weights", random_twin(encoder))):
        layer, accuracy = best(layer_table(clip_vectors(model, waves, rate, "statistics"), score))
        rows.append([name, f"{100 * accuracy:.1f} %", f"layer {layer}"])
    rows.append(["log-mel mean and std", f"{100 * score(baseline_vectors(encoder, waves, rate)):.1f} %", ""])
    rows.append(["chance", f"{100 * max(labels.count(label) for label in set(labels)) / len(labels):.1f} %", ""])
    header = [f"5-NN over {len(labels)} clips, {len(set(labels))} classes", "accuracy", "best of all layers"]
    return format_table(rows, header)
