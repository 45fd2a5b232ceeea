"""The upstream: s3prl's contract around ``AudioEncoder``, which does everything else.

s3prl hands over a list of waveforms at 16 kHz and takes a dictionary of features that must have exactly
``ceil(longest / rate)`` steps, whereas a network has as many steps as whole patches fit into a clip. The missing ones
at a clip's end repeat its own last step, so that no clip's features depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_ast_plugin.audio.waveforms import as_waveforms
from mae_ast_plugin.checkpoint import Checkpoint, load_checkpoint, regridded
from mae_ast_plugin.encoder import encoder_of
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import frontend_of
from mae_ast_plugin.methods.settings import layers_of_stages
from mae_ast_plugin.methods.stage_limits import stage_problems

from .options import read_options
from .windows import windowed_states

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
        checkpoint = load_checkpoint(ckpt)
        self.window = round(self.options.window_seconds * checkpoint.task.sample_rate)
        if self.window or self.options.stride_time or self.options.stride_chan:
            checkpoint = self._regridded(checkpoint, ckpt)
        self.encoder = encoder_of(checkpoint, columns=self.options.columns)
        if self.options.decoder:
            encoder, decoder = self.encoder.network.encoder, self.encoder.network.decoder
            if decoder is None:
                raise PlainError(f"{ckpt}: it has no decoder; leave the option decoder out")
            if decoder.settings.dim != encoder.settings.dim:
                raise PlainError(
                    f"{ckpt}: its decoder is {decoder.settings.dim} wide and its encoder {encoder.settings.dim}, and "
                    "s3prl takes layers of one width only; leave the option decoder out"
                )

    def _regridded(self, checkpoint: Checkpoint, ckpt: str | Path) -> Checkpoint:
        """The network with the strides that were asked for, and positions for windows where there are any."""
        model, frontend = checkpoint.model, frontend_of(checkpoint.task)
        strides = (
            int(self.options.stride_time) or model.ast_kernel_stride_time,
            int(self.options.stride_chan) or model.ast_kernel_stride_chan,
        )
        # without windows, as long a clip as the network was trained on
        columns = model.window_columns if model.stage_layers else model.max_columns
        frames = model.ast_kernel_size_time + (columns - 1) * model.ast_kernel_stride_time
        found = regridded(checkpoint, *strides, self.window // frontend.hop or frames)
        if self.window and model.stage_layers:
            self._check_stages(checkpoint, found.model.window_columns, ckpt)
        return found

    def _check_stages(self, checkpoint: Checkpoint, columns: int, ckpt: str | Path) -> None:
        """Refuse a window whose grid of patches no stages can be cut from, and say which can."""
        model, frontend = checkpoint.model, frontend_of(checkpoint.task)
        rows, num_stages = frontend.num_features // model.ast_kernel_size_chan, len(layers_of_stages(model))

        def sides(columns: int) -> list[int]:  # of the attention's windows in each stage, which its weights are for
            return [min(model.attention_window, rows >> stage, columns >> stage) for stage in range(num_stages)]

        def fits(columns: int) -> bool:
            other = replace(model, window_columns=columns)
            return sides(columns) == sides(model.window_columns) and not any(
                stage_problems(other, frontend.num_features)
            )

        if fits(columns):
            return
        seconds = model.ast_kernel_stride_time * frontend.hop / frontend.sample_rate
        nearest = min(
            filter(fits, range(1, columns + model.window_columns + 1)), key=lambda count: abs(count - columns)
        )
        raise PlainError(
            f"{ckpt}: window_seconds is {self.options.window_seconds:g}, and its stages cannot be cut from windows of "
            f"{columns} columns of patches; leave the option out for its own windows of "
            f"{model.window_columns * seconds:g} s, or give {nearest * seconds:g}, the nearest that fits"
        )

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Samples (at 16 kHz) between two steps, the same for every key."""
        return round(self.encoder.samples_per_step * SAMPLE_RATE / self.encoder.sample_rate)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Compute features of 1-D waveforms at 16 kHz: (B, ceil(longest / rate), W) each."""
        longest = max(len(wav) for wav in wavs)
        if self.encoder.sample_rate != SAMPLE_RATE:
            wavs = [
                wav.detach() for wav in wavs
            ]  # no gradient passes through resampling; the network's weights get theirs
        if self.window:
            waves = as_waveforms(wavs, SAMPLE_RATE, self.encoder.sample_rate)
            *hidden, last = windowed_states(self.encoder, waves, self.window)
            lengths = torch.full((len(wavs),), last.shape[1], device=last.device)
        else:
            out = self.encoder(wavs, sample_rate=SAMPLE_RATE, with_decoder=self.options.decoder)
            hidden, last, lengths = out.hidden_states, out.frames, out.lengths
        steps = torch.arange(-(-longest // self.get_downsample_rates()), device=last.device)
        own = torch.minimum(steps, lengths.to(steps.device)[:, None] - 1)  # (B, steps)

        def laid_out(states: Tensor) -> Tensor:
            return states.gather(1, own[..., None].expand(-1, -1, states.shape[-1]))

        return {"hidden_states": [laid_out(states) for states in hidden], "last_hidden_state": laid_out(last)}
