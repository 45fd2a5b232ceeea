"""Settings: every mistake is one sentence that names its field, and all are reported together."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.limits import check, idle_settings, problems
from mae_ast_plugin.methods.settings import CriterionSettings, ModelSettings, TaskSettings, from_mapping

SECTIONS = {"model": ModelSettings, "task": TaskSettings, "criterion": CriterionSettings}


def settings(**changes: object) -> tuple[ModelSettings, TaskSettings, CriterionSettings]:
    """Default settings but for ``section__field=value``."""
    by_section: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for name, value in changes.items():
        section, _, field = name.partition("__")
        by_section[section][field] = value
    model, task, criterion = (kind(**by_section[section]) for section, kind in SECTIONS.items())
    return model, task, criterion


def test_the_defaults_have_no_problems_and_nothing_idle() -> None:
    model, task, criterion = settings()
    assert list(problems(model, task, criterion)) == []
    assert list(idle_settings(model, task)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"task__mask_type": "chunk_mask"},
        {"model__ast_kernel_size_chan": 128, "model__ast_kernel_stride_chan": 128,
         "model__ast_kernel_size_time": 2, "model__ast_kernel_stride_time": 2},
        {"task__mask_type": "retain_spans", "model__random_mask_prob": 1.45},
        {"task__mask_type": "span_mask", "model__mask_length": 7},
        {"model__ast_kernel_stride_chan": 8, "model__ast_kernel_stride_time": 10},
        {"task__deltas": True, "task__feature_dim": 16},
        {"model__decoder_embed_dim": 384, "model__use_post_enc_proj": True},
        {"criterion__classification_weight": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_what_works_is_no_problem(changes: dict[str, object]) -> None:
    assert list(problems(*settings(**changes))) == []


PROBLEMS: list[tuple[dict[str, object], str, str]] = [
    # changes, the field the sentence names, a word of it
    ({"model__ast_kernel_stride_chan": 15}, "model.ast_kernel_stride_chan", "does not divide"),
    ({"model__ast_kernel_size_chan": 129}, "model.ast_kernel_size_chan", "128 mel bins"),
    ({"model__ast_kernel_stride_time": 17}, "model.ast_kernel_stride_time", "never be seen"),
    ({"model__ast_kernel_size_chan": 8}, "model.ast_kernel_stride_chan", "never be seen"),
    ({"model__ast_kernel_size_chan": 0}, "model.ast_kernel_size_chan", "at least 1"),
    ({"model__ast_kernel_size_time": 0}, "model.ast_kernel_size_time", "at least 1"),
    ({"model__ast_kernel_stride_time": -1}, "model.ast_kernel_stride_time", "at least 1"),
    ({"task__feature_dim": 8}, "model.ast_kernel_size_chan", "8 mel bins"),
    ({"task__feature_dim": 0}, "task.feature_dim", "at least 1"),
    ({"task__sample_rate": 0}, "task.sample_rate", "at least 1"),
    ({"task__max_sample_size": 0}, "task.max_sample_size", "at least 1"),
    ({"task__min_sample_size": -1}, "task.min_sample_size", "at least 0"),
    ({"task__max_keep_size": -1}, "task.max_keep_size", "at least 0"),
    ({"task__mask_type": "chunk_patch"}, "task.mask_type", "chunk_mask"),
    ({"task__feature_type": "wav"}, "task.feature_type", "fbank"),
    ({"task__features_on": "gpu"}, "task.features_on", "device"),
    ({"task__resampler": "sox"}, "task.resampler", "soxr"),
    ({"task__max_unreadable": 1.5}, "task.max_unreadable", "between 0 and 1"),
    ({"task__keep_decoded_gb": -1.0}, "task.keep_decoded_gb", "at least 0"),
    ({"task__layer_decay": 0.0}, "task.layer_decay", "above 0"),
    ({"task__layer_decay": 1.1}, "task.layer_decay", "at most 1"),
    ({"task__decayed": "norms"}, "task.decayed", "weights_and_tokens"),
    ({"model__mask_selection": "gamma"}, "model.mask_selection", "poisson"),
    ({"model__mask_length": 0}, "model.mask_length", "at least 1"),
    ({"model__random_mask_prob": 0.0}, "model.random_mask_prob", "above 0"),
    ({"model__random_mask_prob": -0.1}, "model.random_mask_prob", "above 0"),
    ({"model__random_mask_prob": 1.0}, "model.random_mask_prob", "below 1"),
    ({"model__random_mask_prob": 75.0}, "model.random_mask_prob", "below 1"),
    ({"model__activation_fn": "glu"}, "model.activation_fn", "gelu"),
    ({"model__precision": "float16"}, "model.precision", "bfloat16"),
    ({"model__encoder_attention_heads": 5}, "model.encoder_attention_heads", "does not divide"),
    ({"model__encoder_attention_heads": 0}, "model.encoder_attention_heads", "at least 1"),
    ({"model__encoder_embed_dim": 0}, "model.encoder_embed_dim", "at least 1"),
    ({"model__encoder_ffn_embed_dim": 0}, "model.encoder_ffn_embed_dim", "at least 1"),
    ({"model__decoder_embed_dim": 384}, "model.decoder_embed_dim", "use_post_enc_proj"),
    ({"model__encoder_layers": 0}, "model.encoder_layers", "at least 1"),
    ({"model__decoder_layers": 0}, "model.decoder_layers", "hide_in_encoder"),
    ({"model__dropout": 1.1}, "model.dropout", "between 0 and 1"),
    ({"model__attention_dropout": -0.1}, "model.attention_dropout", "between 0 and 1"),
    ({"model__dropout_input": 2.0}, "model.dropout_input", "between 0 and 1"),
    ({"model__encoder_layerdrop": 2.0}, "model.encoder_layerdrop", "between 0 and 1"),
    ({"model__enc_conv_pos": True, "model__conv_pos_groups": 7}, "model.conv_pos_groups", "does not divide"),
    ({"criterion__reconstruction_weight": -1.0}, "criterion.reconstruction_weight", "at least 0"),
    ({"criterion__classification_weight": -1.0}, "criterion.classification_weight", "at least 0"),
    ({"criterion__reconstruction_weight": 0.0, "criterion__classification_weight": 0.0},
     "criterion.reconstruction_weight", "nothing to learn"),
    ({"model__norm_eps": 0.0}, "model.norm_eps", "above 0"),
    ({"model__input_std": 0.0}, "model.input_std", "above 0"),
    ({"model__input_std": -1.0}, "model.input_std", "above 0"),
    ({"model__drop_path": 1.0}, "model.drop_path", "below 1"),
    ({"model__drop_path": -0.1}, "model.drop_path", "at least 0"),
    ({"model__layer_scale": -0.1}, "model.layer_scale", "at least 0"),
    ({"model__attention_window": -1}, "model.attention_window", "at least 0"),
    ({"criterion__average_over": "clips"}, "criterion.average_over", "tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "field", "word"), PROBLEMS, ids=[str(changes) for changes, _, _ in PROBLEMS])
def test_each_mistake_is_a_sentence_that_names_its_field(changes: dict[str, object], field: str, word: str) -> None:
    found = list(problems(*settings(**changes)))
    assert any(field in sentence and word in sentence for sentence in found), found
    assert all("\n" not in sentence for sentence in found)


FLOATS = [
    (section, entry.name)
    for section, kind in SECTIONS.items()
    for entry in fields(kind)
    if isinstance(entry.default, float)
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("section", "name"), FLOATS)
def test_a_value_that_is_no_finite_number_is_refused(section: str, name: str, value: float) -> None:
    found = list(problems(*settings(**{f"{section}__{name}": value})))
    assert f"{section}.{name} is {value}; it must be a finite number" in found
    assert len(found) == 1 or not math.isnan(value)


def test_an_odd_width_is_a_problem_of_sinusoidal_positions() -> None:
    odd = settings(model__encoder_embed_dim=15, model__decoder_embed_dim=15, model__encoder_attention_heads=3)
    found = list(problems(*odd))
    assert any("model.encoder_embed_dim is 15" in sentence and "even" in sentence for sentence in found)


def test_several_problems_are_reported_together() -> None:
    with pytest.raises(PlainError) as caught:
        check(*settings(task__mask_type="none", model__dropout=3.0, criterion__average_over="clips"))
    for field in ("task.mask_type", "model.dropout", "criterion.average_over"):
        assert field in str(caught.value)


def test_settings_without_problems_pass_the_check() -> None:
    check(*settings())
    check(*settings()[:2])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model__mask_length": 5}, "model.mask_length"),
        ({"model__mask_selection": "uniform"}, "model.mask_selection"),
        ({"model__mask_selection": "uniform", "task__mask_type": "span_mask"}, "model.mask_selection"),
        ({"model__mask_min_space": 3, "task__mask_type": "retain_spans"}, "model.mask_min_space"),
        ({"model__conv_pos": 64}, "model.conv_pos"),
        ({"task__mask_spans": True}, "task.mask_spans"),
        ({"task__enable_padding": True}, "task.enable_padding"),
    ],
    ids=str,
)
def test_settings_without_effect_are_named(changes: dict[str, object], field: str) -> None:
    model, task, _ = settings(**changes)
    named = list(idle_settings(model, task))
    assert len(named) == 1 and named[0].startswith(f"{field} has no effect with ")


@pytest.mark.parametrize(
    "changes",
    [
        {"model__mask_length": 5, "task__mask_type": "span_mask"},
        {"model__mask_selection": "uniform", "task__mask_type": "retain_spans"},
        {"model__mask_min_space": 3, "model__no_mask_overlap": True, "task__mask_type": "retain_spans"},
        {"model__conv_pos": 64, "model__dec_conv_pos": True},
    ],
    ids=str,
)
def test_settings_with_an_effect_are_not_called_idle(changes: dict[str, object]) -> None:
    model, task, _ = settings(**changes)
    assert list(idle_settings(model, task)) == []


def test_unknown_names_of_a_mapping_are_left_out() -> None:
    made = from_mapping(ModelSettings, {"_name": "mae_ast", "encoder_layers": 3, "private_field": {"deep": 1}})
    assert made == ModelSettings(encoder_layers=3)


def test_missing_names_of_a_mapping_take_the_defaults() -> None:
    assert from_mapping(TaskSettings, {}) == TaskSettings()


@pytest.mark.parametrize("name", ["max_keep_size", "max_sample_size", "min_sample_size"])
def test_no_limit_in_a_mapping_stays_no_limit(name: str) -> None:
    assert getattr(from_mapping(TaskSettings, {name: None}), name) is None


@pytest.mark.parametrize("kind", SECTIONS.values())
def test_every_field_says_what_it_is(kind: type) -> None:
    assert all(field.metadata.get("help") for field in fields(kind))
