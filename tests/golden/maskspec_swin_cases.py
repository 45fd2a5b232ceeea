"""What the case of MaskSpec's Swin variant defines and how our code gives it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from case import Case
from maskspec_published import convention_of, drop, image, own, stretched
from ssast_cases import frequency_major
from torch import Tensor
from torch.nn import functional as F

from mae_ast_plugin.audio import emphasised
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.methods import maskspec_swin
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.method import Foreign, methods
from mae_ast_plugin.methods.settings import CriterionSettings
from mae_ast_plugin.nn.autoencoder import Clips
from mae_ast_plugin.nn.masking import MaskRequest, TokenMask, _by_share, scatter_tokens
from mae_ast_plugin.nn.normalization import FixedNorm
from mae_ast_plugin.nn.staged import StagedAutoencoder

CRITERION = CriterionSettings(
    reconstruction_weight=1.0, reconstruction_error="absolute", classification_weight=0.0, average_over="batches"
)


class Published:
    """The case's checkpoint as our network, with the case's statistics, and the way back to its names."""

    def __init__(self, case: Case) -> None:
        content = torch.load(case.checkpoint, weights_only=True)
        self.tensors = content.pop("model")
        found = Foreign(str(case.folder), self.tensors, content)
        if [name for name, method in methods().items() if method.recognises(found)] != ["maskspec_swin"]:
            case.problems.append("the checkpoint is not recognised")
        num_bins, num_frames = case.config["model"]["img_size"]
        model, self.task = maskspec_swin.settings_for(found, num_bins)
        # where no windows are shifted, the length is not told
        self.model = replace(model, window_columns=num_frames // model.ast_kernel_size_time)
        if "layers.0.blocks.1.attn_mask" in self.tensors and self.model != model:
            case.problems.append("the columns are not told from the windows")
        self.names = maskspec_swin.METHOD.names(self.model, self.task)
        state, unknown = self.names.to_ours(self.tensors)
        case.problems += [f"{name}: not known" for name in unknown]
        back = self.names.to_theirs(state)
        kept = {name: tensor for name, tensor in self.tensors.items() if not self.names.is_unused(name)}
        if back.keys() != kept.keys() or any(not torch.equal(back[name], kept[name]) for name in kept):
            case.problems.append("the checkpoint does not come back as it was")
        network = autoencoder_of(replace(self.model, input_statistics=""), self.task.feature_dim)
        assert isinstance(network, StagedAutoencoder)
        network.norm = FixedNorm(case.input["frame_mean"], case.input["frame_std"])
        missing, unexpected = network.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"norm.mean", "norm.deviation", "decoder_mask_token"}, missing
        self.network = network.eval()  # no share of the clips is left out, as in the case
        self.num_chan, self.columns = network.tokens.num_chan, self.model.window_columns

    def theirs(self, ours: Tensor) -> Tensor:
        """Numbers of our patches in the original's count."""
        return ours % self.num_chan * self.columns + ours // self.num_chan

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by the original's names."""
        return self.names.to_theirs({n: p.grad for n, p in self.network.named_parameters() if p.grad is not None})


def check(case: Case) -> None:
    """Compare everything the case defines."""
    published = Published(case)
    network, hidden_near = published.network, own(case, "hidden_abs")
    _check_sizes(case, published)
    clips = network.cut(_features(case, published), is_normalized=True)
    mask = _check_mask(case, published)
    hidden_near("patch_tokens", frequency_major(network.embed_norm(network.embed(clips.patches)), published.num_chan))
    encoded = network.encode(clips, mask)
    _check_stages(case, network, encoded.stack.hidden)
    assert network.reconstruct is not None
    patches = network.patches_of(network.reconstruct(encoded.stack.last))
    hidden_near("reconstruction", image(network.tokens.unpatchify(patches)))
    _check_learning(case, published, clips, mask)
    _check_classifier(case, published, clips)
    drop(case, "about", "precision", "notes", "tolerances")


def _check_sizes(case: Case, published: Published) -> None:
    """All that the checkpoint's shapes tell, and how the windows shrink and shift."""
    model, config, network = published.model, case.config["model"], published.network
    stages = [list(stage.layers) for stage in network.encoder.each_stage]
    found = {
        "img_size": [published.task.feature_dim, network.tokens.num_frames(published.columns)],
        "patch_size": model.ast_kernel_size_chan,
        "embed_dim": model.encoder_embed_dim,
        "depths": [len(layers) for layers in stages],
        "num_heads": [layers[0].attention.num_heads for layers in stages],
        "window_size": max(model.attention_window, config["window_size"] if _shrinks(config) else 0),
        "mlp_ratio": model.encoder_ffn_embed_dim / model.encoder_embed_dim,
        "layer_norm_eps": model.norm_eps,
        "encoder_stride": network.encoder.factor * model.ast_kernel_size_chan,
        "mask_ratio": model.random_mask_prob,
        "per_stage": [
            {
                "resolution": list(layers[0].size),
                "window_and_shift": [[layer.window, layer.shift] for layer in layers],
            }
            for layers in stages
        ],
    }
    for name, value in found.items():
        if value != config[name]:
            case.problems.append(f"model.{name}: {value}, not {config[name]}")


def _shrinks(config: dict[str, Any]) -> bool:
    """Whether the first stage has no room for whole windows: its tables are smaller then, and tell less."""
    return min(config["img_size"]) // config["patch_size"] < int(config["window_size"])


def _features(case: Case, published: Published) -> Tensor:
    """Normalised features (B, T, F) of a whole window."""
    convention, task = convention_of(case.config["frontend"]), published.task
    features: Tensor = convention(case.input["waveform"][:, 0])
    own(case, "normalized_features_abs")("normalized_features", image(published.network.norm(features)))
    found: dict[str, Any] = {
        "sample_rate": task.sample_rate,
        "n_fft": convention.fft_size,
        "win_length": convention.sample_rate * emphasised.WINDOW_MS // 1000,
        "hop_length": convention.hop,
        "n_mels": task.feature_dim,
        "fmin": 0.0,
        "fmax": convention.highest_hz,
    }
    for name, value in found.items():
        case.scalar(f"frontend.{name}", value)
    drop(case, "frontend")
    case.scalar("feature_frames", features.shape[1])
    return stretched(case, published.network.norm(features), case.config["model"]["img_size"][1])


def _check_mask(case: Case, published: Published) -> TokenMask:
    """The mask that the original's noise (B, N) gives, by patches and by the values of the spectrogram."""
    network, noise = published.network, case.input["noise"]
    num_tokens = noise.shape[1]
    ours = noise.gather(1, published.theirs(torch.arange(num_tokens)).expand_as(noise))
    place = ours.argsort(dim=1).argsort(dim=1)
    counts = [num_tokens] * len(noise)
    request = MaskRequest(torch.zeros(len(noise), dtype=torch.long), 0, counts, num_tokens, published.num_chan)
    mask = _by_share(num_tokens - 1 - place, request, published.model.random_mask_prob)
    case.scalar("num_patches", mask.num_tokens)
    case.scalar("num_masked", mask.num_hidden[0])
    ones = torch.ones(len(noise), mask.num_hidden[0], network.tokens.patch_size)
    hidden = scatter_tokens(ones, mask.hidden, num_tokens, torch.zeros(network.tokens.patch_size))
    case.compare("patch_mask", frequency_major(hidden, published.num_chan)[..., 0])
    case.compare("pixel_mask", image(network.tokens.unpatchify(hidden)))
    return mask


def _check_stages(case: Case, network: StagedAutoencoder, hidden: list[Tensor]) -> None:
    """What leaves each stage, its merging included."""
    done = 0
    for number, stage in enumerate(network.encoder.each_stage):
        done += len(stage.layers)
        rows, columns = stage.layers[0].size
        grid = hidden[done - 1].unflatten(1, (columns, rows)).transpose(1, 2)
        own(case, "hidden_abs")(f"stage_{number}", (grid if stage.merge is None else stage.merge(grid)).flatten(1, 2))


def _check_learning(case: Case, published: Published, clips: Clips, mask: TokenMask) -> None:
    """Both losses with their gradients; those of the targets that are cut anew."""
    network, share = published.network, case.config["tolerances"]["gradient_norm_rel"]
    trained: set[str] = set()
    for kind in ("plain", "norm"):
        network.standard_bins = kind == "norm"
        network.zero_grad()
        predictions = network(network.cut(clips.normalized, is_normalized=True), mask)
        loss = MaskedPredictionCriterion(CRITERION).losses(predictions, len(clips.patches))[0]
        own(case, "loss_rel")(f"loss_{kind}", loss.reshape(1))
        loss.backward()
        gradients = published.gradients()
        trained |= set(gradients)
        for name, wanted in case.config["gradient_norms"][kind].items():
            case.scalar(f"gradient_norms.{kind}.{name}", float(gradients[name].norm()), within=share * wanted)
        for name in [name for name in case.expected if name.startswith(f"grad_{kind}.")]:
            wanted_norm = float(case.expected[name].norm())
            case.within(name, gradients[name.removeprefix(f"grad_{kind}.")], {"atol": share * wanted_norm})
    parameters = [name for name, tensor in published.tensors.items() if tensor.is_floating_point()]
    unused = [name for name in parameters if name not in trained and not name.endswith("attn_mask")]
    case.scalar("unused_in_pretraining", unused)


def _check_classifier(case: Case, published: Published, clips: Clips) -> None:
    """The encoder without mask and the original's linear layer behind the average of its tokens."""
    average = published.network.encode(clips).stack.last.mean(dim=1)
    logits = F.linear(average, published.tensors["head.weight"], published.tensors["head.bias"])
    own(case, "logits_abs")("classifier_logits", logits)
    alone = {n: t for n, t in published.tensors.items() if n != "mask_token" and not n.startswith("decoder.")}
    found = Foreign(str(case.folder), alone)
    model, task = maskspec_swin.settings_for(found, published.task.feature_dim)
    model = replace(model, window_columns=published.columns)
    if not maskspec_swin.METHOD.recognises(found) or not model.embeds_only:
        case.problems.append("the classifier is not recognised")
    encoder = autoencoder_of(replace(model, input_statistics=""), task.feature_dim)
    needed, behind = published.names.to_theirs(encoder.state_dict()).keys(), {"head.weight", "head.bias"}
    stored = {name for name in published.tensors if not published.names.is_unused(name)} | behind
    case.scalar("classifier_load.missing", sorted((needed | behind) - stored))
    case.scalar("classifier_load.unexpected", [name for name in published.tensors if name in stored - needed - behind])
