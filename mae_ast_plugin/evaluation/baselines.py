"""What a pretrained encoder is compared with: the same network without training."""

from __future__ import annotations

import torch

from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of


def random_twin(encoder: AudioEncoder, seed: int = 0) -> AudioEncoder:
    """Give the same network fresh random weights; the input's mean and variance, which are no learning, are kept."""
    if encoder.checkpoint is None:
        raise PlainError("this encoder was not loaded from a checkpoint, so its settings are not known")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = autoencoder_of(encoder.checkpoint.model, encoder.frontend.num_features)
    network.norm.load_state_dict(encoder.network.norm.state_dict())
    twin = AudioEncoder(
        frontend_of(encoder.checkpoint.task),
        network,
        encoder.checkpoint,
        columns=encoder.columns,
        window_seconds=encoder.window_seconds,
        batch_seconds=encoder.batch_seconds,
        precision=encoder.precision,
    )
    return twin.eval().to(encoder.device)
