"""Published MSM-MAE checkpoints as our network, and its results in the original's order and form."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from case import Case
from ssast_cases import frequency_major, their_values
from torch import Tensor
from torch.nn import functional as F

from mae_ast_plugin.checkpoint import build_network, load_checkpoint
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.encoder import COLUMNS
from mae_ast_plugin.methods import msm_mae
from mae_ast_plugin.methods.settings import CriterionSettings
from mae_ast_plugin.nn.autoencoder import Clips, MaskedAutoencoder
from mae_ast_plugin.nn.masking import TokenMask
from mae_ast_plugin.segments import windows_of

CRITERION = CriterionSettings(reconstruction_weight=1.0, classification_weight=0.0)


def spectrograms(lms: Tensor) -> Tensor:
    """The original's (B, 1, F, T) in our order (B, T, F)."""
    return lms[:, 0].transpose(1, 2)


def images(spectrograms: Tensor) -> Tensor:
    """Ours (B, T, F) in the original's (B, 1, F, T)."""
    return spectrograms.transpose(1, 2)[:, None]


class Published:
    """A checkpoint of the original as our network, and the way back to its names and forms."""

    def __init__(self, case: Case) -> None:
        sizes = case.config["model"]
        (bins, frames), (height, width) = sizes["input_size"], sizes["patch_size"]
        run_folder = case.config.get("run_folder", f"{bins}x{frames}p{height}x{width}_case")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / run_folder / "checkpoint.pth"
            path.parent.mkdir()
            path.symlink_to(case.checkpoint.absolute())
            checkpoint = load_checkpoint(path)
        stored = checkpoint.model
        found = {
            "input_size": [checkpoint.task.feature_dim, stored.max_columns * stored.ast_kernel_size_time],
            "patch_size": [stored.ast_kernel_size_chan, stored.ast_kernel_size_time],
            "grid_size": [checkpoint.task.feature_dim // stored.ast_kernel_size_chan, stored.max_columns],
            "embed_dim": stored.encoder_embed_dim,
            "depth": stored.encoder_layers,
            "decoder_embed_dim": stored.decoder_embed_dim,
            "decoder_depth": stored.decoder_layers,
            "mlp_ratio": stored.encoder_ffn_embed_dim // stored.encoder_embed_dim,
            "layer_norm_eps": stored.norm_eps,
            "use_cls_token": bool(stored.class_tokens),
            "dec_pos_2d": stored.dec_table_pos == "sincos",
        }
        for name, value in found.items():
            if value != sizes[name]:
                case.problems.append(f"{name}: read {value!r} off the file, expected {sizes[name]!r}")
        # the tiny networks of the cases have narrower heads than any published file
        self.model = replace(
            stored,
            encoder_attention_heads=sizes["num_heads"],
            decoder_attention_heads=sizes["decoder_num_heads"],
            standard_targets=sizes["norm_pix_loss"],
        )
        self.checkpoint = replace(checkpoint, model=self.model)
        self.names = msm_mae.METHOD.names(self.model, checkpoint.task)
        container = torch.load(case.checkpoint, weights_only=True)
        tensors, back = container.get("model", container), self.names.to_theirs(checkpoint.state)
        if back.keys() != tensors.keys() or any(not torch.equal(back[name], tensors[name]) for name in tensors):
            case.problems.append("the checkpoint does not come back as it was")

    def network(self) -> MaskedAutoencoder:
        return build_network(self.checkpoint)


def features_in_windows(network: MaskedAutoencoder, normalized: Tensor) -> tuple[list[Tensor], Tensor]:
    """Outputs of the layers and the last one of the network, windows joined: (B, steps, C D) each."""
    tokens, steps = network.tokens, -(-normalized.shape[1] // network.tokens.stride_time)
    full = tokens.num_frames(network.window_columns)
    pieces = []
    for window in windows_of(0, steps, network.window_columns):
        part = normalized[:, window.first_step * tokens.stride_time :][:, :full]
        frames = [part.shape[1]] * len(part)
        padded = F.pad(part, (0, 0, 0, full - part.shape[1]), value=9.0)  # which must not show
        stack = network.features(network.cut(padded, frames, fill=True, is_normalized=True)).stack
        states = [COLUMNS["join"](network.own_tokens(each), tokens.num_chan) for each in (*stack.hidden, stack.last)]
        pieces.append([each[:, : window.num_steps] for each in states])
    *hidden, last = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
    return hidden, last


class Masked:
    """A pass with the hidden patches of the original, and its results in the original's order.

    ``faithful`` repeats the original's fault without a class token: its decoder loses the first visible patch and gives
    every other one the place before its own (facts: MSM-MAE 11.1).
    """

    def __init__(self, network: MaskedAutoencoder, lms: Tensor, visible: Tensor, faithful: bool = True) -> None:
        self.network = network
        self.clips: Clips = network.cut(spectrograms(lms), is_normalized=True)
        num_chan, total = network.tokens.num_chan, self.clips.patches.shape[1]
        columns = total // num_chan
        ours = (visible % columns) * num_chan + visible // columns
        hides = torch.ones(len(lms), total, dtype=torch.bool).scatter(1, ours, False)
        hidden = hides.nonzero()[:, 1].view(len(lms), -1)
        counts = ((ours.shape[1],) * len(lms), (hidden.shape[1],) * len(lms))
        self.mask = TokenMask(ours, hidden, total, *counts)
        self.encoded = network.encode(self.clips, self.mask)
        last, seen = self.encoded.stack.last, self.mask
        if faithful and not network.num_class:
            last, seen = last[:, 1:], replace(seen, visible=ours[:, :-1])
        assert network.decoder is not None
        self.decoder_inputs, padding = network.decoder_inputs(last, self.clips, seen)
        self.decoded = network.decoder(self.decoder_inputs, padding)

    def theirs(self, states: Tensor) -> Tensor:
        """Rows (B, K + N, D) with class tokens."""
        return frequency_major(states, self.network.tokens.num_chan, self.network.num_class)

    def patches(self, patches: Tensor) -> Tensor:
        """Values of patches (B, N, P)."""
        return frequency_major(their_values(patches, self.network), self.network.tokens.num_chan)

    @cached_property
    def predicted(self) -> Tensor:
        """Our prediction of every patch, visible ones too (B, N, P)."""
        return self.network.reconstruct(self.network.own_tokens(self.decoded.last))

    @property
    def target(self) -> Tensor:
        """What the network is to predict of every patch, by our rule for hidden ones."""
        every = replace(self.mask, hidden=torch.arange(self.mask.num_tokens).expand(len(self.decoded.last), -1))
        return self.network.predict(self.decoded.last, self.clips, every).target

    def loss(self) -> Tensor:
        predictions = self.network.predict(self.decoded.last, self.clips, self.mask)
        loss, size, _ = MaskedPredictionCriterion(CRITERION).losses(predictions, len(predictions.target))
        return loss / size
