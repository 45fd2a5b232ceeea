"""What each kind of MAE-AST case defines and how our code gives it. Kinds are told by their contents, not by their
names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import s3prl_cases
import torch
from case import Case
from torch import Tensor

from mae_ast_plugin.audio.frontend import make_frontend
from mae_ast_plugin.audio.resample import sinc_hann
from mae_ast_plugin.checkpoint import build_network, load_checkpoint, read_container
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion, perplexity
from mae_ast_plugin.methods.mae_ast import NAMES
from mae_ast_plugin.methods.settings import CriterionSettings, from_mapping
from mae_ast_plugin.nn.autoencoder import Clips, Encoded, MaskedAutoencoder
from mae_ast_plugin.nn.masking import MASKERS, MaskRequest, MaskSettings, TokenMask
from mae_ast_plugin.nn.noise import combine


def check(case: Case) -> str | None:
    """Compare everything a case defines; returns a reason where the case has to wait."""
    if (case.folder / "statistics.json").exists():
        _check_mask_statistics(case)
    elif any(name.startswith("s3prl_hidden_states") for name in case.expected):
        s3prl_cases.check(case)
    elif "items" in case.config:
        _check_features(case)
    elif "retained_idx" in case.input:
        _check_pretraining(case)
    else:
        _check_encoder(case)
    return None


# ---- front ends


def _check_features(case: Case) -> None:
    tolerance = case.config["tolerance"]
    for name, item in case.config["items"].items():
        waveform = case.input[f"waveform.{name}"]
        case.scalar(f"items.{name}.n_samples_in", waveform.shape[0])
        case.scalar(f"items.{name}.channels", waveform.shape[1] if waveform.dim() == 2 else 1)
        mono = waveform.mean(dim=1) if waveform.dim() == 2 else waveform
        resampled = sinc_hann(mono, item["orig_sample_rate"], case.config["fbank"]["sample_rate"])
        if f"resampled.{name}" in case.expected:
            case.compare(f"resampled.{name}", resampled, absolute=tolerance["resampled_max_abs"])
        case.scalar(f"items.{name}.n_samples_16k", resampled.shape[0])
        frontend = make_frontend(item["feature_type"], item["feature_dim"], 16000, item["deltas"])
        features = frontend(resampled[None])[0]
        case.scalar(f"items.{name}.n_frames", features.shape[0])
        case.compare(f"feature.{name}", features, absolute=tolerance["feature_max_abs"])
        mean = float((features - case.expected[f"feature.{name}"]).abs().mean())
        if mean > tolerance["feature_mean_abs"]:
            case.problems.append(f"feature.{name}: off by {mean:.3g} on average")


# ---- masks


def _check_mask_statistics(case: Case) -> None:
    statistics = json.loads((case.folder / "statistics.json").read_text())
    for number, entry in enumerate(statistics["entries"]):
        hidden = _draw_masks(entry, num_draws=min(1500, entry["draws"]), seed=number)
        found = _mask_statistics(hidden, entry["n_time"], entry["n_chan"])
        spans = entry["mask_type"] == "retain_spans"
        tolerances = {
            "masked_fraction_mean": 0.015 if spans else 0.01,
            "masked_fraction_std": 0.006,
            "agree_adjacent_time": 0.03,
            "agree_adjacent_chan": 0.03,
            "mean_masked_run": 0.04 * (entry.get("mean_masked_run") or 1.0),
        }
        label = f"entry {number} ({entry['mask_type']}, {entry['n_tokens']} tokens, ratio {entry['ratio']})"
        for key, wanted in entry.items():
            if key in ("mask_type", "n_time", "n_chan", "n_tokens", "ratio", "batch", "draws", "mask_length"):
                continue
            within = 0.05 if key.startswith("masked_prob") else tolerances.get(key, 0.0)
            if key.startswith("masked_count") and entry["masked_count_min"] != entry["masked_count_max"]:
                within = 0.08 * entry["n_tokens"]  # the extremes of a random count
            if key not in found:
                case.problems.append(f"{label} {key}: never compared")
            elif not _close(found[key], wanted, within):
                case.problems.append(f"{label} {key}: {found[key]}, expected {wanted}")
            else:
                case.expected[f"{number}.{key}"] = torch.empty(0)  # counted as compared


def _close(found: Any, wanted: Any, within: float) -> bool:
    if wanted is None or isinstance(wanted, bool):
        return wanted is None or found == wanted
    if isinstance(wanted, list):
        return all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))
    return bool(abs(found - wanted) <= within)


def _draw_masks(entry: Mapping[str, Any], num_draws: int, seed: int) -> Tensor:
    """Hidden tokens of many batches: (draws, B, N) bool."""
    batch, tokens = entry["batch"], entry["n_tokens"]
    settings = MaskSettings(ratio=entry["ratio"], span_length=entry["mask_length"])
    draws = []
    for draw in range(num_draws):
        seeds = torch.tensor([combine(seed, draw, clip) for clip in range(batch)])
        request = MaskRequest(seeds, combine(seed, draw), [tokens] * batch, tokens, entry["n_chan"])
        mask = MASKERS[entry["mask_type"]](request, settings)
        draws.append(torch.zeros(batch, tokens + 1, dtype=torch.bool).scatter_(1, mask.hidden, True)[:, :tokens])
    return torch.stack(draws)


def _mask_statistics(hidden: Tensor, num_time: int, num_chan: int) -> dict[str, Any]:
    counts = hidden.sum(dim=-1)
    fraction = hidden.float().mean(dim=-1)
    probability = hidden.float().mean(dim=(0, 1))
    third = hidden.shape[-1] // 3
    grid = hidden.unflatten(-1, (num_time, num_chan))
    begins = hidden & ~torch.nn.functional.pad(hidden, (1, 0))[..., :-1]
    return {
        "masked_fraction_mean": float(fraction.mean()),
        "masked_fraction_std": float(fraction.std()),
        "masked_count_min": int(counts.min()),
        "masked_count_max": int(counts.max()),
        "shared_across_batch": bool((hidden == hidden[:, :1]).all()),
        "masked_prob_first_8_tokens": probability[:8].tolist(),
        "masked_prob_last_8_tokens": probability[-8:].tolist(),
        "masked_prob_first_third": float(probability[:third].mean()),
        "masked_prob_middle_third": float(probability[third : 2 * third].mean()),
        "masked_prob_last_third": float(probability[2 * third :].mean()),
        "agree_adjacent_time": float((grid[:, :, 1:] == grid[:, :, :-1]).float().mean()),
        "agree_adjacent_chan": float((grid[..., 1:] == grid[..., :-1]).float().mean()) if num_chan > 1 else None,
        "mean_masked_run": float((counts / begins.sum(dim=-1)).mean()) if num_chan == 1 else None,
    }


# ---- the network


def _network(case: Case) -> MaskedAutoencoder:
    network = build_network(load_checkpoint(case.checkpoint))
    network.count_partial = True  # the original's rule, which its batches with padding need
    return network


def _num_frames(case: Case) -> list[int]:
    return [int(n) for n in (~case.input["padding_mask"]).sum(dim=1)]


def _compare_positions(case: Case, network: MaskedAutoencoder, clips: Clips) -> None:
    num_tokens = clips.patches.shape[1]
    for short, positions in (("enc", network.encoder_positions), ("dec", network.decoder_positions)):
        if f"{short}_pos" in case.expected and positions.sinusoid is not None:
            case.compare(f"{short}_pos", positions.sinusoid(num_tokens)[0])


def _compare_conv_positions(case: Case, name: str, network: MaskedAutoencoder, positions: Any, tokens: Tensor) -> None:
    if name in case.expected and positions.conv is not None:
        case.compare(name, positions.conv(tokens))


def _compare_stack(
    case: Case, name: str, inputs: Tensor, padding: Tensor | None, last: Tensor, hidden: list[Tensor]
) -> None:
    valid = None if padding is None else ~padding
    case.compare(f"{name}_in", inputs, valid)
    case.compare(
        f"{name}_padding_mask", inputs.new_zeros(inputs.shape[:2], dtype=torch.bool) if padding is None else padding
    )
    case.compare(f"{name}_out", last, valid)
    for number, states in enumerate(hidden):
        case.compare(f"{name}_hidden.{number}", states, valid)


def _compare_cut(case: Case, network: MaskedAutoencoder, clips: Clips) -> Tensor | None:
    valid = None if clips.padding is None else ~clips.padding
    case.compare("normalized", clips.normalized)
    case.compare("patches", clips.patches)
    case.compare("tokens", network.embed(clips.patches), valid)
    _compare_positions(case, network, clips)
    if "token_padding_mask" in case.expected:
        none = torch.zeros(clips.patches.shape[:2], dtype=torch.bool)
        case.compare("token_padding_mask", none if clips.padding is None else clips.padding)
    return valid


@torch.no_grad()
def _check_encoder(case: Case) -> None:
    network = _network(case)
    frames = _num_frames(case)
    clips = network.cut(case.input["source"], frames)
    valid = _compare_cut(case, network, clips)
    with_decoder = any(name.startswith("decoder_") for name in case.expected)
    encoded = network.features(clips, with_decoder=with_decoder)
    encoder_layers = len(network.encoder.layers)
    hidden = encoded.stack.hidden
    encoder_last = network.encode(clips).stack.last
    _compare_stack(case, "encoder", encoded.inputs, encoded.padding, encoder_last, hidden[:encoder_layers])
    _compare_conv_positions(case, "enc_conv_pos", network, network.encoder_positions, _conv_input(network, clips, None))
    if with_decoder:
        inputs, _ = network.decoder_inputs(encoder_last, clips)
        _compare_stack(case, "decoder", inputs, clips.padding, encoded.stack.last, hidden[encoder_layers:])
        if network.bridge is not None:
            case.compare("post_enc_proj_out", network.bridge(encoder_last), valid)
    case.compare("x", encoded.stack.last, valid)
    case.compare("features", encoded.tokens, valid)
    for number, states in enumerate(hidden):
        case.compare(f"hidden_states.{number}", states, valid)
    for name in [name for name in case.expected if name.startswith("x_output_layer_")]:
        case.compare(name, network.features(clips, until=int(name.rsplit("_", 1)[1])).stack.last, valid)
    for name in [name for name in case.expected if name.startswith("solo.")]:
        row = int(name.split(".")[1])
        alone = network.cut(case.input["source"][row : row + 1, : frames[row]])
        case.compare(name, network.features(alone).stack.last)
    if "patch_grid" in case.config:
        case.scalar("patch_grid.n_chan", network.tokens.num_chan)
        case.scalar("patch_grid.n_time", clips.patches.shape[1] // network.tokens.num_chan)


def _conv_input(network: MaskedAutoencoder, clips: Clips, mask: TokenMask | None) -> Tensor:
    tokens = network.embed(clips.patches)
    if mask is not None and network.encoder_positions.conv is not None:
        hidden = torch.zeros(tokens.shape[0], mask.num_tokens, dtype=torch.bool).scatter(1, mask.hidden, True)
        tokens = torch.where(hidden[..., None], network.encoder_mask_token, tokens)
    return tokens if clips.padding is None else tokens.masked_fill(clips.padding[..., None], 0.0)


def _given_mask(case: Case, num_tokens: int) -> TokenMask:
    visible, hidden = case.input["retained_idx"], case.input["masked_idx"]
    # the order of visible tokens is the case's; hidden ones are predicted in ascending order
    return TokenMask(
        visible,
        hidden.sort(dim=1).values,
        num_tokens,
        (visible.shape[1],) * len(visible),
        (hidden.shape[1],) * len(hidden),
    )


def _check_pretraining(case: Case) -> None:
    network = _network(case)
    network.train(case.config["mode"].startswith("train"))
    clips = network.cut(case.input["source"], _num_frames(case))
    valid = _compare_cut(case, network, clips)
    mask = _given_mask(case, clips.patches.shape[1])
    encoded: Encoded = network.encode(clips, mask)
    _compare_stack(case, "encoder", encoded.inputs, encoded.padding, encoded.stack.last, encoded.stack.hidden)
    _compare_conv_positions(case, "enc_conv_pos", network, network.encoder_positions, _conv_input(network, clips, mask))
    if network.bridge is not None:
        case.compare("post_enc_proj_out", network.bridge(encoded.stack.last))
    decoder_in, _ = network.decoder_inputs(encoded.stack.last, clips, mask)
    decoded = network.decoder(decoder_in, clips.padding)
    _compare_stack(case, "decoder", decoder_in, clips.padding, decoded.last, decoded.hidden)
    if "dec_conv_pos" in case.expected and network.decoder_positions.conv is not None:
        bare = _without_positions(network, encoded.stack.last, clips, mask)
        case.compare("dec_conv_pos", network.decoder_positions.conv(bare), valid)
    predictions = network.predict(decoded.last, clips, mask)
    case.compare("logit_recon", predictions.reconstructed)
    case.compare("logit_class", predictions.classified)
    case.compare("target", predictions.target)
    criterion = MaskedPredictionCriterion(
        from_mapping(CriterionSettings, {**case.config["reference_config"]["criterion"], "average_over": "batches"})
    )
    loss, sample_size, logging = criterion.losses(predictions, num_clips=len(clips.num_tokens))
    _compare_losses(case, loss, sample_size, logging)
    network.zero_grad()
    loss.backward()
    _compare_gradients(case, network)
    for name, buffer in (
        ("running_mean", "running_mean"),
        ("running_var", "running_var"),
        ("num_batches_tracked",) * 2,
    ):
        if f"bn_{name}_after" in case.expected:
            case.compare(
                f"bn_{name}_after", getattr(network.norm, buffer).reshape(case.expected[f"bn_{name}_after"].shape)
            )
    case.scalar("n_tokens", clips.patches.shape[1])
    case.scalar("n_retained", mask.visible.shape[1])
    case.scalar("n_masked", mask.hidden.shape[1])


def _without_positions(network: MaskedAutoencoder, encoded: Tensor, clips: Clips, mask: TokenMask) -> Tensor:
    keep, network.decoder_positions = network.decoder_positions, type(network.decoder_positions)(None, None)
    bare, _ = network.decoder_inputs(encoded, clips, mask)
    network.decoder_positions = keep
    return bare


def _compare_losses(case: Case, loss: Tensor, sample_size: Any, logging: dict[str, Any]) -> None:
    for name in ("loss", "loss_recon", "loss_info_nce"):
        value = loss.detach() if name == "loss" else logging[name]
        case.compare(name, value.reshape(()))
        case.scalar(f"criterion_logging_output.{name}", float(value), within=1e-4 * max(1.0, abs(float(value))))
    for name in ("ntokens", "nsentences", "sample_size"):
        case.scalar(f"criterion_logging_output.{name}", int(logging[name]))
    case.scalar("sample_size", int(sample_size))
    shown = MaskedPredictionCriterion.shown_values([logging])
    shown["ppl"] = perplexity(float(shown["nll_loss"]))
    for name in [name for name in case.open_scalars if name.startswith("reduced_metrics_single_worker.")]:
        wanted = float(case.open_scalars[name])  # type: ignore[arg-type]
        within = 0.0006 + 1e-4 * abs(wanted) * (math.log(2) * wanted if name.endswith("ppl") else 1)
        case.scalar(name, shown[name.split(".")[1]], within=within if not name.endswith("ppl") else 0.0051 + within)


def _compare_gradients(case: Case, network: MaskedAutoencoder) -> None:
    ours = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in network.named_parameters()}
    without = {name for name, p in network.named_parameters() if p.grad is None}
    theirs = NAMES.to_theirs(ours)
    for name in [name for name in case.expected if name.startswith("grad_norm/")]:
        case.compare(name, theirs[name.removeprefix("grad_norm/")].norm())
    for name in [name for name in case.expected if name.startswith("grad/")]:
        case.compare(name, theirs[name.removeprefix("grad/")])
    if "grad_norm_total" in case.expected:
        case.compare("grad_norm_total", torch.stack([gradient.norm() for gradient in ours.values()]).norm())
    # what the original builds and never uses has no counterpart here; its idle mask token takes no gradient here
    stored = read_container(case.checkpoint)["model"]
    case.scalar("params_without_gradient", [name for name in stored if NAMES.is_unused(name)])
    idle = NAMES.to_theirs({name: ours[name] for name in without})
    zero = [name for name, gradient in theirs.items() if name in idle or float(gradient.abs().max()) == 0.0]
    case.scalar("params_with_exactly_zero_gradient", zero)
