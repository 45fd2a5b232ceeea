"""Panels of what a network makes of hidden tokens: in the log-mel that it predicts, whatever its targets are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("matplotlib")

from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder, in_scale_of, standardised
from mae_ast_plugin.nn.masking import MaskRequest, MaskSettings, random_mask
from mae_ast_plugin.view.pretraining import reconstruction_panels, scale_of

SPECTROGRAM = 5 + 3 * torch.randn(2, 32, 16, generator=torch.Generator().manual_seed(0))


def network(**changes: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = ModelSettings(
        ast_kernel_size_chan=4, ast_kernel_size_time=4, ast_kernel_stride_chan=4, ast_kernel_stride_time=4,
        encoder_layers=1, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16, encoder_ffn_embed_dim=32,
        encoder_attention_heads=2, input_norm="fixed", input_mean=5.0, input_std=3.0, two_heads=False, **changes,
    )  # fmt: skip
    return autoencoder_of(model, 16).eval()


class Oracle(nn.Module):
    """A head that says what it was told, so that the rebuilt spectrogram is the original."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, hidden: Tensor) -> Tensor:
        return self.answer


@pytest.mark.parametrize("standard_targets", [False, True])
@pytest.mark.parametrize("raw_targets", [False, True])
def test_perfect_predictions_rebuild_the_original(standard_targets: bool, raw_targets: bool) -> None:
    net = network(standard_targets=standard_targets, raw_targets=raw_targets)
    clips = net.cut(SPECTROGRAM)
    request = MaskRequest(torch.tensor([1, 2]), 1, clips.num_tokens, clips.patches.shape[1])
    mask = random_mask(request, MaskSettings())
    net.reconstruct = Oracle(net(clips, mask).target)
    expected = SPECTROGRAM if raw_targets else (SPECTROGRAM - 5) / 3
    for row, panel in enumerate(reconstruction_panels(net, clips, mask, ["one", "two"])):
        np.testing.assert_allclose(panel.original, expected[row].numpy(), atol=1e-5)
        np.testing.assert_allclose(panel.reconstructed, expected[row].numpy(), atol=1e-3)
        assert np.isnan(panel.masked).mean() == 0.75


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, ""), ({"standard_bins": True}, "each mel bin of a clip"), ({"standard_targets": True}, "each reconstructed")],
)
def test_what_is_no_plain_log_mel_is_said(settings: dict[str, bool], said: str) -> None:
    assert scale_of(network(**settings)).startswith(said) and bool(scale_of(network(**settings))) == bool(said)


def test_a_patch_gets_its_scale_back() -> None:
    patches = 2 + 7 * torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(in_scale_of(standardised(patches), patches), patches)
    still = torch.full((1, 1, 9), -1.4)
    torch.testing.assert_close(in_scale_of(standardised(still), still), still)
