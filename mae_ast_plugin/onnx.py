"""A pretrained network with its front end as one ONNX file: waveforms in, frames and hidden states out.

The graph is traced from the modules of :class:`AudioEncoder` themselves; nothing of the network is written a second
time. What the file gives is compared with PyTorch by :func:`check_onnx`. Needs the extra ``onnx``.
"""

from __future__ import annotations

import copy
import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mae_ast_plugin.encoder import COLUMNS, AudioEncoder
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.nn.autoencoder import Positions
from mae_ast_plugin.nn.positions import SinusoidPositions, sinusoid_frequencies, sinusoid_rows, sinusoid_table

OPSET = 20  # the first whose DFT takes the axis as an input; onnxruntime 1.17 and later run it
INPUT, OUTPUTS = "waveform", ("frames", "hidden_states")


class EndlessSinusoid(SinusoidPositions):
    """The same positions, computed in the graph for any number of tokens instead of looked up in a table that grows.

    Of a table that came with a checkpoint the first ``most`` rows are kept where they differ from the computed ones.
    """

    def __init__(self, positions: SinusoidPositions, most: int) -> None:
        super().__init__(positions.dim)
        rows = positions.table[:most]
        differs = (rows != sinusoid_table(len(rows), self.dim).to(rows)).any(dim=1).nonzero()
        self.table = rows[: int(differs[-1]) + 1 if len(differs) else 0].clone()
        self.frequency: Tensor
        # computed here, for another runtime's exp may round otherwise, and a late position multiplies that
        self.register_buffer("frequency", sinusoid_frequencies(self.dim), persistent=False)

    def forward(self, num_tokens: int, padding: Tensor | None = None) -> Tensor:
        stored = self.table.shape[0]
        position = torch.arange(stored, stored + num_tokens, device=self.table.device).float()
        rows = sinusoid_rows(position, self.frequency)
        return (torch.cat([self.table, rows])[:num_tokens] if stored else rows)[None]


class WaveformNetwork(nn.Module):
    """What the file holds: waveforms (B, S) to frames (B, T, W) and hidden states (L + 1, B, T, W)."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.frontend, self.network, self.columns = encoder.frontend, encoder.network, encoder.columns
        given = encoder.network.encoder_positions
        most = encoder.num_steps(int(encoder.window_seconds * encoder.sample_rate)) * self._tokens_per_step(encoder)
        self.positions = Positions(given.sinusoid and EndlessSinusoid(given.sinusoid, most), given.conv)

    @staticmethod
    def _tokens_per_step(encoder: AudioEncoder) -> int:
        return encoder.network.tokens.num_chan // encoder.steps_per_column

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        patches = network.tokens.patchify(network.norm(self.frontend(waveform)))
        tokens = self.positions(network.embed(patches), None)
        stack = network.encoder(tokens)
        frames, *hidden = (
            COLUMNS[self.columns](states, network.tokens.num_chan) for states in (stack.last, tokens, *stack.hidden)
        )
        return frames, torch.stack(hidden)


def export_onnx(encoder: AudioEncoder, path: Path) -> None:
    pass
