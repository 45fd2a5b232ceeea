"""What a pretrained network makes of hidden tokens, as panels to draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mae_ast_plugin.nn.autoencoder import Clips, MaskedAutoencoder, in_scale_of
from mae_ast_plugin.nn.masking import TokenMask, gather_tokens, scatter_tokens
from mae_ast_plugin.view.reconstruction import Panel


def scale_of(network: MaskedAutoencoder) -> str:
    """What the values of its panels are, where they are not those of the log-mel; to be written behind a title."""
    if network.standard_bins:
        return "each mel bin of a clip brought to mean 0 and variance 1"
    if network.standard_targets:
        return "each reconstructed patch with mean and variance of the true one"
    return ""


@torch.no_grad()
def reconstruction_panels(
    network: MaskedAutoencoder, clips: Clips, mask: TokenMask, names: Sequence[str], hop_ms: float = 10.0
) -> list[Panel]:
    """Let ``network`` reconstruct the hidden tokens of ``clips``; one panel each, in the log-mel that it predicts.

    A network that predicts patches of mean 0 and variance 1 cannot be seen so: its patches get those of the true ones.
    """
    predicted = network(clips, mask).reconstructed
    if network.standard_targets:
        predicted = in_scale_of(predicted, gather_tokens(clips.targets, mask.hidden))
    hole = clips.targets.new_full((clips.targets.shape[2],), float("nan"))
    shown = scatter_tokens(gather_tokens(clips.targets, mask.visible), mask.visible, mask.num_tokens, hole)
    guesses = scatter_tokens(predicted.to(shown.dtype), mask.hidden, mask.num_tokens, hole)
    rebuilt = torch.where(shown.isnan(), guesses, shown)
    panels = []
    for row, name in enumerate(names):
        # only the clip's own tokens; patches that overlap a hidden one count as hidden there
        own = clips.num_tokens[row]
        original, masked, reconstructed = (
            network.tokens.unpatchify(patches[row : row + 1, :own].float())[0].cpu().numpy()
            for patches in (clips.targets, shown, rebuilt)
        )
        panels.append(Panel(name, original, masked, reconstructed, hop_ms))
    return panels
