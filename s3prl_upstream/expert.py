"""The upstream: s3prl's contract around ``AudioEncoder``, which does everything else.

s3prl hands over a list of waveforms at 16 kHz and takes a dictionary of features that must have exactly
``ceil(longest / rate)`` steps, whereas a network has as many steps as whole patches fit into a clip. The missing ones
at a clip's end repeat its own last step, so that no clip's features depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_ast_plugin import load_model
from mae_ast_plugin.errors import PlainError

from .options import read_options

SAMPLE_RATE = 16000  # s3prl's


class UpstreamExpert(nn.Module):
    """Features for s3prl: ``hidden_states`` (the tokens' embedding, then every layer) and ``last_hidden_state``."""

    def __init__(
        self, ckpt: str | Path | None, model_config: str | Path | Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__()
        if ckpt is None:
            raise PlainError("this upstream needs a checkpoint; give its path with -k (in Python: ckpt=...)")
        self.options = read_options(model_config, options)
        self.encoder = load_model(ckpt, columns=self.options.columns)
        if self.options.decoder:
            encoder, decoder = self.encoder.network.encoder, self.encoder.network.decoder
            if decoder is None:
                raise PlainError(f"{ckpt}: it has no decoder; leave the option decoder out")
            if decoder.settings.dim != encoder.settings.dim:
                raise PlainError(
                    f"{ckpt}: its decoder is {decoder.settings.dim} wide and its encoder {encoder.settings.dim}, and "
                    "s3prl takes layers of one width only; leave the option decoder out"
                )

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Samples (at 16 kHz) between two steps, the same for every key."""
        return round(self.encoder.samples_per_step * SAMPLE_RATE / self.encoder.sample_rate)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Compute features of 1-D waveforms at 16 kHz: (B, ceil(longest / rate), W) each."""
        out = self.encoder(wavs, sample_rate=SAMPLE_RATE, with_decoder=self.options.decoder)
        longest = max(len(wav) for wav in wavs)
        steps = torch.arange(-(-longest // self.get_downsample_rates()), device=out.frames.device)
        own = torch.minimum(steps, out.lengths.to(steps.device)[:, None] - 1)  # (B, steps)

        def laid_out(states: Tensor) -> Tensor:
            return states.gather(1, own[..., None].expand(-1, -1, states.shape[-1]))

        return {
            "hidden_states": [laid_out(states) for states in out.hidden_states],
            "last_hidden_state": laid_out(out.frames),
        }
