"""What settings may be: every rule that one or several of them break, each in a sentence that names the setting.

Rules are collected, so that a user hears of all mistakes at once. The schema itself is in ``settings.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields

from mae_ast_plugin.audio.frontend import CONVENTIONS, VARYING
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.settings import INPUT_NORMS, TABLE_KINDS, CriterionSettings, ModelSettings, TaskSettings
from mae_ast_plugin.methods.stage_limits import length_problems, stage_problems
from mae_ast_plugin.methods.statistics import read_statistics
from mae_ast_plugin.nn.initialization import INITIALIZATIONS
from mae_ast_plugin.nn.losses import ERRORS
from mae_ast_plugin.nn.masking import MASKERS, SPAN_LAWS
from mae_ast_plugin.nn.parameter_groups import DECAYED
from mae_ast_plugin.nn.transformer import ACTIVATIONS


def _infinite(settings: ModelSettings | TaskSettings | CriterionSettings, section: str) -> Iterator[str]:
    """No comparison finds a value that is no number, so it would pass every other rule."""
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{section}.{entry.name} is {value}; it must be a finite number"


def _shares(settings: object, section: str, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = getattr(settings, name)
        if value < 0 or value > 1:
            yield f"{section}.{name} is {value}; it must be between 0 and 1"


def _at_least(settings: object, section: str, least: int, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < least:
            yield f"{section}.{name} is {value}; it must be at least {least}"


def _choice(value: str, name: str, choices: tuple[str, ...]) -> Iterator[str]:
    if value not in choices:
        yield f"{name} is {value!r}; it must be one of {', '.join(choices)}"


def _patch_problems(model: ModelSettings, num_features: int) -> Iterator[str]:
    sizes = ("ast_kernel_size_chan", "ast_kernel_size_time", "ast_kernel_stride_chan", "ast_kernel_stride_time")
    yield from _at_least(model, "model", 1, sizes)
    if model.ast_kernel_size_chan > num_features:
        yield (
            f"model.ast_kernel_size_chan is {model.ast_kernel_size_chan}, but there are only {num_features} mel bins "
            "(task.feature_dim)"
        )


def _lost_parts(model: ModelSettings, num_features: int) -> Iterator[str]:
    """Patches that can be cut but leave parts of the spectrogram out."""
    kernel, stride = model.ast_kernel_size_chan, model.ast_kernel_stride_chan
    if stride >= 1 and kernel <= num_features and (num_features - kernel) % stride:
        yield (
            f"model.ast_kernel_stride_chan is {stride}, which does not divide the {num_features} mel bins into "
            f"patches of "
            f"{kernel}: the last {(num_features - kernel) % stride} bins would be lost"
        )
    for axis, size, step in (
        ("chan", kernel, stride),
        ("time", model.ast_kernel_size_time, model.ast_kernel_stride_time),
    ):
        if step > size:
            yield f"model.ast_kernel_stride_{axis} is {step}, larger than the patch ({size}): parts would never be seen"


def _mask_problems(model: ModelSettings, task: TaskSettings) -> Iterator[str]:
    yield from _choice(task.mask_type, "task.mask_type", tuple(MASKERS))
    yield from _choice(model.mask_selection, "model.mask_selection", SPAN_LAWS)
    if model.random_mask_prob <= 0:
        yield f"model.random_mask_prob is {model.random_mask_prob}; it must be above 0"
    elif task.mask_type != "retain_spans" and model.random_mask_prob >= 1:
        yield (
            f"model.random_mask_prob is {model.random_mask_prob}; it is the share of hidden tokens and must be below 1 "
            f"(only task.mask_type=retain_spans takes more)"
        )
    if model.mask_length < 1:
        yield f"model.mask_length is {model.mask_length}; a span has at least 1 token"


def network_problems(model: ModelSettings, task: TaskSettings) -> Iterator[str]:
    """Say, a sentence each, why no network can be built."""
    yield from _infinite(model, "model")
    yield from _infinite(task, "task")
    yield from _choice(task.feature_type, "task.feature_type", tuple(CONVENTIONS))
    yield from _choice(model.activation_fn, "model.activation_fn", tuple(ACTIVATIONS))
    yield from _at_least(task, "task", 1, ("sample_rate", "feature_dim"))
    yield from _at_least(
        model,
        "model",
        1,
        (
            "encoder_layers",
            "encoder_embed_dim",
            "decoder_embed_dim",
            "encoder_ffn_embed_dim",
            "encoder_attention_heads",
            "conv_pos",
            "conv_pos_groups",
        ),
    )
    yield from _at_least(
        model,
        "model",
        0,
        ("decoder_layers", "class_tokens", "max_columns", "layer_scale", "window_columns", "attention_window"),
    )
    yield from _at_least(model, "model", 1, ("decoder_ffn_embed_dim", "decoder_attention_heads"))
    yield from _choice(model.input_norm, "model.input_norm", INPUT_NORMS)
    yield from _choice(model.weight_init, "model.weight_init", tuple(INITIALIZATIONS))
    if model.fill_windows and not model.window_columns:
        yield "model.fill_windows is true and model.window_columns is 0; say how long a window is"
    if model.norm_eps <= 0:
        yield f"model.norm_eps is {model.norm_eps}; it must be above 0"
    if model.input_std <= 0:
        yield f"model.input_std is {model.input_std}; spectrograms are divided by it, so it must be above 0"
    if model.drop_path < 0 or model.drop_path >= 1:
        yield f"model.drop_path is {model.drop_path}; it must be at least 0 and below 1"
    if model.standard_targets and model.standard_bins:
        yield "model.standard_targets and model.standard_bins are both true; patches or mel bins are standardised"
    yield from _patch_problems(model, task.feature_dim * (3 if task.deltas else 1))
    yield from _table_problems(model)
    yield from _width_problems(model)
    if model.stage_layers:
        yield from stage_problems(model, task.feature_dim * (3 if task.deltas else 1))


def problems(model: ModelSettings, task: TaskSettings, criterion: CriterionSettings | None = None) -> Iterator[str]:
    """Say, a sentence each, why a run cannot work."""
    yield from network_problems(model, task)
    if model.stage_layers:
        yield from length_problems(model, task)
    yield from _lost_parts(model, task.feature_dim * (3 if task.deltas else 1))
    yield from _mask_problems(model, task)
    yield from _choice(task.features_on, "task.features_on", ("device", "loader"))
    yield from _varying_problems(task)
    yield from _choice(task.resampler, "task.resampler", ("soxr", "sinc_hann"))
    yield from _choice(model.precision, "model.precision", ("float32", "bfloat16"))
    yield from _choice(task.cut, "task.cut", ("crop", "pieces", "all_pieces"))
    yield from _choice(task.decayed, "task.decayed", tuple(DECAYED))
    if task.layer_decay <= 0 or task.layer_decay > 1:
        yield f"task.layer_decay is {task.layer_decay}; it must be above 0 and at most 1"
    if task.cut != "crop" and task.max_sample_size is None:
        yield f"task.cut={task.cut} needs a length; set task.max_sample_size"
    yield from _at_least(task, "task", 1, ("max_sample_size", "num_pictures"))
    counts = ("picture_interval_updates", "min_sample_size", "max_keep_size", "max_skipped_updates")
    yield from _at_least(task, "task", 0, counts)
    yield from _at_least(model, "model", 0, ("mask_min_space", "mask_other"))
    yield from _statistics_problems(model, task.feature_dim * (3 if task.deltas else 1))
    if model.embeds_only:
        yield "model.embeds_only is true: such a network has nothing to be pretrained with; set it to false"
    yield from _at_least(task, "task", 0, ("keep_decoded_gb",))
    yield from _shares(task, "task", ("max_unreadable",))
    yield from _shares(
        model,
        "model",
        (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "dropout_input",
            "encoder_layerdrop",
            "decoder_layerdrop",
        ),
    )
    if criterion is not None:
        yield from _infinite(criterion, "criterion")
        yield from _at_least(criterion, "criterion", 0, ("reconstruction_weight", "classification_weight"))
        if criterion.reconstruction_weight == 0 and criterion.classification_weight == 0:
            yield "criterion.reconstruction_weight and criterion.classification_weight are both 0: nothing to learn"
        yield from _choice(criterion.nce_over, "criterion.nce_over", ("targets", "predictions"))
        yield from _choice(criterion.reconstruction_error, "criterion.reconstruction_error", tuple(ERRORS))
        yield from _choice(criterion.average_over, "criterion.average_over", ("tokens", "batches"))


def _varying_problems(task: TaskSettings) -> Iterator[str]:
    if task.vary_filters and task.feature_type not in VARYING:
        yield (
            f"task.vary_filters is true, but the filters of task.feature_type={task.feature_type} are fixed; "
            f"only {' and '.join(VARYING)} can vary theirs"
        )
    if task.vary_filters and task.features_on == "loader":
        yield "task.vary_filters is true, which works on batches; set task.features_on=device"


def _statistics_problems(model: ModelSettings, num_features: int) -> Iterator[str]:
    if model.input_statistics and model.input_norm == "fixed":
        try:
            read_statistics(model.input_statistics, num_features)
        except PlainError as error:
            yield str(error)


def _table_problems(model: ModelSettings) -> Iterator[str]:
    for name, kind, width in (
        ("enc_table_pos", model.enc_table_pos, model.encoder_embed_dim),
        ("dec_table_pos", model.dec_table_pos, model.decoder_embed_dim),
    ):
        yield from _choice(kind, f"model.{name}", TABLE_KINDS)
        if kind != "none" and model.max_columns < 1:
            yield f"model.{name} is {kind} and model.max_columns is 0; say how many columns of patches a clip may have"
        if kind == "sincos" and width % 4:
            yield f"model.{name} is sincos and the width {width}; positions in two dimensions need a multiple of 4"


def _width_problems(model: ModelSettings) -> Iterator[str]:
    encoder_heads = ("model.encoder_attention_heads", model.encoder_attention_heads)
    decoder_heads = encoder_heads
    if model.decoder_attention_heads is not None:
        decoder_heads = ("model.decoder_attention_heads", model.decoder_attention_heads)
    stacks = [("encoder", model.encoder_embed_dim, encoder_heads, model.enc_conv_pos, model.enc_sine_pos)]
    if model.decoder_layers:
        stacks.append(("decoder", model.decoder_embed_dim, decoder_heads, model.dec_conv_pos, model.dec_sine_pos))
    for stack, width, (setting_name, num_heads), conv, sine in stacks:
        if width % max(1, num_heads):
            yield f"model.{stack}_embed_dim is {width}, which {setting_name}={num_heads} does not divide"
        if sine and width % 2:
            yield f"model.{stack}_embed_dim is {width}; sinusoidal positions need an even width"
        if conv and width % max(1, model.conv_pos_groups):
            yield (
                f"model.conv_pos_groups is {model.conv_pos_groups}, which does not divide "
                f"model.{stack}_embed_dim={width}"
            )
    differ = model.encoder_embed_dim != model.decoder_embed_dim
    if model.decoder_layers and differ and not model.use_post_enc_proj:
        yield (
            f"model.decoder_embed_dim is {model.decoder_embed_dim} and model.encoder_embed_dim "
            f"{model.encoder_embed_dim}: "
            f"set them equal or model.use_post_enc_proj=true"
        )
    if not model.decoder_layers and not model.hide_in_encoder and not model.embeds_only:
        yield (
            "model.decoder_layers is 0 and model.hide_in_encoder false: nothing sees the hidden tokens' places; "
            "set one of them"
        )


def idle_settings(model: ModelSettings, task: TaskSettings) -> Iterator[str]:
    """Name the settings that were changed but have no effect in the chosen mode."""
    spans = task.mask_type in ("retain_spans", "span_mask", "group_mask")
    rules = (
        ("model.mask_length", model.mask_length != 10 and not spans, f"task.mask_type={task.mask_type}"),
        (
            "model.mask_selection",
            model.mask_selection != "static" and task.mask_type != "retain_spans",
            f"task.mask_type={task.mask_type}",
        ),
        (
            "model.mask_min_space",
            model.mask_min_space != 0 and not model.no_mask_overlap,
            "model.no_mask_overlap=false",
        ),
        (
            "model.conv_pos",
            model.conv_pos != 128 and not (model.enc_conv_pos or model.dec_conv_pos),
            "enc_conv_pos and dec_conv_pos both false",
        ),
        (
            "model.input_statistics",
            model.input_statistics != "" and model.input_norm != "fixed",
            f"model.input_norm={model.input_norm}",
        ),
        *(
            (f"model.{name}", bool(getattr(model, name)) and not model.stage_layers, "model.stage_layers empty")
            for name in ("attention_window", "drop_path")
        ),
        ("task.mask_spans", task.mask_spans, "any mask type; choose task.mask_type"),
        ("task.enable_padding", task.enable_padding, "any mode; see task.pad_audio"),
        ("task.normalize", task.normalize, "any mode; spectrograms are normalised by the network"),
    )
    for name, idle, mode in rules:
        if idle:
            yield f"{name} has no effect with {mode}"


def check(model: ModelSettings, task: TaskSettings, criterion: CriterionSettings | None = None) -> None:
    """Raise one PlainError that reports all problems together."""
    found = list(problems(model, task, criterion))
    if found:
        raise PlainError("; ".join(found))
