"""A full pretraining step against the MAE-AST model that s3prl bundles: ``python benchmarks/step.py`` (needs make
bench-setup).

ViT-base sizes, 8 clips of 10 s, patches of 16 x 16, ratio 0.75; from waveforms to the optimiser's step. The peer
computes its fbank a clip at a time and draws its masks in Python, as it was published; the loss and the optimiser are
the same for both. The last line sets ours in bfloat16 beside the peer in float32: not the same work.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import torch
from peers import s3prl_mae_ast, torchaudio_kaldi
from timing import compare, set_threads
from torch import Tensor

from mae_ast_plugin.audio.frontend import make_frontend
from mae_ast_plugin.methods.build import autoencoder_of, mask_settings_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.nn.losses import info_nce, reconstruction_errors
from mae_ast_plugin.nn.masking import MASKERS, MaskRequest

CLIPS, SECONDS = 8, 10


def joint_loss(reconstructed: Tensor, classified: Tensor, target: Tensor) -> Tensor:
    return 10 * reconstruction_errors(reconstructed, target).mean() + info_nce(classified, target).mean()


class Ours:
    """This package's step."""

    def __init__(self, model: ModelSettings, task: TaskSettings) -> None:
        self.frontend = make_frontend()
        self.network = autoencoder_of(model, 128)
        self.masker, self.mask_settings = MASKERS[task.mask_type], mask_settings_of(model)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.precision = getattr(torch, model.precision)

    def step(self, waveforms: Tensor) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision is torch.bfloat16):
            clips = self.network.cut(self.frontend(waveforms))
            request = MaskRequest(
                torch.arange(CLIPS), 1, clips.num_tokens, clips.patches.shape[1], self.network.tokens.num_chan
            )
            predictions = self.network(clips, self.masker(request, self.mask_settings))
        return update(self.optimiser, joint_loss(predictions.reconstructed, predictions.classified, predictions.target))


class Theirs:
    """The bundled model with its fbank per clip."""

    def __init__(self, model: ModelSettings, task: TaskSettings) -> None:
        self.kaldi, published = torchaudio_kaldi(), s3prl_mae_ast()
        sizes = {**asdict(model), "max_token_length": 1024}
        self.network = published.MAE_AST(SimpleNamespace(**sizes), SimpleNamespace(**asdict(task)))
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)

    def step(self, waveforms: Tensor) -> float:
        features = torch.stack([self.kaldi.fbank(wave[None], num_mel_bins=128, use_energy=False) for wave in waveforms])
        padding = torch.zeros(features.shape[:2], dtype=torch.bool)
        result = self.network(features, padding_mask=padding, mask=True)
        logits = (result["logit_m_list_recon"], result["logit_m_list_class"], result["target_m_list"])
        return update(self.optimiser, joint_loss(*logits))


def update(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def main() -> None:
    set_threads()
    waveforms = torch.rand(CLIPS, SECONDS * 16000, generator=torch.Generator().manual_seed(0)) - 0.5
    kinds = (("random_mask", "float32"), ("chunk_mask", "float32"), ("random_mask", "bfloat16"))
    for mask_type, precision in kinds:
        model, task = ModelSettings(precision=precision), TaskSettings(mask_type=mask_type)
        torch.manual_seed(0)
        ours, theirs = partial(Ours(model, task).step, waveforms), partial(Theirs(model, task).step, waveforms)
        print(f"loss at the start: ours {ours():.3f}, s3prl {theirs():.3f}")
        compare(f"step, {mask_type}, ours in {precision}", ours, theirs, "s3prl mae_ast", 1.3)


if __name__ == "__main__":
    main()
