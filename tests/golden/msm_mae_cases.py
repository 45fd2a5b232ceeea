"""What each kind of MSM-MAE case defines and how our code gives it. Kinds are told by their contents."""

from __future__ import annotations

import re
from typing import Any

import torch
from case import Case
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule, CosineLRScheduleConfig
from msm_mae_published import Masked, Published, features_in_windows, images, spectrograms
from omegaconf import OmegaConf
from optimizer_cases import mae_groups, step_of_adamw
from ssast_cases import frequency_major
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.audio.frontend import FrontEnd, make_frontend
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.nn.autoencoder import Clips, MaskedAutoencoder
from mae_ast_plugin.nn.losses import reconstruction_errors
from mae_ast_plugin.nn.masking import count_visible
from mae_ast_plugin.nn.normalization import ClipNorm, FixedNorm

UPDATES_PER_EPOCH = 10000  # enough for the fractions of epochs that the cases ask for to be whole updates


def check(case: Case) -> str | None:
    """Compare everything a case defines; returns a reason where the case has to wait."""
    if "mel_basis" in case.expected:
        _check_front_end(case)
    elif "crop_frames" in case.config:
        _check_items(case)
    elif "hidden_mask" in case.input:
        _check_reconstruction(case)
    elif "noise" in case.input:
        _check_pretraining(case)
    elif any(name.endswith(".timestamp_embeddings") for name in case.expected):
        _check_embeddings(case)
    else:
        _check_encoder(case)
    given = ("tolerances", "seeds", "run_folder", "mask_ratio", "start_frame", "crop_frames", "norm_stats")
    given += ("fixed_stats", "frames", "optimizer_step", "checkpoint")
    case.open_scalars = {name: value for name, value in case.open_scalars.items() if name.split(".")[0] not in given}
    return None


# ---- front end and items


def _front_end(case: Case) -> FrontEnd:
    audio = case.config["audio"]
    frontend = make_frontend("slaney_mel", audio["n_mels"], audio["sample_rate"])
    mel: Any = frontend.convention
    found = {"sample_rate": frontend.sample_rate, "n_fft": mel.fft_size, "hop_length": mel.hop}
    found |= {"win_length": len(mel.window), "n_mels": mel.num_features}
    for name, value in found.items():
        case.scalar(f"audio.{name}", value)
    # the rest of the convention is what the spectrograms are compared for
    case.open_scalars = {name: value for name, value in case.open_scalars.items() if not name.startswith("audio.")}
    return frontend


def _as_one_clip(spectrograms: Tensor) -> Tensor:
    """A batch (B, T, F) as one long clip, whose statistics are the batch's."""
    return spectrograms.flatten(0, 1)[None]


def _check_front_end(case: Case) -> None:
    tolerance, frontend, norm = case.config["tolerances"], _front_end(case), ClipNorm()
    mel: Any = frontend.convention
    case.compare("mel_basis", mel.filters.t(), absolute=tolerance["mel_basis_atol"])
    case.compare("window", mel.window)
    for name in [name.removeprefix("wave_") for name in case.input]:
        waveforms = case.input[f"wave_{name}"]
        waveforms = waveforms.reshape(-1, waveforms.shape[-1])
        features = frontend(waveforms)
        case.compare(f"lms_{name}", images(features), absolute=tolerance["lms_atol"])
        mean_difference = float((images(features) - case.expected[f"lms_{name}"]).abs().mean())
        if mean_difference > tolerance["lms_mean_abs"]:
            case.problems.append(f"lms_{name}: off by {mean_difference:.3g} on average")
        if f"lms_normalised_{name}" in case.expected:
            whole = _as_one_clip(features)
            mean, deviation = norm.statistics(whole)
            case.compare(f"norm_mean_{name}", mean.flatten(), absolute=tolerance["lms_atol"])
            case.compare(f"norm_std_{name}", deviation.flatten(), absolute=tolerance["lms_atol"])
            normalized = norm(whole)[0].view_as(features)
            # what the spectrograms may differ by, in the unit of a quiet clip
            allowed = tolerance["lms_atol"] / min(1.0, float(deviation))
            case.compare(f"lms_normalised_{name}", images(normalized), absolute=allowed)
    for name in [name for name in case.expected if name.startswith("offline_array")]:
        wave, item = re.fullmatch(r"offline_array_of_(\w+)_item_(\d+)", name).groups()  # type: ignore[union-attr]
        alone = frontend(case.input[wave][int(item)][None])
        case.compare(name, images(alone)[0], absolute=tolerance["lms_atol"])


def _check_items(case: Case) -> None:
    """The original pads before it normalises (facts: MSM-MAE 11.16); here padding is masked, so that is done here."""
    tolerance, frames = case.config["tolerances"]["atol"], case.config["crop_frames"]
    mean, deviation = (torch.tensor([value]) for value in case.config["norm_stats"])
    items = {}
    for name, array in case.input.items():
        cropped = array[..., :frames].transpose(1, 2)
        items[name] = F.pad(cropped, (0, 0, 0, frames - cropped.shape[1]))
        normalized = FixedNorm(mean, deviation)(items[name])
        case.compare(f"{name}_item", normalized.transpose(1, 2), absolute=tolerance)
    if "stats_of_four_draws" in case.expected:
        drawn = torch.cat([items[name] for name in ("long", "short", "exact", "exact")])
        mean, deviation = ClipNorm().statistics(_as_one_clip(drawn))
        found = torch.stack([mean.flatten(), deviation.flatten() + 1.19e-7]).flatten()
        case.compare("stats_of_four_draws", found, absolute=tolerance)


# ---- the network


def _tables(case: Case, published: Published) -> None:
    """The tables of the file, and those that a new network begins with."""
    read, new = published.network(), autoencoder_of(published.model, published.checkpoint.task.feature_dim)
    pairs = (("pos_embed", "encoder_positions"), ("decoder_pos_embed", "decoder_positions"))
    for theirs, ours in [pair for pair in pairs if pair[0] in case.expected]:
        for network in (read, new):
            grid: Any = getattr(network, ours).grid
            rows = torch.cat([grid.class_rows, grid.table.flatten(0, 1)])[None]
            ordered = frequency_major(rows, network.tokens.num_chan, network.num_class)
            case.within(theirs, ordered, case.config["tolerances"])


@torch.no_grad()
def _check_encoder(case: Case) -> None:
    published, tolerance = Published(case), case.config["tolerances"]
    network = published.network()
    num_chan, num_class = network.tokens.num_chan, network.num_class
    _tables(case, published)
    clips = network.cut(spectrograms(case.input["lms_unit"]), is_normalized=True)
    encoded = network.features(clips)
    layers = [*encoded.stack.hidden[:-1], encoded.stack.last]  # of the last layer, what the norm makes of it
    found = {
        "patch_tokens": frequency_major(network.embed(clips.patches), num_chan),
        "block0_input": frequency_major(encoded.inputs, num_chan, num_class),
        "encoder_layers": torch.stack([frequency_major(each, num_chan, num_class) for each in layers]),
        "encoder_out": frequency_major(encoded.stack.last, num_chan, num_class),
    }
    inputs = [encoded.inputs, *encoded.stack.hidden]
    for number, (layer, states) in enumerate(zip(network.encoder.layers, inputs, strict=False)):
        attended: Tensor = layer.attention(layer.norm1(states), None)  # type: ignore[operator, union-attr]
        found[f"block{number}_attn_out"] = frequency_major(attended, num_chan, num_class)
    for name, value in found.items():
        if f"unit.{name}" in case.expected:
            case.within(f"unit.{name}", value, tolerance)
    for frames in case.config["frames"]:
        hidden, last = features_in_windows(network, spectrograms(case.input[f"lms_T{frames}"]))
        case.within(f"features_T{frames}", last, tolerance)
        if f"features_layers_T{frames}" in case.expected:
            case.within(f"features_layers_T{frames}", torch.stack([*hidden[:-1], last]), tolerance)
        case.scalar(f"expected_output_frames.{frames}", last.shape[1])
    if last.shape[2] != case.config["feature_dim"]:
        case.problems.append(f"feature_dim: {last.shape[2]}, expected {case.config['feature_dim']}")


# ---- pretraining


def _check_pretraining(case: Case) -> None:
    published, tolerance, noise = Published(case), case.config["tolerances"], case.input["noise"]
    network = published.network().train()
    _tables(case, published)
    shuffle = noise.argsort(dim=1)
    kept = count_visible(noise.shape[1], case.config["mask_ratio"])
    visible = shuffle[:, :kept]
    case.scalar("n_patches", network.tokens.num_tokens(case.input["lms"].shape[3]))
    case.scalar("n_keep", kept)
    case.compare("ids_shuffle", shuffle)
    case.compare("ids_keep", visible)
    case.compare("ids_restore", shuffle.argsort(dim=1))
    masked = Masked(network, case.input["lms"], visible)
    hidden = torch.zeros_like(noise).scatter(1, masked.mask.hidden, 1.0)
    case.compare("mask", frequency_major(hidden[..., None], network.tokens.num_chan)[..., 0])
    errors = reconstruction_errors(masked.predicted, masked.target)
    found = {
        "encoder_block0_input": masked.encoded.inputs,  # class token, then visible patches, as they were drawn
        "latent": masked.encoded.stack.last,
        "decoder_block0_input": masked.theirs(masked.decoder_inputs),
        "decoder_norm_out": masked.theirs(masked.decoded.last),
        "pred": masked.patches(masked.predicted),
        "target_patches": masked.patches(masked.clips.targets),  # before a patch's own normalisation
        "unpatchified_pred": images(network.tokens.unpatchify(masked.predicted)),
        "loss_per_patch": frequency_major(errors[..., None], network.tokens.num_chan)[..., 0],
        "loss": masked.loss().reshape(1),
    }
    if "aligned.loss" in case.expected:
        aligned = Masked(network, case.input["lms"], visible, faithful=False)
        found["aligned.decoder_block0_input"] = aligned.theirs(aligned.decoder_inputs)
        found["aligned.pred"], found["aligned.loss"] = aligned.patches(aligned.predicted), aligned.loss().reshape(1)
    for name in found.keys() & case.expected.keys():
        case.within(name, found[name], tolerance)
    _compare_gradients(case, published, network, masked.loss())
    if "loss_with_norm_pix" in case.expected:
        network.standard_targets = True
        case.within("loss_with_norm_pix", masked.loss().reshape(1), tolerance)
    if "optimizer_step" in case.config:
        _compare_step(case, published, network)
    if "lr_schedule" in case.config:
        _compare_rates(case)


def _compare_gradients(case: Case, published: Published, network: MaskedAutoencoder, loss: Tensor) -> None:
    tolerance = {**case.config["tolerances"], "rtol": case.config["tolerances"]["grad_rtol"]}
    network.zero_grad()
    loss.backward()
    ours = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    theirs = published.names.to_theirs(ours)
    order = case.config["grad_names"]
    case.scalar("grad_names", order if set(order) == set(theirs) else sorted(theirs))
    norms = torch.stack([theirs[name].norm() for name in order])
    case.within("grad_norms", norms, tolerance)
    case.within("grad_total_norm", norms.norm().reshape(1), tolerance)
    for name in [name for name in case.expected if name.startswith("grad.")]:
        case.within(name, theirs[name.removeprefix("grad.")], tolerance)


def _compare_step(case: Case, published: Published, network: MaskedAutoencoder) -> None:
    options, tolerance = case.config["optimizer_step"], case.config["tolerances"]
    step_of_adamw(mae_groups(network), options)
    theirs = published.names.to_theirs({name: p.detach() for name, p in network.named_parameters()})
    norms = torch.stack([theirs[name].norm() for name in case.config["grad_names"]])
    case.within("after_step.param_norms", norms, tolerance)
    for name in [name for name in case.expected if name.startswith("after_step.") and not name.endswith("_norms")]:
        case.within(name, theirs[name.removeprefix("after_step.")], tolerance)


def _compare_rates(case: Case) -> None:
    """The recipe's schedule; the original asks for it anew in every update, too."""
    wanted = case.config["lr_schedule"]
    total = wanted["epochs"] * UPDATES_PER_EPOCH
    settings = OmegaConf.structured(FairseqAdamConfig(lr=[wanted["lr"]], tpu=False))
    optimizer = FairseqAdam(settings, [nn.Parameter(torch.zeros(1))])
    schedule = CosineLRSchedule(
        CosineLRScheduleConfig(
            lr=[wanted["lr"]],
            min_lr=wanted["min_lr"],
            warmup_updates=wanted["warmup_epochs"] * UPDATES_PER_EPOCH,
            warmup_init_lr=0.0,
            max_update=total,
        ),
        optimizer,
    )
    for fraction, rate in wanted["epoch_fraction_to_lr"]:
        # a run's last update is the one before its end
        found = schedule.step_update(min(round(fraction * UPDATES_PER_EPOCH), total - 1))
        if abs(found - rate) > 1e-9 * wanted["lr"]:
            case.problems.append(f"learning rate after {fraction} epochs: {found}, expected {rate}")
    case.open_scalars = {
        name: value for name, value in case.open_scalars.items() if not name.startswith("lr_schedule.")
    }


# ---- reconstruction and attention


@torch.no_grad()
def _check_reconstruction(case: Case) -> None:
    published, tolerance = Published(case), case.config["tolerances"]
    network = published.network()
    tokens, num_chan = network.tokens, network.tokens.num_chan
    first = case.config["start_frame"]
    lms = case.input["lms"][..., first : first + tokens.num_frames(network.window_columns)]
    hidden = case.input["hidden_mask"].flatten(1)
    visible = (~hidden).nonzero()[:, 1].view(len(lms), -1)
    masked = Masked(network, lms, visible)
    patches, hides = masked.clips.patches, torch.zeros(len(lms), masked.mask.num_tokens, 1, dtype=torch.bool)
    hides = hides.scatter(1, masked.mask.hidden[..., None], True)
    rebuilt = images(tokens.unpatchify(torch.where(hides, masked.predicted, patches)))
    undisturbed = network.decode(network.encode(masked.clips).stack.last, masked.clips).last
    found = {
        "lms_cropped": lms,
        "pred": masked.patches(masked.predicted),
        "loss": masked.loss().reshape(1),
        "reconstruction": rebuilt,
        "error_map": (rebuilt - lms).abs(),
        "mask_grid": hides.view(len(lms), -1, num_chan).transpose(1, 2).float(),
        "decoded_without_mask": images(tokens.unpatchify(network.reconstruct(network.own_tokens(undisturbed)))),
        "attention": _attention(network, masked.clips),
    }
    for layer in network.encoder.layers:
        layer.attention.qkv.bias.zero_()  # type: ignore[union-attr, operator]
    found["attention_without_qv_bias"] = _attention(network, masked.clips)
    for name, value in found.items():
        if name in case.expected:
            case.within(name, value, tolerance)


def _attention(network: MaskedAutoencoder, clips: Clips) -> Tensor:
    """Softmax weights of every layer (B, layers, H, N, N), in the original's order."""
    encoded, found = network.encode(clips), []
    for layer, states in zip(network.encoder.layers, [encoded.inputs, *encoded.stack.hidden], strict=False):
        attention: Any = layer.attention
        qkv = attention.qkv(layer.norm1(states)).unflatten(-1, (3, attention.num_heads, -1))  # type: ignore[operator]
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(dim=-1)
        for _ in range(2):  # rows and columns
            ordered = frequency_major(weights.flatten(0, 1), network.tokens.num_chan, network.num_class)
            weights = ordered.view_as(weights).transpose(2, 3)
        found.append(weights)
    return torch.stack(found, dim=1)


# ---- waveforms to embeddings


@torch.no_grad()
def _check_embeddings(case: Case) -> None:
    published, frontend, tolerances = Published(case), _front_end(case), case.config["tolerances"]
    network = published.network()
    for name, waveforms in case.input.items():
        features, given = frontend(waveforms), spectrograms(case.expected[f"{name}.lms"])
        case.compare(f"{name}.lms", images(features), absolute=tolerances["lms_atol"])
        mean, deviation = ClipNorm().statistics(_as_one_clip(features))
        case.compare(f"{name}.norm_mean", mean.flatten(), absolute=tolerances["lms_atol"])
        case.compare(f"{name}.norm_std", deviation.flatten(), absolute=tolerances["lms_atol"])
        fixed = [torch.tensor([value]) for value in case.config["fixed_stats"]]
        for key, of_wave, of_given in (
            ("features_fixed_stats", FixedNorm(*fixed), FixedNorm(*fixed)),
            (
                "timestamp_embeddings",
                FixedNorm(mean, deviation),
                FixedNorm(*ClipNorm().statistics(_as_one_clip(given))),
            ),
        ):
            steps = features_in_windows(network, of_wave(features))[1]
            again = features_in_windows(network, of_given(given))[1]
            case.within(f"{name}.{key}", steps, tolerances["embeddings_from_wave"])
            case.within(f"{name}.{key}", again, tolerances["embeddings_from_given_lms"])
            _compare_with_encoder(
                case, f"{name}.{key}", AudioEncoder(frontend, network).eval(), of_wave, waveforms, steps
            )
        case.within(f"{name}.scene_embeddings", steps.mean(dim=1), tolerances["embeddings_from_wave"])
        case.within(f"{name}.scene_embeddings", again.mean(dim=1), tolerances["embeddings_from_given_lms"])
        # the original's times: its duration shared out among its steps, from 0 on (facts: MSM-MAE 7.2)
        times = torch.arange(steps.shape[1]) * (waveforms.shape[1] / frontend.sample_rate / steps.shape[1] * 1000)
        shared = times.expand(len(waveforms), -1)
        case.compare(f"{name}.timestamps_ms", shared, absolute=tolerances["timestamps_atol"])
        case.scalar(f"lengths.{name}.samples", waveforms.shape[1])
        case.scalar(f"lengths.{name}.lms_frames", features.shape[1])
        case.scalar(f"lengths.{name}.feature_frames", steps.shape[1])
    case.scalar("embedding_dim", steps.shape[2])


def _compare_with_encoder(
    case: Case, name: str, encoder: AudioEncoder, norm: nn.Module, waveforms: Tensor, steps: Tensor
) -> None:
    """What a user calls gives the same; clips shorter than a patch are padded otherwise there."""
    if waveforms.shape[1] < encoder.shortest:
        return
    encoder.network.norm = norm  # type: ignore[assignment]
    difference = float((encoder(list(waveforms)).frames - steps).abs().max())
    if difference > 1e-4:
        case.problems.append(f"{name}: the encoder differs by {difference:.3g} from the network in windows")
