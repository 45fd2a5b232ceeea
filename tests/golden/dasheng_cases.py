"""What each kind of Dasheng case defines and how our code gives it. Kinds are told by their contents."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from case import Case
from dasheng_data import check_shards
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule, CosineLRScheduleConfig
from omegaconf import OmegaConf
from safetensors.torch import load_file
from ssast_cases import frequency_major, their_values
from torch import Tensor, nn

from mae_ast_plugin.audio.decibels import RANGE_DB, decibel_mel, decibels
from mae_ast_plugin.checkpoint import load_state
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.encoder import AudioEncoder
from mae_ast_plugin.methods import dasheng
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of
from mae_ast_plugin.methods.method import Foreign
from mae_ast_plugin.methods.settings import CriterionSettings
from mae_ast_plugin.nn.autoencoder import Clips, MaskedAutoencoder, standardised
from mae_ast_plugin.nn.losses import reconstruction_errors
from mae_ast_plugin.nn.masking import MaskRequest, MaskSettings, TokenMask, _by_groups, count_visible
from mae_ast_plugin.nn.normalization import InputNorm
from mae_ast_plugin.nn.positions import resize_axis

CRITERION = CriterionSettings(reconstruction_weight=1.0, classification_weight=0.0)
TIME = "encoder_positions.grid.time"
HEADS_OF_A_LOADER_THAT_READS_NONE = 8
LENGTH_UNIT = 4  # frames, by which the original counts the tokens of a length, whatever its patches are
# what describes a case or was given to it, and no result
GIVEN = {
    "about",
    "tolerances",
    "float64_check",
    "mode",
    "mask_ratio",
    "optimizer",
    "noise",
    "batchnorm_gradient_note",
    "raw_reference_bn_grad_norms",  # of the original's fault on CPU; the gradients in the case are the right ones
    "hf_config",
    "checkpoint_file",
    "long",
}


def check(case: Case) -> str | None:
    """Compare everything a case defines; returns a reason where the case has to wait."""
    if "crop_size" in case.config:
        check_shards(case)
    elif "cases" in case.config:
        _check_schedule(case)
    elif any(name.endswith("/mel_power") for name in case.expected):
        _check_front_end(case)
    elif any(name.startswith("target_") and "/" in name for name in case.expected):
        _check_other_lengths(case)
    elif "hf_config" in case.config:
        _check_hugging_face(case)
    elif "decoder" in case.config:
        _check_pretraining(case)
    else:
        _check_encoder(case)
    case.open_scalars = {name: value for name, value in case.open_scalars.items() if name.split(".")[0] not in GIVEN}
    return None


class Published:
    """A checkpoint of the original as our network, and the way back to its names and forms."""

    def __init__(self, case: Case, columns: int | None = None) -> None:
        if (case.folder / "checkpoint.pt").exists():
            rest = torch.load(case.folder / "checkpoint.pt", weights_only=True)
            tensors = rest.pop("model")
        else:
            tensors, rest = load_file(case.folder / case.config["checkpoint_file"]), case.config["hf_config"]
        found = Foreign(str(case.folder), tensors, rest)
        if not dasheng.METHOD.recognises(found):
            case.problems.append("the checkpoint is not recognised")
        self.model, self.task = dasheng.METHOD.settings(found)
        self.frontend = frontend_of(self.task)
        self.num_chan = (self.task.feature_dim - self.model.ast_kernel_size_chan) // (
            self.model.ast_kernel_stride_chan
        ) + 1
        # the original counts a decoder's positions row by row of the clip at hand
        self.columns = columns if self.num_chan > 1 else None
        self.names = dasheng.names(self.model, self.task, self.columns)
        self.state, unknown = self.names.to_ours(tensors)
        case.problems += [f"{name}: not known" for name in unknown]
        self._check_way_back(case, tensors)

    def _check_way_back(self, case: Case, tensors: Mapping[str, Tensor]) -> None:
        back = self.names.to_theirs(self.state)
        kept = {name: tensor for name, tensor in tensors.items() if not self.names.is_unused(name)}
        kept = {name.removeprefix(self.names.optional_prefix): tensor for name, tensor in kept.items()}
        table = "decoder.pos_embed"
        if table in kept:  # rows for no token begin at zero and stay there; only a case fills them
            used = self.num_chan * (self.columns or self.model.max_columns)
            kept[table] = torch.cat([kept[table][:, :used], torch.zeros_like(kept[table][:, used:])], dim=1)
        if back.keys() != kept.keys() or any(not torch.equal(back[name], kept[name]) for name in kept):
            case.problems.append("the checkpoint does not come back as it was")

    def network(self, **changes: Any) -> MaskedAutoencoder:
        network = autoencoder_of(replace(self.model, **changes), self.task.feature_dim)
        table = "decoder_positions.grid.table"
        if self.columns is not None and table in self.state:
            network.decoder_positions.grid.table = nn.Parameter(torch.empty_like(self.state[table]))  # type: ignore[union-attr]
        load_state(network, self.state, "")
        return network.eval()

    def energies(self, waveforms: Tensor) -> Tensor:
        """Mel energies (B, T, F), before the front end's decibels."""
        frontend = decibel_mel(self.task.feature_dim, self.task.sample_rate)
        frontend.compression = lambda energies, own: energies
        return frontend(waveforms)

    def decibels(self, waveforms: Tensor) -> Tensor:
        """Spectrograms (B, T, F) as the original has them: the floor lies under the maximum of the whole batch."""
        energies = self.energies(waveforms)
        together = decibels(energies.flatten(0, 1)[None]).view_as(energies)
        if len(waveforms) == 1:
            assert torch.equal(together, self.frontend(waveforms))
        return together


def _bins_first(spectrogram: Tensor) -> Tensor:
    return spectrogram.transpose(1, 2)


def _compare_facts(case: Case, published: Published, network: MaskedAutoencoder) -> None:
    """The numbers that describe front end, encoder and decoder, where the case has them."""
    model, frontend = published.model, published.frontend.convention
    found: dict[str, Any] = {
        "front_end.sample_rate": published.task.sample_rate,
        "front_end.n_fft": frontend.fft_size,
        "front_end.win_length": len(frontend.window),
        "front_end.hop_length": frontend.hop,
        "front_end.f_min": 0,
        "front_end.f_max": published.task.sample_rate // 2,
        "front_end.n_mels": frontend.num_features,
        "front_end.top_db": RANGE_DB,
        "encoder.patch_size": [model.ast_kernel_size_chan, model.ast_kernel_size_time],
        "encoder.patch_stride": [model.ast_kernel_stride_chan, model.ast_kernel_stride_time],
        "encoder.mlp_ratio": model.encoder_ffn_embed_dim / model.encoder_embed_dim,
        "encoder.qkv_bias": network.encoder.layers[0].attention.qkv.bias is not None,
        "encoder.ln_eps": network.encoder.norm.eps,
        "encoder.bn_eps": network.norm.eps,
        "encoder.drop_rate": model.dropout,
        "encoder.attn_drop_rate": model.attention_dropout,
        "encoder.pooling": "token" if model.class_tokens else "mean",
        "encoder.embed_dim": model.encoder_embed_dim,
        "encoder.depth": model.encoder_layers,
        "encoder.num_heads": model.encoder_attention_heads,
        "encoder.init_values": model.layer_scale,
        "norm_pix_loss": model.standard_targets,
        "chunk_patches": model.window_columns * published.num_chan,
    }
    if "encoder.target_length" in case.open_scalars:
        target_length = int(case.open_scalars["encoder.target_length"])  # type: ignore[call-overload]
        assert target_length // model.ast_kernel_stride_time == model.max_columns
        found["encoder.target_length"] = target_length
    if "encoder.group_masking" in case.open_scalars:
        is_grouped = published.task.mask_type == "group_mask"
        group = case.open_scalars["encoder.group_masking"]
        found["encoder.group_masking"] = group if not is_grouped or group is True else model.mask_length
        assert is_grouped == bool(group)
    if network.decoder is not None and network.bridge is not None:
        settings = network.decoder.settings
        found |= {
            "decoder.mlp_ratio": settings.ffn_dim / settings.dim,
            "decoder.qkv_bias": network.decoder.layers[0].attention.qkv.bias is not None,
            "decoder.ln_eps": network.decoder.norm.eps,
            "decoder.input_dim": network.bridge.in_features,
            "decoder.outputdim": network.tokens.patch_size,
            "decoder.num_patches": published.num_chan * model.max_columns,
            "decoder.embed_dim": settings.dim,
            "decoder.depth": settings.num_layers,
            "decoder.num_heads": settings.num_heads,
        }
    for name, value in found.items():
        if name in case.open_scalars:
            case.scalar(name, value)
    words = ("center", "pad_mode", "window", "power", "mel_scale", "mel_norm", "db")  # the tensors show these
    for name in words:
        case.open_scalars.pop(f"front_end.{name}", None)


# ---- front end


def _check_front_end(case: Case) -> None:
    tensors = torch.load(case.folder / "checkpoint.pt", weights_only=True)["model"]
    norm = InputNorm(scale=1.0, momentum=0.01, num_bins=len(tensors["init_bn.1.weight"]), affine=True).eval()
    norm.load_state_dict({name.removeprefix("init_bn.1."): t for name, t in tensors.items() if "init_bn" in name})
    described = case.config["front_end"]
    frontend = decibel_mel(described["n_mels"], described["sample_rate"])
    tolerances = case.config["tolerances"]
    filters, window = tensors["front_end.0.mel_scale.fb"], tensors["front_end.0.spectrogram.window"]
    if not torch.allclose(filters, frontend.filters, atol=1e-5, rtol=0):
        case.problems.append("the stored filters differ")
    if not torch.allclose(window, frontend.window, atol=1e-6, rtol=0):
        case.problems.append("the stored window differs")
    for name, waveforms in case.input.items():
        frontend.compression = lambda energies, own: energies
        energies = frontend(waveforms)
        level = decibels(energies.flatten(0, 1)[None], range_db=described["top_db"]).view_as(energies)
        case.within(f"{name}/mel_power", _bins_first(energies), tolerances["mel_power"])
        case.within(f"{name}/db", _bins_first(level), tolerances["db"])
        case.within(f"{name}/bn", _bins_first(norm(level))[:, None], tolerances["bn"])
        frontend.compression = decibels
        if len(waveforms) == 1:
            case.within(f"{name}/db", _bins_first(frontend(waveforms)), tolerances["db"])
    found = {
        "n_fft": frontend.fft_size,
        "win_length": len(frontend.window),
        "hop_length": frontend.hop,
        "f_min": 0,
        "f_max": frontend.sample_rate // 2,
        "top_db": RANGE_DB,
    }
    for key, value in found.items():
        case.scalar(f"front_end.{key}", value)
    case.open_scalars = {key: value for key, value in case.open_scalars.items() if not key.startswith("front_end.")}


# ---- the encoder, in windows of its own table


@dataclass
class Window:
    """What one window of the clips gives, their order of tokens, class tokens in front."""

    tokens: Tensor
    blocks: list[Tensor]
    last: Tensor


def _windows(network: MaskedAutoencoder, spectrogram: Tensor) -> Iterator[Tensor]:
    tokens, columns = network.tokens, network.tokens.num_time(spectrogram.shape[1])
    for first in range(0, columns, network.window_columns):
        count = min(network.window_columns, columns - first)
        begin = first * tokens.stride_time
        yield spectrogram[:, begin : begin + tokens.num_frames(count)]


@torch.no_grad()
def _run(network: MaskedAutoencoder, spectrogram: Tensor, valid_columns: Tensor | None = None) -> list[Window]:
    """Run the encoder window by window; columns from ``valid_columns`` (B,) on are keys for nobody.

    A clip that has no valid column in a window attends to all of them alike in the original.
    """
    found, first, blind = [], 0, _blind(network)
    for part in _windows(network, spectrogram):
        clips = network.cut(part)
        rows, column = len(part), torch.arange(clips.patches.shape[1]) // network.tokens.num_chan + first
        first += network.tokens.num_time(part.shape[1])
        if valid_columns is None:
            found.append(_ordered(network, network, clips))
            continue
        padding = column >= valid_columns[:, None]
        seen = _ordered(network, network, replace(clips, padding=padding))
        unseen = _ordered(network, blind, clips)
        nothing = padding.all(dim=1)[:, None, None].expand(rows, 1, 1)
        found.append(
            Window(
                seen.tokens,
                [torch.where(nothing, b, a) for a, b in zip(seen.blocks, unseen.blocks, strict=True)],
                torch.where(nothing, unseen.last, seen.last),
            )
        )
    return found


def _ordered(network: MaskedAutoencoder, runner: MaskedAutoencoder, clips: Clips) -> Window:
    encoded = runner.encode(clips)
    order = (network.tokens.num_chan, network.num_class)
    return Window(
        frequency_major(encoded.inputs, *order),
        [frequency_major(states, *order) for states in encoded.stack.hidden],
        frequency_major(encoded.stack.last, *order),
    )


def _blind(network: MaskedAutoencoder) -> MaskedAutoencoder:
    """The network with attention that weighs all keys alike: its queries are zero."""
    blind = copy.deepcopy(network)
    for layer in blind.encoder.layers:
        width = layer.attention.out.in_features
        layer.attention.qkv.weight.data[:width] = 0.0
        layer.attention.qkv.bias.data[:width] = 0.0
    return blind


def _features(windows: Sequence[Window]) -> Tensor:
    return torch.cat([window.last for window in windows], dim=1)


def _check_encoder(case: Case) -> None:
    published = Published(case)
    network, tolerances = published.network(), case.config["tolerances"]
    features, waveforms = tolerances["features"], case.input["waveform"]
    spectrogram = published.decibels(waveforms)
    lengths = case.input.get("x_length")
    valid = None if lengths is None else lengths // (published.frontend.hop * LENGTH_UNIT)
    windows = _run(network, spectrogram, valid)
    whole = network.cut(spectrogram)
    embedded = network.embed(whole.patches)
    grid = embedded.unflatten(1, (-1, published.num_chan)).permute(0, 3, 2, 1)
    results = {
        "patch_embed": frequency_major(embedded, published.num_chan),
        "patch_embed_grid_b_c_f_t": grid,
        "features": _features(windows),
        "features_no_length": _features(_run(network, spectrogram)),
        "scene_mean": _features(windows).mean(dim=1),
    }
    for number, window in enumerate(windows):
        results[f"chunk{number}/tokens"] = window.tokens
        results |= {f"chunk{number}/block{layer}": states for layer, states in enumerate(window.blocks)}
    if "features_if_heads_ignored" in case.expected:
        other = published.network(encoder_attention_heads=HEADS_OF_A_LOADER_THAT_READS_NONE)
        results["features_if_heads_ignored"] = _features(_run(other, spectrogram))
    for name in [name for name in results if name in case.expected]:
        case.within(name, results[name], features)
    if "db" in case.expected:
        case.within("db", _bins_first(spectrogram), tolerances["front_end_db"])
    if "spec_bn" in case.expected:
        case.within("spec_bn", _bins_first(whole.normalized)[:, None], _of_norm(network, tolerances["front_end_db"]))
    if "cls_positions" in case.expected:
        starts = torch.tensor([0] + [window.last.shape[1] for window in windows[:-1]]).cumsum(0)
        case.compare("cls_positions", starts)
    if "key_padding_mask" in case.expected and valid is not None:
        case.compare("key_padding_mask", torch.arange(grid.shape[3]) >= valid[:, None])
    for name, value in (("frames", spectrogram.shape[1]), ("patches", whole.patches.shape[1])):
        if name in case.open_scalars:
            case.scalar(name, value)
    _check_audio_encoder(case, published, network)
    _compare_facts(case, published, network)


def _of_norm(network: MaskedAutoencoder, decibel: Mapping[str, float]) -> dict[str, float]:
    """How far the normalised spectrogram may be off when its decibels may be so far."""
    slope = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()  # type: ignore[operator,union-attr]
    return {"atol": decibel["atol"] * float(slope.detach().abs().max())}


def _check_audio_encoder(case: Case, published: Published, network: MaskedAutoencoder) -> None:
    """What a user gets: clips of any lengths in one call, each as if it were alone."""
    encoder = AudioEncoder(published.frontend, network).eval()
    tolerance, waveforms = case.config["tolerances"]["features"], case.input["waveform"]
    alone = sorted(name for name in case.expected if name.startswith("alone"))
    if alone:
        rows = [int(name.split("/")[0].removeprefix("alone")) for name in alone]
        clips = [waveforms[row, : int(case.input["x_length"][row])] for row in rows]
        found = encoder(clips, published.task.sample_rate)
        for row, name in enumerate(alone):
            case.within(name, found.frames[row, : found.lengths[row]], tolerance)
    elif len(waveforms) == 1 and published.num_chan == 1 and not network.num_class:
        found = encoder(list(waveforms), published.task.sample_rate)
        case.within("features", found.frames, tolerance)
        if "scene_mean" in case.expected:
            case.within("scene_mean", found.clip, tolerance)


def _check_other_lengths(case: Case) -> None:
    """The table of times, and with it the windows, fitted to other lengths."""
    published, tolerances = Published(case), case.config["tolerances"]
    table = published.state[TIME]
    for name in sorted({name.split("/")[0] for name in case.expected}):
        columns = int(name.removeprefix("target_")) // published.model.ast_kernel_stride_time
        published.state = {**published.state, TIME: resize_axis(table, columns)}
        network = published.network(max_columns=columns, window_columns=columns)
        theirs = published.names.to_theirs(dict(network.named_parameters()))
        case.within(f"{name}/time_pos_embed", theirs["time_pos_embed"], tolerances["features"])
        windows = _run(network, published.decibels(case.input["waveform"]))
        case.within(f"{name}/features", _features(windows), tolerances["features"])
    published.state = {**published.state, TIME: table}
    _compare_facts(case, published, published.network())


# ---- Hugging Face's container and its own way with long audio


def _check_hugging_face(case: Case) -> None:
    published, tolerances = Published(case), case.config["tolerances"]
    network = published.network()
    spectrogram = published.decibels(case.input["waveform"])
    case.within("input_values", _bins_first(spectrogram), tolerances["front_end_db"])
    hidden = _features(_run(network, spectrogram))
    case.within("hidden_states", hidden, tolerances["features"])
    case.within("logits", _class_shares(case, hidden), tolerances["features"])
    if "waveform_long" in case.input:
        spectrogram = published.decibels(case.input["waveform_long"])
        case.within("long/features_original", _features(_run(network, spectrogram)), tolerances["features"])
        case.within("long/hidden_states_hf", _filled_pieces(network, spectrogram), tolerances["features"])
    prepares = {
        "feature_size": published.task.feature_dim,
        "hop_size": published.frontend.hop,
        "n_fft": published.frontend.convention.fft_size,  # type: ignore[attr-defined]
        "win_size": len(published.frontend.convention.window),  # type: ignore[attr-defined]
        "sampling_rate": published.task.sample_rate,
        "f_min": 0,
        "f_max": published.task.sample_rate // 2,
        "center": True,
        "padding_value": 0.0,
    }
    for name, value in prepares.items():
        if f"hf_preprocessor_config.{name}" in case.open_scalars:
            case.scalar(f"hf_preprocessor_config.{name}", value)
    rest = "hf_preprocessor_config"  # names and sides of its own classes
    case.open_scalars = {name: value for name, value in case.open_scalars.items() if name.split(".")[0] != rest}
    _compare_facts(case, published, network)


def _class_shares(case: Case, hidden: Tensor) -> Tensor:
    """Shares of classes from the mean over time; without a head, of the features themselves."""
    tensors, clip = load_file(case.folder / case.config["checkpoint_file"]), hidden.mean(dim=1)
    if "outputlayer.1.weight" in tensors:
        norm = (tensors["outputlayer.0.weight"], tensors["outputlayer.0.bias"])
        clip = nn.functional.layer_norm(clip, clip.shape[1:], *norm)
        clip = nn.functional.linear(clip, tensors["outputlayer.1.weight"], tensors["outputlayer.1.bias"])
    return clip.sigmoid()


@torch.no_grad()
def _filled_pieces(network: MaskedAutoencoder, spectrogram: Tensor) -> Tensor:
    """Windows of the spectrogram, the last filled up with the mean, as ``fill_windows`` has it.

    There what is a whole number of windows loses the last one.
    """
    full = network.tokens.num_frames(network.window_columns)
    whole, rest = divmod(spectrogram.shape[1], full)
    pieces = list(spectrogram.split(full, dim=1))[: whole if rest else max(1, whole - 1)]
    found = [network.encode(network.cut(piece)).stack.last for piece in pieces]
    if rest:
        last = nn.functional.pad(spectrogram[:, whole * full :], (0, 0, 0, full - rest))
        clips = network.cut(last, [rest] * len(last), fill=True)
        found.append(network.encode(clips).stack.last[:, : network.tokens.num_time(rest)])
    return torch.cat(found, dim=1)


# ---- pretraining


def _order(noise: Tensor, group: int) -> Tensor:
    """All tokens in the order of their scores; with groups, of the groups' scores."""
    order = noise.argsort(dim=1)
    return (order[..., None] * group + torch.arange(group)).flatten(1)


def _ours(index: Tensor, num_chan: int, num_tokens: int) -> Tensor:
    """Our indices of tokens that the original counts row of frequency by row of frequency."""
    columns = num_tokens // num_chan
    return (index % columns) * num_chan + index // columns


class Drawn:
    """The mask that scores of tokens or groups give."""

    def __init__(self, case: Case, noise: Tensor, num_chan: int) -> None:
        group = case.config["encoder"].get("group_masking", False)
        self.group = 2 if group is True else int(group) or 1
        self.shuffled = _order(noise, self.group)
        self.num_tokens = self.shuffled.shape[1]
        self.keep = count_visible(self.num_tokens, case.config["mask_ratio"])
        self.restored = self.shuffled.argsort(dim=1)
        self.removed = (self.restored >= self.keep).float()
        rows, hidden = len(noise), self.num_tokens - self.keep
        ours = _ours(self.shuffled, num_chan, self.num_tokens)
        self.mask = TokenMask(
            ours[:, : self.keep],
            ours[:, self.keep :].sort(dim=1).values,
            self.num_tokens,
            (self.keep,) * rows,
            (hidden,) * rows,
        )
        if num_chan == 1:
            self._check_masker(case, noise)

    def _check_masker(self, case: Case, noise: Tensor) -> None:
        """Our masker, given those scores: it hides what ranks lowest, the original what scores highest."""
        ranks = noise.argsort(dim=1, descending=True).argsort(dim=1)
        seeds = torch.zeros(len(noise), dtype=torch.long)
        request = MaskRequest(seeds, 0, [self.num_tokens] * len(noise), self.num_tokens)
        drawn = _by_groups(ranks, request, MaskSettings(ratio=case.config["mask_ratio"], span_length=self.group))
        if not torch.equal(drawn.hidden, self.mask.hidden):
            case.problems.append("our mask of the same scores is another")


def _loss(network: MaskedAutoencoder, clips: Clips, drawn: Drawn) -> Tensor:
    """The mean over hidden tokens, as our criterion has it."""
    loss, size, _ = MaskedPredictionCriterion(CRITERION).losses(network(clips, drawn.mask), len(clips.num_tokens))
    return loss / size


def _check_pretraining(case: Case) -> None:
    waveforms, config = case.input["waveform"], case.config
    stride, frames = config["encoder"]["patch_stride"][-1], 1 + waveforms.shape[1] // config["front_end"]["hop_length"]
    published = Published(case, columns=frames // stride)
    network, num_chan = published.network(), published.num_chan
    network.train(config["mode"] == "train")
    features = config["tolerances"]["features"]
    spectrogram = published.decibels(waveforms)
    clips, drawn = network.cut(spectrogram), Drawn(case, case.input["noise"], num_chan)
    case.compare("ids_shuffle", drawn.shuffled)
    case.compare("ids_restore", drawn.restored)
    case.within("mask", drawn.removed, {})
    case.compare("len_keep", torch.tensor(drawn.keep))
    if config["optimizer"] is None:
        _compare_statistics(case, network)
    encoded = network.encode(clips, drawn.mask)
    assert network.bridge is not None and network.decoder is not None
    decoder_input, _ = network.decoder_inputs(encoded.stack.last, clips, drawn.mask)
    decoded = network.decoder(decoder_input, None)
    found = {
        "encoder_input_tokens": encoded.inputs,
        "latent": encoded.stack.last,
        "decoder_projected": network.bridge(encoded.stack.last),
        "decoder_input": frequency_major(decoder_input, num_chan),
        **{f"encoder_block{layer}": states for layer, states in enumerate(encoded.stack.hidden)},
        **{f"decoder_block{n}": frequency_major(states, num_chan) for n, states in enumerate(decoded.hidden)},
    }
    for name in [name for name in found if name in case.expected]:
        case.within(name, found[name], features)
    _compare_losses(case, network, clips, drawn, network.reconstruct(decoded.last))  # type: ignore[misc]
    network.zero_grad()
    loss = _loss(network, clips, drawn)
    case.within("loss", loss, config["tolerances"]["loss"])
    loss.backward()
    _compare_gradients(case, published, network)
    _compare_facts(case, published, network)
    if config["optimizer"] is not None:
        _check_steps(case, published, spectrogram)


def _compare_statistics(case: Case, network: MaskedAutoencoder) -> None:
    for name, value in network.norm.named_buffers():
        if f"bn_after/{name}" in case.expected:
            case.within(f"bn_after/{name}", value, case.config["tolerances"]["features"])


def _compare_losses(case: Case, network: MaskedAutoencoder, clips: Clips, drawn: Drawn, predicted: Tensor) -> None:
    """Predictions and targets of all tokens, the error of each, and its mean with other targets than the recipe's."""
    num_chan, tolerances = network.tokens.num_chan, case.config["tolerances"]

    def theirs(patches: Tensor) -> Tensor:
        return frequency_major(their_values(patches, network), num_chan)

    whole = (clips.targets - clips.targets.mean()) / (clips.targets.var() + 1e-6).sqrt()
    normalised = standardised(clips.targets)
    case.within("pred", theirs(predicted), tolerances["pred"])
    case.within("target", theirs(clips.targets), tolerances["target_db"])
    case.within("target_normalised", theirs(normalised), tolerances["target_normalised"])
    errors = reconstruction_errors(predicted, normalised)[..., None]
    each = {**tolerances["loss"], "atol": tolerances["target_normalised"]["atol"]}
    case.within("loss_per_patch", frequency_major(errors, num_chan)[..., 0], each)
    for name, targets in (("loss_no_norm", clips.targets), ("loss_global_norm", whole)):
        network.standard_targets = False
        case.within(name, _loss(network, replace(clips, targets=targets), drawn), tolerances["loss"])
        network.standard_targets = True


def _compare_gradients(case: Case, published: Published, network: MaskedAutoencoder) -> None:
    tolerances = case.config["tolerances"]
    ours = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    theirs = published.names.to_theirs({**ours, **_empty_rows(network)})
    for name in [name for name in case.expected if name.startswith("grad_norm/")]:
        case.within(name, theirs[name.removeprefix("grad_norm/")].norm(), tolerances["grad_norm"])
    for name in [name for name in case.expected if name.startswith("grad/")]:
        wanted = case.expected[name]
        # an entry may be off as much as the norm may
        relative = tolerances["grad_norm"]["rtol"] * float(wanted.norm()) + tolerances["grad_norm"]["atol"]
        case.within(name, theirs[name.removeprefix("grad/")], {"atol": relative})
    total = torch.stack([gradient.norm() for gradient in ours.values()]).norm()
    case.within("grad_norm_total", total, tolerances["grad_norm_total"])


def _empty_rows(network: MaskedAutoencoder) -> dict[str, Tensor]:
    """Rows of class tokens that there are none of, which stand in the same line of the table of names."""
    return {name: p for name, p in network.named_parameters() if name.endswith("class_rows") and not p.numel()}


def _check_steps(case: Case, published: Published, spectrogram: Tensor) -> None:
    options, tolerances = case.config["optimizer"], case.config["tolerances"]
    network = published.network().train(case.config["mode"] == "train")
    optimiser = torch.optim.AdamW(
        network.parameters(),
        lr=options["lr"],
        betas=tuple(options["betas"]),
        eps=options["eps"],
        weight_decay=options["weight_decay"],
    )
    losses = []
    for step in range(1, options["steps"] + 1):
        noise = case.input["noise" if step == 1 else f"noise_step{step}"]
        optimiser.zero_grad()
        loss = _loss(network, network.cut(spectrogram), Drawn(case, noise, published.num_chan))
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        stages = [f"param_after_step{step}"] + ["param_after_last_step"] * (step == options["steps"])
        theirs = published.names.to_theirs(dict(network.named_parameters()))
        for stage in stages:
            for name in [name for name in case.expected if name.startswith(f"{stage}/")]:
                case.within(name, theirs[name.removeprefix(f"{stage}/")], {"atol": 0.1 * options["lr"]})
    _compare_statistics(case, network)
    case.within("losses", torch.stack(losses), tolerances["losses"])


# ---- the schedule of the learning rate


def _check_schedule(case: Case) -> None:
    """The engine's cosine gives the original's, with one update of warm-up fewer and a period of the whole run."""
    for name, run in case.config["cases"].items():
        updates, warmup = run["epochs"] * run["epoch_length"], run["warmup_iters"]
        config = CosineLRScheduleConfig(
            lr=[run["lr"]],
            min_lr=run["lr"] * run["decay_frac"],
            warmup_init_lr=0.0,
            warmup_updates=warmup - 1 if warmup else 0,
            lr_period_updates=updates,
            max_update=updates,
        )
        options = {"common": {"tpu": False}, "optimization": {"lr": [run["lr"]]}, "optimizer": FairseqAdamConfig()}
        adam = FairseqAdam(OmegaConf.create(options).optimizer, [nn.Parameter(torch.zeros(1))])
        schedule = CosineLRSchedule(config, adam)
        rates = torch.tensor([schedule.step_update(update) for update in range(updates)], dtype=torch.float64)
        case.within(name, rates, case.config["tolerances"])
    case.open_scalars = {name: value for name, value in case.open_scalars.items() if not name.startswith("cases.")}
