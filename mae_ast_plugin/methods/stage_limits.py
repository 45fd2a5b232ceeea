"""What settings may be where the encoder works in stages (``model.stage_layers``); ``limits.py`` asks."""

from __future__ import annotations

from collections.abc import Iterator

from mae_ast_plugin.audio.frontend import CONVENTIONS, make_frontend
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, layers_of_stages

# what stages are built of, or have no place for
NEEDED = {
    "layer_norm_first": True,
    "hide_in_encoder": True,
    "fill_windows": True,
    "two_heads": False,
    "hidden_layer_in_heads": False,
    "decoder_layers": 0,
    "class_tokens": 0,
    "encoder_layerdrop": 0.0,
    "attention_dropout": 0.0,
}


def stage_problems(model: ModelSettings, num_features: int) -> Iterator[str]:
    """Say, a sentence each, why no stages can be built over ``num_features`` mel bins."""
    for name, needed in NEEDED.items():
        found = getattr(model, name)
        if found != needed and not (name == "hide_in_encoder" and model.embeds_only):
            yield f"model.{name} is {_said(found)}; stages (model.stage_layers) need {_said(needed)}"
    for axis in ("chan", "time"):
        kernel, stride = (getattr(model, f"ast_kernel_{part}_{axis}") for part in ("size", "stride"))
        if kernel != stride:
            yield f"model.ast_kernel_stride_{axis} is {stride}; stages (model.stage_layers) need the patch's {kernel}"
    if model.enc_table_pos != "none" and model.max_columns < model.window_columns:
        yield (
            f"model.max_columns is {model.max_columns}; stages (model.stage_layers) need positions for all "
            f"{model.window_columns} columns of model.window_columns"
        )
    if model.attention_window < 1:
        yield f"model.attention_window is {model.attention_window}; stages (model.stage_layers) need at least 1"
    try:
        num_layers = layers_of_stages(model)
    except PlainError as error:
        yield str(error)
        return
    if sum(num_layers) != model.encoder_layers:
        yield (
            f"model.stage_layers is {model.stage_layers} and model.encoder_layers {model.encoder_layers}; "
            f"set it to {sum(num_layers)}"
        )
    rows = num_features // max(1, model.ast_kernel_size_chan)
    yield from _grid_problems(rows, model.window_columns, len(num_layers), model.attention_window)


def length_problems(model: ModelSettings, task: TaskSettings) -> Iterator[str]:
    """Say that a run may come upon clips that are longer than the window."""
    if task.feature_type not in CONVENTIONS or min(task.feature_dim, task.sample_rate, model.window_columns) < 1:
        return
    frontend = make_frontend(task.feature_type, task.feature_dim, task.sample_rate, task.deltas)
    num_frames = model.window_columns * model.ast_kernel_size_time
    longest = frontend.num_samples(num_frames + 1) - 1
    if task.max_sample_size is None or task.max_sample_size > longest:
        found = "null" if task.max_sample_size is None else task.max_sample_size
        yield (
            f"task.max_sample_size is {found}, and the network sees the {num_frames} frames of model.window_columns: "
            f"{longest} samples at most"
        )


def _grid_problems(rows: int, columns: int, num_stages: int, window: int) -> Iterator[str]:
    """Both sides of the grid are halved from stage to stage, and there are whole windows in each."""
    for stage in range(num_stages):
        size = (rows >> stage, columns >> stage)
        side = max(1, min(window, *size))
        if (size[0] << stage, size[1] << stage) != (rows, columns) or size[0] % side or size[1] % side:
            yield (
                f"stage {stage + 1} of {num_stages} cannot be cut into windows of {side} x {side} tokens: the grid of "
                f"{rows} x {columns} patches (mel bins x model.window_columns) is {rows / 2**stage:g} x "
                f"{columns / 2**stage:g} there; choose other patches, windows or stages"
            )
            return


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
