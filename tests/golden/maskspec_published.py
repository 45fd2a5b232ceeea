"""Published MaskSpec networks as ours, and what the cases of all kinds are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from case import Case
from torch import Tensor
from torch.nn import functional as F

from mae_ast_plugin.audio import emphasised
from mae_ast_plugin.audio.emphasised import EmphasisedMel
from mae_ast_plugin.methods import maskspec
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.method import Foreign
from mae_ast_plugin.nn.autoencoder import MaskedAutoencoder
from mae_ast_plugin.nn.normalization import FixedNorm


def own(case: Case, name: str) -> Callable[..., None]:
    """A comparison with one of the case's own tolerances: a largest difference, or a share of the value."""
    value = case.config["tolerances"][name]
    tolerance = {"rtol" if name.endswith("_rel") else "atol": value}
    return lambda key, found: case.within(key, found, tolerance)


def drop(case: Case, *sections: str) -> None:
    """Leave aside what only describes the case."""
    case.open_scalars = {k: v for k, v in case.open_scalars.items() if k.split(".")[0] not in sections}


def convention_of(config: Mapping[str, Any]) -> EmphasisedMel:
    """The front end of a case; its edges are ours at evaluation."""
    return EmphasisedMel(config["n_mels"], config["sample_rate"])


def image(features: Tensor) -> Tensor:
    return features.transpose(1, 2)


def stretched(case: Case, normalized: Tensor, num_frames: int) -> Tensor:
    """What the original does with features (B, T, F) that are too short; the program fills them up instead."""
    if normalized.shape[1] >= num_frames:
        return normalized
    size = (normalized.shape[2], num_frames)
    longer = F.interpolate(image(normalized)[:, None], size, mode="bicubic", align_corners=True)[:, 0]
    if "stretched_features" in case.expected:
        own(case, "normalized_features_abs")("stretched_features", longer)
    return image(longer)


class Published:
    """A checkpoint of the original as our network, with the case's statistics, and the way back to its names."""

    def __init__(self, case: Case) -> None:
        content = torch.load(case.folder / "checkpoint.pth", weights_only=True)
        self.tensors = content.pop("model")
        found = Foreign(str(case.folder), self.tensors, content)
        if not maskspec.METHOD.recognises(found):
            case.problems.append("the checkpoint is not recognised")
        config = case.config["model"]
        num_bins = config["img_size"][0]
        model, self.task = maskspec.settings_for(found, num_bins)
        if "decoder_pos_embed" in self.tensors and maskspec._num_bins(found) != num_bins:
            case.problems.append("the mel bins are not told from the positions")
        # the tiny networks of the cases have narrower heads than any published file
        self.model = replace(
            model,
            encoder_attention_heads=config["num_heads"],
            decoder_attention_heads=config.get("decoder_num_heads"),
            random_mask_prob=config.get("mask_ratio", model.random_mask_prob),
            input_statistics="",
        )
        self.names = maskspec.METHOD.names(self.model, self.task)
        self.state, unknown = self.names.to_ours(self.tensors)
        case.problems += [f"{name}: not known" for name in unknown]
        back = self.names.to_theirs(self.state)
        kept = {name: tensor for name, tensor in self.tensors.items() if not self.names.is_unused(name)}
        if back.keys() != kept.keys() or any(not torch.equal(back[name], kept[name]) for name in kept):
            case.problems.append("the checkpoint does not come back as it was")
        self.network = self._network(case)
        self.num_chan = self.network.tokens.num_chan
        self.columns = self.model.max_columns

    def _network(self, case: Case) -> MaskedAutoencoder:
        network = autoencoder_of(self.model, self.task.feature_dim)
        network.norm = FixedNorm(case.input["frame_mean"], case.input["frame_std"])
        missing, unexpected = network.load_state_dict(self.state, strict=False)
        assert not unexpected and set(missing) <= {"norm.mean", "norm.deviation", "encoder_mask_token"}, missing
        return network

    def features(self, case: Case) -> Tensor:
        """Log-mel (B, T, F), compared once it is normalised."""
        convention = convention_of(case.config["frontend"])
        features: Tensor = convention(case.input["waveform"][:, 0])
        own(case, "normalized_features_abs")("normalized_features", image(self.network.norm(features)))
        found = {
            "sample_rate": self.task.sample_rate,
            "n_fft": convention.fft_size,
            "win_length": convention.sample_rate * emphasised.WINDOW_MS // 1000,
            "hop_length": convention.hop,
            "n_mels": self.task.feature_dim,
            "fmin": 0.0,
            "fmax": convention.highest_hz,
        }
        for name, value in found.items():
            case.scalar(f"frontend.{name}", value)
        case.scalar("feature_frames", features.shape[1])
        case.scalar("grid", [self.num_chan, self.columns])
        return features

    def theirs(self, ours: Tensor, columns: int | None = None) -> Tensor:
        """Numbers of our tokens in the original's count of a grid of so many columns."""
        return ours % self.num_chan * (columns or self.columns) + ours // self.num_chan

    def ours(self, theirs: Tensor, columns: int | None = None) -> Tensor:
        """And the other way round."""
        columns = columns or self.columns
        return theirs % columns * self.num_chan + theirs // columns

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by the original's names; its tables of positions that are never trained have none."""
        return self.names.to_theirs({n: p.grad for n, p in self.network.named_parameters() if p.grad is not None})
