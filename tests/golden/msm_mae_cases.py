"""What each kind of MSM-MAE case defines and how our code gives it. Kinds are told by their contents."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from case import Case
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule, CosineLRScheduleConfig
from ssast_cases import frequency_major, their_values
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_plugin.audio.frontend import FrontEnd, make_frontend
from mae_ast_plugin.checkpoint import build_network, load_checkpoint
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.encoder import COLUMNS, AudioEncoder
from mae_ast_plugin.methods import msm_mae
from mae_ast_plugin.methods.settings import CriterionSettings
from mae_ast_plugin.nn.autoencoder import Clips, MaskedAutoencoder
from mae_ast_plugin.nn.losses import reconstruction_errors
from mae_ast_plugin.nn.masking import TokenMask, count_visible, gather_tokens
from mae_ast_plugin.nn.normalization import ClipNorm, FixedNorm
from mae_ast_plugin.segments import windows_of

CRITERION = CriterionSettings(reconstruction_weight=1.0, classification_weight=0.0)
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
    given += ("fixed_stats", "frames", "optimizer_step")
    case.open_scalars = {name: value for name, value in case.open_scalars.items() if name.split(".")[0] not in given}
    return None


def _spectrograms(lms: Tensor) -> Tensor:
    """The original's (B, 1, F, T) in our order (B, T, F)."""
    return lms[:, 0].transpose(1, 2)


def _images(spectrograms: Tensor) -> Tensor:
    """Ours (B, T, F) in the original's (B, 1, F, T)."""
    return spectrograms.transpose(1, 2)[:, None]


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
        features = frontend(waveforms)
        case.compare(f"lms_{name}", _images(features), absolute=tolerance["lms_atol"])
        mean_difference = float((_images(features) - case.expected[f"lms_{name}"]).abs().mean())
        if mean_difference > tolerance["lms_mean_abs"]:
            case.problems.append(f"lms_{name}: off by {mean_difference:.3g} on average")
        if f"lms_normalised_{name}" in case.expected:
            whole = _as_one_clip(features)
            mean, deviation = norm.statistics(whole)
            case.compare(f"norm_mean_{name}", mean.flatten(), absolute=tolerance["lms_atol"])
            case.compare(f"norm_std_{name}", deviation.flatten(), absolute=tolerance["lms_atol"])
            normalized = norm(whole)[0].view_as(features)
            case.compare(f"lms_normalised_{name}", _images(normalized), absolute=tolerance["lms_atol"])
    for name in [name for name in case.expected if name.startswith("offline_array")]:
        wave, item = re.fullmatch(r"offline_array_of_(\w+)_item_(\d+)", name).groups()  # type: ignore[union-attr]
        alone = frontend(case.input[wave][int(item)][None])
        case.compare(name, _images(alone)[0], absolute=tolerance["lms_atol"])


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


class Published:
    """A checkpoint of the original as our network, and the way back to its names and forms."""

    def __init__(self, case: Case) -> None:
        sizes = case.config["model"]
        (bins, frames), (height, width) = sizes["input_size"], sizes["patch_size"]
        run_folder = case.config.get("run_folder", f"{bins}x{frames}p{height}x{width}_case")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / run_folder / "checkpoint.pth"
            path.parent.mkdir()
            path.symlink_to((case.folder / "checkpoint.pth").absolute())
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
        container = torch.load(case.folder / "checkpoint.pth", weights_only=True)
        tensors, back = container.get("model", container), self.names.to_theirs(checkpoint.state)
        if back.keys() != tensors.keys() or any(not torch.equal(back[name], tensors[name]) for name in tensors):
            case.problems.append("the checkpoint does not come back as it was")

    def network(self) -> MaskedAutoencoder:
        return build_network(self.checkpoint)

    def decays(self, name: str, tensor: Tensor) -> bool:
        """Whether the original's optimiser decays a parameter: by the form it has there."""
        forms = self.names.to_theirs({name: tensor.detach()})
        return any(form.dim() > 1 and not key.endswith(".bias") for key, form in forms.items())


def _tables(case: Case, network: MaskedAutoencoder) -> None:
    for name, positions in (("pos_embed", network.encoder_positions), ("decoder_pos_embed", network.decoder_positions)):
        if name in case.expected:
            assert positions is not None and positions.grid is not None
            rows = torch.cat([positions.grid.class_rows, positions.grid.table.flatten(0, 1)])[None]  # type: ignore[union-attr, operator]
            theirs = frequency_major(rows, network.tokens.num_chan, network.num_class)
            case.within(name, theirs, case.config["tolerances"])


def _features(network: MaskedAutoencoder, normalized: Tensor) -> tuple[list[Tensor], Tensor]:
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


@torch.no_grad()
def _check_encoder(case: Case) -> None:
    published, tolerance = Published(case), case.config["tolerances"]
    network = published.network()
    num_chan, num_class = network.tokens.num_chan, network.num_class
    _tables(case, network)
    clips = network.cut(_spectrograms(case.input["lms_unit"]), is_normalized=True)
    encoded = network.features(clips)
    found = {
        "patch_tokens": frequency_major(network.embed(clips.patches), num_chan),
        "block0_input": frequency_major(encoded.inputs, num_chan, num_class),
        "encoder_layers": torch.stack([frequency_major(h, num_chan, num_class) for h in encoded.stack.hidden]),
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
        hidden, last = _features(network, _spectrograms(case.input[f"lms_T{frames}"]))
        case.within(f"features_T{frames}", last, tolerance)
        case.within(f"features_layers_T{frames}", torch.stack([*hidden[:-1], last]), tolerance)
        case.scalar(f"expected_output_frames.{frames}", last.shape[1])
    case.scalar("feature_dim", last.shape[2])


# ---- pretraining


class Masked:
    """A pass with the hidden patches of the original, and its results in the original's order.

    ``faithful`` repeats the original's fault without a class token: its decoder loses the first visible patch and gives
    every other one the place before its own (facts: MSM-MAE 11.1).
    """

    def __init__(self, network: MaskedAutoencoder, lms: Tensor, visible: Tensor, faithful: bool = True) -> None:
        self.network = network
        self.clips: Clips = network.cut(_spectrograms(lms), is_normalized=True)
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


def _check_pretraining(case: Case) -> None:
    published, tolerance, noise = Published(case), case.config["tolerances"], case.input["noise"]
    network = published.network().train()
    _tables(case, network)
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
        "target_patches": masked.patches(masked.target),
        "unpatchified_pred": _images(network.tokens.unpatchify(masked.predicted)),
        "loss_per_patch": frequency_major(errors[..., None], network.tokens.num_chan)[..., 0],
        "loss": masked.loss().reshape(1),
    }
    if "aligned.loss" in case.expected:
        aligned = Masked(network, case.input["lms"], visible, faithful=False)
        found["aligned.decoder_block0_input"] = aligned.theirs(aligned.decoder_inputs)
        found["aligned.pred"], found["aligned.loss"] = aligned.patches(aligned.predicted), aligned.loss().reshape(1)
    for name, value in found.items():
        case.within(name, value, tolerance)
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
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in network.named_parameters():
        groups[published.decays(name, parameter)].append(parameter)
    rates = {True: options["weight_decay"], False: 0.0}
    torch.optim.AdamW(
        [{"params": parameters, "weight_decay": rates[decays]} for decays, parameters in groups.items()],
        lr=options["lr"],
        betas=tuple(options["betas"]),
        eps=options["eps"],
    ).step()
    theirs = published.names.to_theirs({name: p.detach() for name, p in network.named_parameters()})
    norms = torch.stack([theirs[name].norm() for name in case.config["grad_names"]])
    case.within("after_step.param_norms", norms, tolerance)
    for name in [name for name in case.expected if name.startswith("after_step.") and not name.endswith("_norms")]:
        case.within(name, theirs[name.removeprefix("after_step.")], tolerance)


def _compare_rates(case: Case) -> None:
    """The recipe's schedule; the original asks for it anew in every update, too."""
    wanted = case.config["lr_schedule"]
    total = wanted["epochs"] * UPDATES_PER_EPOCH
    optimizer = FairseqAdam(FairseqAdamConfig(lr=[wanted["lr"]]), [nn.Parameter(torch.zeros(1))])
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
    tokens, num_chan, num_class = network.tokens, network.tokens.num_chan, network.num_class
    first = case.config["start_frame"]
    lms = case.input["lms"][..., first : first + tokens.num_frames(network.window_columns)]
    hidden = case.input["hidden_mask"].flatten(1)
    visible = (~hidden).nonzero()[:, 1].view(len(lms), -1)
    masked = Masked(network, lms, visible)
    patches, hides = masked.clips.patches, torch.zeros(len(lms), masked.mask.num_tokens, 1, dtype=torch.bool)
    hides = hides.scatter(1, masked.mask.hidden[..., None], True)
    rebuilt = _images(tokens.unpatchify(torch.where(hides, masked.predicted, patches)))
    undisturbed = network.decode(network.encode(masked.clips).stack.last, masked.clips).last
    found = {
        "lms_cropped": lms,
        "pred": masked.patches(masked.predicted),
        "loss": masked.loss().reshape(1),
        "reconstruction": rebuilt,
        "error_map": (rebuilt - lms).abs(),
        "mask_grid": hides.view(len(lms), -1, num_chan).transpose(1, 2).float(),
        "decoded_without_mask": _images(tokens.unpatchify(network.reconstruct(network.own_tokens(undisturbed)))),
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
        features, given = frontend(waveforms), _spectrograms(case.expected[f"{name}.lms"])
        case.compare(f"{name}.lms", _images(features), absolute=tolerances["lms_atol"])
        mean, deviation = ClipNorm().statistics(_as_one_clip(features))
        case.compare(f"{name}.norm_mean", mean.flatten(), absolute=tolerances["lms_atol"])
        case.compare(f"{name}.norm_std", deviation.flatten(), absolute=tolerances["lms_atol"])
        fixed = [torch.tensor([value]) for value in case.config["fixed_stats"]]
        for key, of_wave, of_given in (
            ("features_fixed_stats", FixedNorm(*fixed), FixedNorm(*fixed)),
            ("timestamp_embeddings", FixedNorm(mean, deviation), FixedNorm(*ClipNorm().statistics(_as_one_clip(given)))),
        ):
            steps, again = (_features(network, norm(x))[1] for norm, x in ((of_wave, features), (of_given, given)))
            case.within(f"{name}.{key}", steps, tolerances["embeddings_from_wave"])
            case.within(f"{name}.{key}", again, tolerances["embeddings_from_given_lms"])
            _compare_with_encoder(case, f"{name}.{key}", AudioEncoder(frontend, network), of_wave, waveforms, steps)
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
    difference = float((encoder(waveforms).frames - steps).abs().max())
    if difference > 1e-4:
        case.problems.append(f"{name}: the encoder differs by {difference:.3g} from the network in windows")
