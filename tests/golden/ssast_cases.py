"""What each kind of SSAST case defines and how our code gives it. Kinds are told by their contents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from case import Case
from torch import Tensor, nn

from mae_ast_plugin.checkpoint import Checkpoint, regridded
from mae_ast_plugin.criterions.mae_ast import MaskedPredictionCriterion
from mae_ast_plugin.encoder import encoder_of
from mae_ast_plugin.methods import ssast
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.method import Foreign
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings
from mae_ast_plugin.nn.autoencoder import Encoded, MaskedAutoencoder, Predictions
from mae_ast_plugin.nn.masking import TokenMask, _clusters
from mae_ast_plugin.nn.positions import resize_grid
from s3prl_upstream.windows import cut_windows, filled_clips, window_states, windowed_states

CRITERION = CriterionSettings(reconstruction_weight=10.0, nce_over="predictions", average_over="batches")


def check(case: Case) -> str | None:
    """Compare everything a case defines; returns a reason where the case has to wait."""
    if "cluster_cases" in case.config:
        _check_masks(case)
    elif "upstream" in case.config:
        _check_upstream(case)
    elif "target_length" in case.config:
        return "mix-up, bands and labels of fine-tuning's data pipeline are not built yet"
    elif "finetuning" in case.config:
        _check_other_grid(case)
    elif "steps" in case.config:
        _check_training(case)
    else:
        _check_pretraining(case)
    return None


class Published:
    """A checkpoint of the original as our network, and the way back to its names and forms."""

    def __init__(self, case: Case) -> None:
        tensors = torch.load(case.folder / "checkpoint.pth", weights_only=True)
        found = Foreign(str(case.folder), tensors)
        model, self.task = ssast.METHOD.settings(found)
        # the tiny networks of the cases have narrower heads than any published file
        self.model = replace(model, encoder_attention_heads=case.config["model"]["num_heads"])
        self.names = ssast.METHOD.names(self.model, self.task)
        self.state, unknown = self.names.to_ours(tensors)
        case.problems += [f"{name}: not known" for name in unknown]
        back = self.names.to_theirs(self.state)
        kept = {name: tensor for name, tensor in tensors.items() if not self.names.is_unused(name)}
        if back.keys() != kept.keys() or any(not torch.equal(back[name], kept[name]) for name in kept):
            case.problems.append("the checkpoint does not come back as it was")

    def network(self, model: ModelSettings | None = None, task: TaskSettings | None = None) -> MaskedAutoencoder:
        network = autoencoder_of(model or self.model, (task or self.task).feature_dim)
        # the cases give spectrograms that are normalised already
        network.norm.mean.zero_()  # type: ignore[operator]
        network.norm.deviation.fill_(1.0)  # type: ignore[operator]
        return network

    def load(self, network: MaskedAutoencoder, state: Mapping[str, Tensor]) -> None:
        missing, unexpected = network.load_state_dict(dict(state), strict=False)
        assert not unexpected and set(missing) <= {"norm.mean", "norm.deviation", "decoder_mask_token"}, missing

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("module."): t for name, t in self.names.to_theirs(tensors).items()}


def frequency_major(tokens: Tensor, num_chan: int, num_class: int = 0) -> Tensor:
    """Our tokens (B, K + T C, D) in the original's order, class tokens in front."""
    first, rest = tokens[:, :num_class], tokens[:, num_class:]
    return torch.cat([first, rest.unflatten(1, (-1, num_chan)).transpose(1, 2).flatten(1, 2)], dim=1)


def their_values(patches: Tensor, network: MaskedAutoencoder) -> Tensor:
    """The values of our patches (..., P) in the original's order."""
    kernel = (network.tokens.kernel_time, network.tokens.kernel_chan)
    return patches.unflatten(-1, kernel).transpose(-1, -2).flatten(-2)


def _mask_of(hidden: Tensor, num_chan: int, num_tokens: int) -> tuple[TokenMask, Tensor]:
    """Our mask of the original's hidden tokens (B, M), and which of ours (B, M) each of theirs is."""
    columns = num_tokens // num_chan
    ours = (hidden % columns) * num_chan + hidden // columns
    ascending, place = ours.sort(dim=1)
    shown = torch.ones(len(ours), num_tokens, dtype=torch.bool).scatter(1, ours, False)
    visible = shown.nonzero()[:, 1].view(len(ours), -1)
    counts = [(num_tokens - hidden.shape[1],) * len(ours), (hidden.shape[1],) * len(ours)]
    return TokenMask(visible, ascending, num_tokens, *counts), place.argsort(dim=1)


def _pass(network: MaskedAutoencoder, x: Tensor, hidden: Tensor) -> tuple[Encoded, Predictions, Tensor]:
    clips = network.cut(x)
    mask, place = _mask_of(hidden, network.tokens.num_chan, clips.patches.shape[1])
    encoded = network.encode(clips, mask)
    return encoded, network.predict(network.decode(encoded.stack.last, clips, mask).last, clips, mask), place


def _joint(network: MaskedAutoencoder, x: Tensor, mpc: Tensor, mpg: Tensor, **changes: Any) -> tuple[Tensor, dict]:
    criterion = MaskedPredictionCriterion(replace(CRITERION, **changes))
    classification, reconstruction = _pass(network, x, mpc)[1], _pass(network, x, mpg)[1]
    loss, _, logging = criterion.losses(reconstruction, len(x), classification)
    return loss, logging


def _check_pretraining(case: Case) -> None:
    published = Published(case)
    network = published.network()
    published.load(network, published.state)
    network.train()
    config, num_chan, num_class = case.config, network.tokens.num_chan, network.num_class
    tolerance = config["tolerance"]
    x, mpc, mpg = (case.input[name] for name in ("x", "mask_mpc", "mask_mpg"))
    clips = network.cut(x)
    case.compare("unfold", frequency_major(their_values(clips.patches, network), num_chan))
    case.within("tokens_patch_embed", frequency_major(network.embed(clips.patches), num_chan), tolerance["hidden"])
    for name, hidden in (("mpc", mpc), ("mpg", mpg)):
        encoded, predictions, place = _pass(network, x, hidden)
        states = {"tokens_in": encoded.inputs, "norm": encoded.stack.last}
        states |= {f"block_{number}": layer for number, layer in enumerate(encoded.stack.hidden)}
        for key, state in states.items():
            case.within(f"{name}/{key}", frequency_major(state, num_chan, num_class), tolerance["hidden"])
        head = predictions.classified if name == "mpc" else predictions.reconstructed
        head = their_values(head, network).gather(1, place[..., None].expand(-1, -1, head.shape[-1]))
        case.within(f"{name}/pred", head, tolerance["hidden"])
        if name == "mpc":
            target = their_values(predictions.target, network)
            target = target.gather(1, place[..., None].expand(-1, -1, target.shape[-1]))
            case.within("mpc/logits", target @ head.transpose(1, 2), tolerance["hidden"])
    kinds: dict[str, dict[str, Any]] = {
        "joint": {},
        "mpc": {"reconstruction_weight": 0.0},
        "mpg": {"reconstruction_weight": 1.0, "classification_weight": 0.0},
    }
    for kind, changes in kinds.items():
        network.zero_grad()
        loss, logging = _joint(network, x, mpc, mpg, **changes)
        loss.backward()
        found = {"joint/loss": loss, "mpc/nce": logging["loss_info_nce"], "mpg/mse": logging["loss_recon"]}
        found["mpc/acc"] = logging["matched"]
        for name in [name for name in found if name.split("/")[0] == kind]:
            case.within(name, found[name].reshape(()), {"atol": 1e-6} if name == "mpc/acc" else tolerance["loss"])
        _compare_gradients(case, published, network, kind)
    _compare_facts(case, published, network)


def _compare_gradients(case: Case, published: Published, network: MaskedAutoencoder, kind: str) -> None:
    tolerance = case.config["tolerance"]
    ours = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in network.named_parameters()}
    theirs = published.to_theirs(ours)
    for name in [name for name in case.expected if name.startswith(f"gradnorm_{kind}/")]:
        case.within(name, theirs[name.split("/", 1)[1]].norm(), tolerance["gradnorm"])
    for name in [name for name in case.expected if name.startswith(f"grad_{kind}/")]:
        case.within(name, theirs[name.split("/", 1)[1]], tolerance["grad"])


def _compare_facts(case: Case, published: Published, network: MaskedAutoencoder) -> None:
    tokens, config = network.tokens, case.config
    found = {
        "fshape": tokens.kernel_chan,
        "tshape": tokens.kernel_time,
        "fstride": tokens.stride_chan,
        "tstride": tokens.stride_time,
        "input_fdim": tokens.num_mel_bins,
        "patch_rows_freq": tokens.num_chan,
        "patch_cols_time": tokens.num_time(config["input_tdim"]),
        "num_patches": tokens.num_tokens(config["input_tdim"]),
        "cluster_masking": published.task.mask_type == "cluster_mask",
        "joint_weight_of_mse": CRITERION.reconstruction_weight,
        "normalisation.mean": published.model.input_mean,
        "normalisation.std": published.model.input_std / 2,
    }
    for name, value in found.items():
        if name in case.open_scalars:
            case.scalar(name, value)
    for name in ("input_tdim", "mask_patch"):  # these came from the case
        case.open_scalars.pop(name, None)
    if "params_without_gradient" in case.open_scalars:
        stored = torch.load(case.folder / "checkpoint.pth", weights_only=True)
        unused = [name.removeprefix("module.") for name in stored if published.names.is_unused(name)]
        wanted = case.open_scalars["params_without_gradient"]
        case.scalar("params_without_gradient", [name for name in unused if not name.startswith("p_input")] or wanted)


def _check_training(case: Case) -> None:
    published = Published(case)
    network = published.network()
    published.load(network, published.state)
    config, tolerance = case.config, case.config["tolerance"]
    options = config["optimizer"]
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    optimiser = torch.optim.Adam(
        network.parameters(),
        lr=options["lr"],
        betas=tuple(options["betas"]),
        eps=options["eps"],
        weight_decay=options["weight_decay_l2"],
    )
    found: dict[str, list[Tensor]] = {name: [] for name in ("acc", "nce", "mse", "loss")}
    for x, mpc, mpg in zip(case.input["x"], case.input["mask_mpc"], case.input["mask_mpg"], strict=True):
        optimiser.zero_grad()
        loss, logging = _joint(network, x, mpc, mpg)
        loss.backward()
        optimiser.step()
        for name, value in zip(
            found, (logging["matched"], logging["loss_info_nce"], logging["loss_recon"], loss), strict=True
        ):
            found[name].append(value.detach().reshape(()))
    for name, values in found.items():
        case.within(name, torch.stack(values), tolerance["loss"])
    after = dict(network.named_parameters())
    theirs = published.to_theirs(after)
    change = published.to_theirs({name: after[name] - before[name] for name in after})
    for name in [name for name in case.expected if name.startswith("after/")]:
        case.within(name, theirs[name.removeprefix("after/")], tolerance["after"])
    for name in [name for name in case.expected if name.startswith("delta_norm/")]:
        key = name.removeprefix("delta_norm/")
        # what the original builds and never uses has no counterpart here, and does not move there
        moved = change[key].norm() if key in change else torch.zeros(())
        case.within(name, moved, tolerance["delta_norm"])
    _compare_facts(case, published, network)
    case.open_scalars = {
        name: value for name, value in case.open_scalars.items() if name.split(".")[0] not in ("optimizer", "steps")
    }


def _check_other_grid(case: Case) -> None:
    """The encoder with other strides, its table of positions fitted to them, and a head on top."""
    published, wanted, tolerance = Published(case), case.config["finetuning"], case.config["tolerance"]
    model = replace(
        published.model, ast_kernel_stride_chan=wanted["fstride"], ast_kernel_stride_time=wanted["tstride"],
        max_columns=wanted["patch_cols_time"],
    )  # fmt: skip
    network = published.network(model)
    table = "encoder_positions.grid.table"
    state = {**published.state, table: resize_grid(published.state[table], network.encoder_positions.grid.num_time, network.tokens.num_chan)}  # fmt: skip # noqa: E501
    published.load(network, state)
    num_chan, num_class = network.tokens.num_chan, network.num_class
    grid = network.encoder_positions.grid
    rows = torch.cat([grid.class_rows[None], grid(network.tokens.num_tokens(wanted["input_tdim"]))], dim=1)
    case.within("pos_embed", frequency_major(rows, num_chan, num_class), tolerance["pos_embed"])
    clips = network.cut(case.input["x"])
    case.within("tokens_patch_embed", frequency_major(network.embed(clips.patches), num_chan), tolerance["hidden"])
    encoded = network.encode(clips)
    case.within("tokens_in", frequency_major(encoded.inputs, num_chan, num_class), tolerance["hidden"])
    for number, layer in enumerate(encoded.stack.hidden):
        case.within(f"block_{number}", frequency_major(layer, num_chan, num_class), tolerance["hidden"])
    last = encoded.stack.last
    case.within("norm", frequency_major(last, num_chan, num_class), tolerance["hidden"])
    head = nn.Sequential(nn.LayerNorm(last.shape[2]), nn.Linear(last.shape[2], wanted["label_dim"]))
    head.load_state_dict(
        {name.removeprefix("mlp_head."): tensor for name, tensor in case.input.items() if name.startswith("mlp_head")}
    )
    logits = head(network.own_tokens(last).mean(dim=1))
    case.within("logits_avgtok", logits, tolerance["logits"])
    case.within("logits_cls", head(last[:, :num_class].mean(dim=1)), tolerance["logits"])
    labels = case.input["labels"]
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    case.within("loss_bce_avgtok", loss, tolerance["loss"])
    cross_entropy = nn.functional.cross_entropy(logits, labels.argmax(dim=1))
    case.within("loss_ce_avgtok", cross_entropy, tolerance["loss"])
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    theirs = published.to_theirs(gradients)
    theirs |= {f"mlp_head.{name}": p.grad for name, p in head.named_parameters() if p.grad is not None}
    for name in [name for name in case.expected if name.startswith("gradnorm_bce/")]:
        case.within(name, theirs[name.removeprefix("gradnorm_bce/")].norm(), tolerance["gradnorm"])
    found = {
        "patch_rows_freq": num_chan,
        "patch_cols_time": network.tokens.num_time(wanted["input_tdim"]),
    }
    for name, value in found.items():
        case.scalar(f"finetuning.{name}", value)
    original = published.network()
    case.scalar("pretraining.patch_rows_freq", original.tokens.num_chan)
    case.scalar("pretraining.patch_cols_time", published.model.max_columns)
    given = ("finetuning", "pretraining", "params_without_gradient")
    case.open_scalars = {k: v for k, v in case.open_scalars.items() if k.split(".")[0] not in given}


def _check_masks(case: Case) -> None:
    for entry in case.config["cluster_cases"]:
        k, rows, columns, wanted = entry["k"], entry["rows"], entry["cols"], entry["mask_patch"]
        starts = case.input[f"starts_{k}"][None]
        total = torch.tensor([[rows * columns]])
        covered = _clusters(starts, torch.tensor([[entry["cluster"]]]), total, rows)
        union = covered[covered >= 0].unique()
        case.compare(f"union_sorted_{k}", union)
        if entry["equals_first_M_of_sorted_union"]:
            case.compare(f"mask_{k}", union[:wanted])
        else:
            # of few patches CPython's set keeps some others: which ones is its hash table's business, not a rule
            kept = case.expected[f"mask_{k}"]
            case.open_tensors.discard(f"mask_{k}")
            if len(kept) != wanted or not bool(torch.isin(kept, union).all()):
                case.problems.append(f"mask_{k}: holds what no cluster covers")
    for entry in case.config["frame_cases"]:
        kept = case.expected[f"frame_mask_{entry['k']}"]
        case.open_tensors.discard(f"frame_mask_{entry['k']}")
        if len(kept.unique()) != entry["mask_patch"] or int(kept.max()) >= entry["num_patches"]:
            case.problems.append(f"frame_mask_{entry['k']}: is no sample without replacement")
    given = ("cluster_cases", "frame_cases")
    case.open_scalars = {k: v for k, v in case.open_scalars.items() if k.split(".")[0] not in given}


@torch.no_grad()
def _check_upstream(case: Case) -> None:
    """The windows of s3prl's upstream."""
    published, wanted, tolerance = Published(case), case.config["upstream"], case.config["tolerance"]
    whole = Checkpoint(str(case.folder), "", published.model, published.task, published.state, 0)
    checkpoint = regridded(whole, wanted["tstride"], wanted["fstride"], wanted["window_frames"])
    encoder = encoder_of(checkpoint)
    tokens, grid = encoder.network.tokens, encoder.network.encoder_positions.grid
    rows = torch.cat([grid.class_rows[None], grid(tokens.num_tokens(wanted["window_frames"]))], dim=1)
    case.within("pos_embed", frequency_major(rows, tokens.num_chan, 2), tolerance["pos_embed"])
    wavs = [case.input[name] for name in sorted(case.input)]
    window = round(wanted["window_secs"] * wanted["sample_rate"])
    windows = cut_windows(wavs, window)
    clips = filled_clips(encoder, windows)
    case.within("window_features", clips.normalized, tolerance["features"])
    _, *hidden, _ = window_states(encoder, clips)
    longest = max(len(wav) for wav in wavs)
    _, *joined, _ = windowed_states(encoder, wavs, window)
    for number, (states, all_windows) in enumerate(zip(hidden, joined, strict=True)):
        case.within(f"window_hidden_{number}", states, tolerance["hidden"])
        case.within(f"hidden_{number}", all_windows[:, : -(-longest // encoder.samples_per_step)], tolerance["hidden"])
    found = {
        "vertical_patches": tokens.num_chan,
        "downsample_rate": encoder.samples_per_step,
        "num_windows": len(windows) // len(wavs),
        "window_frames": clips.normalized.shape[1],
        "kind": "frame" if tokens.num_chan == 1 else "patch",
    }
    for name, value in found.items():
        case.scalar(f"upstream.{name}", value)
    case.scalar("pretraining.patch_rows_freq", published.network().tokens.num_chan)
    case.scalar("pretraining.patch_cols_time", published.model.max_columns)
    given = ("upstream", "pretraining", "shapes")
    case.open_scalars = {k: v for k, v in case.open_scalars.items() if k.split(".")[0] not in given}
