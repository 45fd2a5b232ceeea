"""How weights are drawn where a published system draws them otherwise than the parts do by themselves."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

TOKEN_STD = 0.02
CLASS_STD = 1e-6


def leave(network: nn.Module) -> None:
    """Keep what the parts drew: normal noise of deviation 0.02 in the stacks, torch's own law elsewhere."""


def xavier(network: nn.Module) -> None:
    """Draw every matrix from Xavier's uniform law, empty the offsets, draw learned tokens with deviation 0.02.

    The embedding of patches keeps its offset: it is a convolution in the original, which torch initialises alike.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if name != "embed":
                _empty_offset(module)
    for name, parameter in network.named_parameters():
        if name.endswith(("mask_token", "class_tokens")):
            nn.init.normal_(parameter, std=TOKEN_STD)


def xavier_encoder(network: nn.Module) -> None:
    """Draw the encoder's matrices from Xavier's uniform law, those behind it from normal noise; empty the offsets.

    Mask tokens begin with deviation 0.02, class tokens with almost nothing, a decoder's learned positions with zeros.
    The embedding of patches keeps torch's law for convolutions.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name != "embed":
            if name.startswith("encoder."):
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=TOKEN_STD)
            _empty_offset(module)
    for name, parameter in network.named_parameters():
        if name.endswith("mask_token"):
            nn.init.normal_(parameter, std=TOKEN_STD)
        elif name.endswith("class_tokens"):
            nn.init.normal_(parameter, std=CLASS_STD)
        elif name.startswith("decoder_positions.grid."):
            nn.init.zeros_(parameter)


def normal_throughout(network: nn.Module) -> None:
    """Draw every matrix and learned token from normal noise of deviation 0.02 and empty the offsets.

    The embedding of patches keeps torch's law for convolutions.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name != "embed":
            nn.init.normal_(module.weight, std=TOKEN_STD)
            _empty_offset(module)
    for name, parameter in network.named_parameters():
        if name.endswith(("mask_token", "class_tokens")):
            nn.init.normal_(parameter, std=TOKEN_STD)


def _empty_offset(module: nn.Linear) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)


INITIALIZATIONS: dict[str, Callable[[nn.Module], None]] = {
    "normal": leave,
    "xavier": xavier,
    "xavier_encoder": xavier_encoder,
    "normal_throughout": normal_throughout,
}
