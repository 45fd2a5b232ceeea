"""Writes, while a run goes on, what the network makes of a few fixed validation clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensorboardX import SummaryWriter

from mae_ast_plugin.data.batching import ClipRef
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.view.pretraining import reconstruction_panels, scale_of
from mae_ast_plugin.view.reconstruction import draw_reconstructions, save_png, to_image


class PictureWriter:
    """Always the same clips with the same masks; a PNG per call in ``folder`` and an image for TensorBoard.

    ``error`` is that of the loss (`criterion.reconstruction_error`), and what is written beside the clips.
    """

    def __init__(
        self, dataset: ClipDataset, num_clips: int, folder: Path, tensorboard_folder: str | None, error: str = "squared"
    ) -> None:
        spread = range(0, len(dataset), max(1, len(dataset) // num_clips))
        clips = [dataset[ClipRef(row, 0, 0)] for row in list(spread)[:num_clips]]
        self.names = [Path(dataset.manifest[int(dataset.rows[clip.ref.row])].path).name for clip in clips]
        self.batch = dataset.collater(clips)["net_input"]
        self.folder, self.error = folder, error
        self.writer = SummaryWriter(str(Path(tensorboard_folder) / "pictures")) if tensorboard_folder else None

    @torch.no_grad()
    def write(self, model: Any, num_updates: int) -> Path:
        """Draw the clips as ``model`` sees them now; the model's mode and random numbers stay as they were."""
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        source = {name: self.batch[name].to(device) for name in ("waveforms", "features") if name in self.batch}
        clips = model.cut(self.batch["lengths"], **source)
        mask = model.draw_mask(clips, self.batch["clip_seeds"].to(device), self.batch["batch_seed"])
        panels = reconstruction_panels(model.autoencoder, clips, mask, self.names)
        model.train(was_training)
        title = ", ".join(filter(None, (f"after {num_updates} updates", scale_of(model.autoencoder))))
        figure = draw_reconstructions(panels, title, error=self.error)
        path = self.folder / f"update_{num_updates:07d}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        save_png(figure, path)
        if self.writer is not None:
            self.writer.add_image("reconstruction", to_image(figure), num_updates, dataformats="HWC")
            self.writer.flush()
        return path
