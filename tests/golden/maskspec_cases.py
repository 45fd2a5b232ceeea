"""What each kind of MaskSpec case defines and how our code gives it. Kinds are told by their contents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

import maskspec_swin_cases
import torch
from case import Case
from maskspec_data import check_reading, check_weights
from maskspec_published import Published, convention_of, drop, image, own, stretched
from optimizer_cases import check_groups, mae_groups, step_of_adamw
from ssast_cases import frequency_major, their_values
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.audio import emphasised
from mae_ast_plugin.audio.emphasised import EmphasisedMel
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.methods import maskspec
from mae_ast_plugin.methods.method import Foreign
from mae_ast_plugin.methods.settings import CriterionSettings
from mae_ast_plugin.methods.statistics import TABLES
from mae_ast_plugin.nn.autoencoder import Clips, Encoded, MaskedAutoencoder, standardised
from mae_ast_plugin.nn.masking import MaskRequest, TokenMask, _by_share
from mae_ast_plugin.nn.normalization import FixedNorm
from mae_ast_plugin.nn.positions import sincos_grid

CRITERION = CriterionSettings(reconstruction_weight=1.0, classification_weight=0.0, average_over="batches")
POSITIONS = re.compile(r"d(\d+)_(\d+)x(\d+)")


def check(case: Case) -> str | None:
    """Compare everything a case defines; returns a reason where the case has to wait."""
    kind = case.config.get("model", {}).get("kind")
    if "mel_basis" in case.expected:
        _check_frontend(case)
    elif any(name.startswith("frame_mean_") for name in case.expected):
        _check_statistics(case)
    elif case.expected and all(POSITIONS.fullmatch(name) for name in case.expected):
        _check_positions(case)
    elif kind == "mae":
        _check_pretraining(case)
    elif kind == "vit_classifier":
        _check_classifier(case)
    elif kind == "simmim_swin":
        maskspec_swin_cases.check(case)
    elif "layer_decay" in case.config:
        check_groups(case)
    elif "class_count" in case.expected:
        check_weights(case)
    elif any(case.folder.glob("*.hdf")):
        check_reading(case)
    return None


# ---- front end


def _check_frontend(case: Case) -> None:
    config, features_near = case.config, own(case, "features_abs")
    convention, waves = convention_of(config), case.input["waveform"][:, 0]
    emphasised_wave = waves[:, 1:] - convention.preemphasis * waves[:, :-1]  # type: ignore[operator]
    features_near("preemphasized", emphasised_wave)
    length = config["win_length"]
    skipped = (convention.fft_size - length) // 2
    features_near("window", convention.window[skipped : skipped + length])
    if bool(convention.window[:skipped].any() or convention.window[skipped + length :].any()):
        case.problems.append("window: is longer")
    features_near("mel_basis", convention.filters.T)
    draw = config["train_draw"]
    low, high = float(draw["fmin_offset"]), convention.highest_hz + emphasised.HIGH_SPREAD_HZ / 2 - draw["fmax_draw"]
    varied = convention.filters_between(low, high)
    features_near("mel_basis_train_draw", varied.T)
    padded = F.pad(emphasised_wave[:, None], (convention.reach, convention.reach), mode="reflect")[:, 0]
    power = convention._power(padded.unfold(-1, convention.fft_size, convention.hop))
    wanted = case.expected["power_spectrum"]
    share = config["tolerances"]["power_rel"]
    # where almost nothing is left of large values, rounding is
    allowed = {"atol": share * share * float(wanted.max()), "rtol": share}
    case.within("power_spectrum", image(power[: len(wanted)]), allowed)
    features = convention(waves)
    features_near("features", image(features))
    # five times as large as the features, as the error is; the original itself is 9e-5 off its own formulas in float64
    scaled = {"atol": emphasised.SCALE * config["tolerances"]["features_abs"]}
    case.within("log_mel", image(features * emphasised.SCALE - emphasised.OFFSET), scaled)
    features_near("features_train_draw", image(convention(waves, None, varied)))
    features_near("features_spec_masked", _hidden_bands(image(features), config["spec_masks"]["spans"]))
    norm = FixedNorm(case.input["frame_mean"], case.input["frame_std"])
    own(case, "normalized_features_abs")("normalized", image(norm(features)))
    _check_half_precision(case, convention, image(features))
    found = {
        "sample_rate": convention.sample_rate,
        "n_fft": convention.fft_size,
        "win_length": convention.sample_rate * emphasised.WINDOW_MS // 1000,
        "hop_length": convention.hop,
        "n_mels": convention.num_features,
        "preemphasis": convention.preemphasis,
        "fmin": 0.0,
        "fmax": convention.highest_hz,
        "train_draw.fmin": low,
        "train_draw.fmax": high,
        "all_zero_mel_filters": int((convention.filters == 0).all(dim=0).sum()),
    }
    for name, value in found.items():
        case.scalar(name, value)
    described = ("window", "stft_center", "stft_pad", "power", "mel_scale", "log", "affine", "normalisation")
    drop(case, *described, "train_draw", "spec_masks", "fp16_note", "tolerances")


def _hidden_bands(image: Tensor, spans: list[list[int]]) -> Tensor:
    """Fine-tuning's masks: a logarithm of 0 in a band of frequencies and one of time of each clip."""
    hidden = torch.zeros_like(image, dtype=torch.bool)
    for row, (first_bin, last_bin, first_frame, last_frame) in zip(hidden, spans, strict=True):
        row[first_bin:last_bin] = True
        row[:, first_frame:last_frame] = True
    return image.masked_fill(hidden, emphasised.OFFSET / emphasised.SCALE)


def _check_half_precision(case: Case, convention: EmphasisedMel, features: Tensor) -> None:
    """What the original's mixed precision makes of the waveform: here all is float32, so it is rounded in the test."""
    half = case.input["waveform"][:, 0].half().float()
    factor = torch.tensor(convention.preemphasis).half().float()
    emphasised_wave = (half[:, 1:] - factor * half[:, :-1]).half().float()
    padded = F.pad(emphasised_wave[:, None], (convention.reach, convention.reach), mode="reflect")[:, 0]
    rounded = image(convention.compression(convention._mel(padded, convention.filters), None))
    own(case, "features_abs")("features_fp16_emulated", rounded)
    difference = (rounded - features).abs()
    within = case.config["tolerances"]["features_abs"]
    case.scalar("fp16_max_abs_diff", float(difference.max()), within=within)
    case.scalar("fp16_mean_abs_diff", float(difference.mean()), within=within)


def _check_statistics(case: Case) -> None:
    """The published means and deviations, which the program brings along."""
    for name in [name for name in case.expected if name.startswith("frame_mean_")]:
        size = name.removeprefix("frame_mean_")
        table = json.loads(TABLES[maskspec.STATISTICS.format(size)].read_text())
        ours = {"frame_mean": "mean", "frame_std": "std", "all_mean": "clip_mean", "all_std": "clip_std"}
        for theirs, key in ours.items():
            case.within(
                f"{theirs}_{size}", torch.tensor(table[key]).reshape(case.expected[f"{theirs}_{size}"].shape), {}
            )
    drop(case, "keys")


def _check_positions(case: Case) -> None:
    for name in list(case.expected):
        dim, rows, columns = map(int, POSITIONS.fullmatch(name).groups())  # type: ignore[union-attr]
        table = sincos_grid(columns, rows, dim).transpose(0, 1).flatten(0, 1)
        case.within(name, torch.cat([torch.zeros(1, dim), table]), {"atol": case.config["tolerances"]["abs"]})
    drop(case, "keys", "tolerances")


# ---- pretraining


def _mask_of(case: Case, published: Published) -> tuple[TokenMask, Tensor]:
    """The mask that the original's noise (B, N) gives, and that noise in our order."""
    noise = case.input["noise"]
    ours = noise.gather(1, published.theirs(torch.arange(noise.shape[1])).expand_as(noise))
    place = ours.argsort(dim=1).argsort(dim=1)
    counts = [noise.shape[1]] * len(noise)
    request = MaskRequest(torch.zeros(len(noise), dtype=torch.long), 0, counts, noise.shape[1], published.num_chan)
    return _by_share(noise.shape[1] - 1 - place, request, published.model.random_mask_prob), ours


def _check_masks(case: Case, published: Published, mask: TokenMask, noise: Tensor) -> Tensor:
    """Compare kept and hidden patches; returns the order that the original has the visible ones in."""
    order, behind = (noise.gather(1, index).argsort(dim=1) for index in (mask.visible, mask.hidden))
    kept, hidden = (
        published.theirs(index.gather(1, places)) for index, places in ((mask.visible, order), (mask.hidden, behind))
    )
    case.compare("ids_keep", kept)
    case.compare("ids_restore", torch.cat([kept, hidden], dim=1).argsort(dim=1))
    case.compare("mask", torch.zeros_like(noise).scatter(1, hidden, 1.0))
    case.scalar("num_patches", mask.num_tokens)
    case.scalar("num_kept", mask.num_visible[0])
    return order


def _reordered(states: Tensor, order: Tensor) -> Tensor:
    """The class token, then the visible tokens in another order."""
    rest = states[:, 1:].gather(1, order[..., None].expand(-1, -1, states.shape[2]))
    return torch.cat([states[:, :1], rest], dim=1)


def _check_pretraining(case: Case) -> None:
    published = Published(case)
    network, num_chan = published.network, published.num_chan
    hidden_near = own(case, "hidden_abs")
    features = published.features(case)
    clips = network.cut(features)
    case.scalar("cropped_frames", network.tokens.num_frames(clips.num_tokens[0] // num_chan))
    mask, noise = _mask_of(case, published)
    order = _check_masks(case, published, mask, noise)
    hidden_near("patch_tokens", frequency_major(network.embed(clips.patches), num_chan))
    encoded = network.encode(clips, mask)
    for number, state in enumerate(encoded.stack.hidden):
        hidden_near(f"encoder_block_{number}", _reordered(state, order))
    hidden_near("latent", _reordered(encoded.stack.last, order))
    decoded = network.decode(encoded.stack.last, clips, mask)
    for number, state in enumerate(decoded.hidden):
        hidden_near(f"decoder_block_{number}", frequency_major(state, num_chan, 1))
    assert network.reconstruct is not None
    prediction = their_values(network.reconstruct(network.own_tokens(decoded.last)), network)
    hidden_near("pred", frequency_major(prediction, num_chan))
    targets = {"target": clips.targets, "target_norm_pix": standardised(clips.targets)}
    for name, target in targets.items():
        # a nearly constant patch is divided by its tiny deviation, so the features' own error grows
        own(case, "hidden_abs")(name, frequency_major(their_values(target, network), num_chan))
    _check_learning(case, published, clips, mask)
    drop(case, "precision", "notes", "tolerances", "frontend")


def _loss(network: MaskedAutoencoder, clips: Clips, mask: TokenMask) -> Tensor:
    return MaskedPredictionCriterion(CRITERION).losses(network(clips, mask), len(clips.patches))[0]


def _check_learning(case: Case, published: Published, clips: Clips, mask: TokenMask) -> None:
    """Both losses with their gradients, and one step of the optimiser for the second."""
    network, tolerances = published.network, case.config["tolerances"]
    trained: list[str] = []
    for kind in ("plain", "norm_pix"):
        network.standard_targets = kind == "norm_pix"
        network.zero_grad()
        loss = _loss(network, clips, mask)
        own(case, "loss_rel")(f"loss_{kind}", loss.reshape(1))
        loss.backward()
        gradients = published.gradients()
        trained = list(gradients)
        share = tolerances["gradient_norm_rel"]
        for name, wanted in case.config["gradient_norms"][kind].items():
            case.scalar(f"gradient_norms.{kind}.{name}", float(gradients[name].norm()), within=share * wanted)
        total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        case.within(f"grad_total_norm_{kind}", total.reshape(1), {"rtol": share})
        for name in [name for name in case.expected if name.startswith(f"grad_{kind}.")]:
            found, wanted_norm = gradients[name.removeprefix(f"grad_{kind}.")], float(case.expected[name].norm())
            case.within(name, found, {"atol": share * wanted_norm})
    case.scalar("frozen_parameters", [name for name in published.tensors if name not in trained])
    _check_step(case, published, trained)
    own(case, "loss_rel")("loss_norm_pix_after_one_step", _loss(network, clips, mask).reshape(1))


def _check_step(case: Case, published: Published, trained: list[str]) -> None:
    """One step of AdamW with the groups that training makes; the case's are in the original's order."""
    options, network = case.config["optimizer"], published.network
    groups = mae_groups(network)
    decays = {
        theirs: group.decays
        for group in groups
        for ours, parameter in group.members.items()
        for theirs in published.names.to_theirs({ours: parameter})
    }
    rates = [group["weight_decay"] for group in options["groups"]]
    named = [[name for name in published.tensors if name in trained and decays[name] == (rate > 0)] for rate in rates]
    found = [{"weight_decay": rate, "params": names} for rate, names in zip(rates, named, strict=True)]
    case.scalar("optimizer.groups", found)
    step_of_adamw(groups, {**options, "weight_decay": max(rates)})
    after = published.names.to_theirs(dict(network.named_parameters()))
    own(case, "hidden_abs")("cls_token_after_one_step", after["cls_token"])
    drop(case, "optimizer")


# ---- classifiers: their encoder is ours, what stands behind it is built here


class Classifier(nn.Module):
    """What the original puts behind the encoder: an average and a norm, or the class token; then a linear layer."""

    def __init__(self, tensors: Mapping[str, Tensor], eps: float) -> None:
        super().__init__()
        classes, width = tensors["head.weight"].shape
        self.fc_norm = nn.LayerNorm(width, eps) if "fc_norm.weight" in tensors else None
        self.head = nn.Linear(width, classes)
        self.load_state_dict({name: t for name, t in tensors.items() if name.startswith(("fc_norm.", "head."))})

    def pool(self, encoded: Encoded, network: MaskedAutoencoder) -> Tensor:
        last = encoded.stack.last
        return last[:, 0] if self.fc_norm is None else self.fc_norm(network.own_tokens(last).mean(dim=1))

    def forward(self, encoded: Encoded, network: MaskedAutoencoder) -> Tensor:
        return self.head(self.pool(encoded, network))  # type: ignore[no-any-return]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": F.binary_cross_entropy_with_logits,
    "soft-target": F.cross_entropy,  # takes shares of the classes as they are
}


def _check_classifier(case: Case) -> None:
    published = Published(case)
    network, num_chan, config = published.network, published.num_chan, case.config["model"]
    head = Classifier(published.tensors, config["layer_norm_eps"])
    normalized = stretched(case, network.norm(published.features(case)), config["img_size"][1])
    columns = network.tokens.num_time(config["target_size"][1])
    case.scalar("columns_used", columns)
    normalized = normalized[:, : network.tokens.num_frames(columns)]
    tokens = torch.arange(network.tokens.num_tokens(normalized.shape[1]))
    case.compare("kept_patch_index", published.theirs(tokens).sort().values)
    grid = network.encoder_positions.grid
    assert grid is not None
    rows = torch.cat([grid.class_rows[None], grid(len(tokens))], dim=1)
    hidden_near, target = own(case, "hidden_abs"), case.input["target"]
    hidden_near("pos_embed_used", frequency_major(rows, num_chan, 1))
    encoded = network.encode(network.cut(normalized, is_normalized=True))
    hidden_near("tokens", frequency_major(encoded.inputs, num_chan, 1))
    for number, state in enumerate(encoded.stack.hidden):
        hidden_near(f"block_{number}", frequency_major(state, num_chan, 1))
    hidden_near("embedding", head.pool(encoded, network))
    logits = head(encoded, network)
    own(case, "logits_abs")("logits", logits)
    own(case, "logits_abs")("probabilities", logits.sigmoid())
    own(case, "loss_rel")("loss_bce_eval", LOSSES["binary"](logits, target).reshape(1))
    own(case, "loss_rel")("loss_softce_eval", LOSSES["soft-target"](logits, target).reshape(1))
    if "train" in case.config:
        _check_classifier_training(case, published, head, normalized)
    if "load_from_pretraining" in case.config:
        _check_start(case, published)
    drop(case, "precision", "notes", "tolerances", "frontend", "train")


def _check_classifier_training(case: Case, published: Published, head: Classifier, normalized: Tensor) -> None:
    """A step with clips that are mixed in pairs, of whose patches some are left out, the same ones in all."""
    network, train = published.network, case.config["train"]
    draw, partner, target = (case.input[name] for name in ("mixup_beta_draw", "mixup_permutation", "target"))
    share = torch.maximum(draw, 1 - draw)[:, None]
    if not torch.allclose(share[:, 0], case.input["mixup_lambda_used"]):
        case.problems.append("mixup_lambda_used: differs")
    mixed_target = share * target + (1 - share) * target[partner]
    case.within("train_mixed_target", mixed_target, {"atol": case.config["tolerances"]["logits_abs"]})
    mixed = share[..., None] * normalized + (1 - share[..., None]) * normalized[partner]
    clips, kept = network.cut(mixed, is_normalized=True), case.input["patchout_kept"]
    num_tokens = clips.num_tokens[0]
    case.problems += [] if len(kept) == num_tokens - train["patchout"] else ["patchout_kept: another number"]
    visible = published.ours(kept, num_tokens // published.num_chan).sort().values.expand(len(mixed), -1)
    hidden = visible.new_empty(len(mixed), 0)
    counts = ((len(kept),) * len(mixed), (0,) * len(mixed))
    encoded = network.encode(clips, TokenMask(visible, hidden, num_tokens, *counts))
    logits = head(encoded, network)
    own(case, "logits_abs")("train_logits", logits)
    loss = LOSSES[train["loss"].split()[0]](logits, mixed_target)
    own(case, "loss_rel")("train_loss", loss.reshape(1))
    loss.backward()
    gradients = published.gradients() | {n: p.grad for n, p in head.named_parameters() if p.grad is not None}
    near = {"rtol": case.config["tolerances"]["gradient_norm_rel"]}
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    case.within("train_grad_total_norm", total.reshape(1), near)
    for name in [name for name in case.expected if name.startswith("train_grad_norm_")]:
        case.within(name, gradients[name.removeprefix("train_grad_norm_")].norm().reshape(1), near)
    for name in [name for name in case.expected if name.startswith("train_grad.")]:
        atol = near["rtol"] * float(case.expected[name].norm())
        case.within(name, gradients[name.removeprefix("train_grad.")], {"atol": atol})


def _check_start(case: Case, published: Published) -> None:
    """Which parts of a pretrained file a classifier takes: all of the encoder but its last norm."""
    folder = case.folder.parent / case.config["load_from_pretraining"]["source_case"]
    found = Foreign(str(folder), torch.load(folder / "checkpoint.pth", weights_only=True)["model"])
    source = maskspec.METHOD.names(*maskspec.settings_for(found, published.task.feature_dim))
    theirs = set(source.to_theirs(source.to_ours(found.tensors)[0]))
    known = set(published.names.to_theirs(published.state))
    behind = {name for name in published.tensors if published.names.is_unused(name)}
    case.scalar("load_from_pretraining.missing", sorted((known | behind) - theirs))
    case.scalar("load_from_pretraining.unexpected", sorted(theirs - known))
    drop(case, "load_from_pretraining")
