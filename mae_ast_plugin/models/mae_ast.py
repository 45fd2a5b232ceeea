"""The masked autoencoder as a fairseq model: waveforms in, predictions of hidden patches out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor

from mae_ast_plugin.methods.build import autoencoder_of, frontend_of, mask_settings_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, from_mapping
from mae_ast_plugin.methods.statistics import read_statistics
from mae_ast_plugin.nn.autoencoder import Clips, Predictions
from mae_ast_plugin.nn.masking import MASKERS, MaskRequest, TokenMask
from mae_ast_plugin.nn.normalization import FixedNorm

# turns the seeds of one mask into those of another
OTHER_PASS = 0x5EED


@dataclass
class MaskedAutoencoderConfig(FairseqDataclass, ModelSettings):
    """``model.*`` for fairseq."""


@register_model("mae_ast", dataclass=MaskedAutoencoderConfig)
class MaskedAutoencoderModel(BaseFairseqModel):
    """Front end, masks and network of one method; the front end always computes in float32."""

    def __init__(self, model: ModelSettings, task: TaskSettings) -> None:
        super().__init__()
        self.frontend = frontend_of(task)
        self.autoencoder = autoencoder_of(model, self.frontend.num_features)
        if model.input_norm == "fixed" and model.input_statistics:
            self.autoencoder.norm = FixedNorm(*read_statistics(model.input_statistics, self.frontend.num_features))
        self.masker = MASKERS[task.mask_type]
        self.mask_settings = mask_settings_of(model)
        self.two_passes = model.two_passes
        self.vary_filters = task.vary_filters
        self.precision = getattr(torch, model.precision)

    @classmethod
    def build_model(cls, cfg: Mapping[str, Any], task: Any) -> MaskedAutoencoderModel:
        return cls(from_mapping(ModelSettings, cfg), task.settings)

    def max_positions(self) -> None:
        """Positions grow as needed."""

    def cut(
        self,
        lengths: Sequence[int],
        waveforms: Tensor | None = None,
        features: Tensor | None = None,
        weight: float = 1.0,
        seed: int | None = None,
    ) -> Clips:
        """Compute features where the batch has none and cut them into tokens; ``lengths`` in samples.

        In training ``seed`` varies the features, where that is wanted.
        """
        frames = [self.frontend.num_frames(length) for length in lengths]
        if features is None:
            assert waveforms is not None, "a batch holds waveforms or features"
            varied = self.training and self.vary_filters
            features = self.frontend(waveforms, lengths, seed if varied else None)
        return self.autoencoder.cut(features, frames, weight)

    def draw_mask(self, clips: Clips, clip_seeds: Tensor, batch_seed: int) -> TokenMask:
        """Draw the mask that belongs to these seeds."""
        request = MaskRequest(
            clip_seeds, batch_seed, clips.num_tokens, clips.patches.shape[1], self.autoencoder.tokens.num_chan
        )
        return self.masker(request, self.mask_settings)

    def forward(
        self,
        lengths: Sequence[int],
        clip_seeds: Tensor,
        batch_seed: int,
        weight: float = 1.0,
        waveforms: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Predictions, Predictions]:
        """Predict the hidden patches: the pass to be reconstructed and the one to be classified, often the same."""
        with torch.autocast(clip_seeds.device.type, dtype=torch.bfloat16, enabled=self.precision is torch.bfloat16):
            clips = self.cut(lengths, waveforms, features, weight, batch_seed)
            reconstruction = self.autoencoder(clips, self.draw_mask(clips, clip_seeds, batch_seed))
            if not self.two_passes:
                return reconstruction, reconstruction
            other = self.draw_mask(clips, clip_seeds ^ OTHER_PASS, batch_seed ^ OTHER_PASS)
            return reconstruction, self.autoencoder(clips, other)
