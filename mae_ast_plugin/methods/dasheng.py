"""Dasheng: Scaling up masked audio encoder learning for general audio classification (Dinkel, Yan, Wang, Zhang, Wang,
Wang 2024, https://arxiv.org/abs/2406.06992).

A ViT encoder over strips of four frames by all mel bins sees a quarter of them; a smaller ViT decoder reconstructs
the decibels of the others, strip by strip brought to mean 0 and variance 1. The front end and a normalisation of each
mel bin belong to the network. Follows the published code. ``docs/methods/dasheng.md`` says more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.method import Foreign, Method
from mae_ast_plugin.methods.names import Change, NameTable
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, from_mapping
from mae_ast_plugin.methods.vit import VECTOR, Row, block_rows, convolution, joined_tokens, patch_values

ENCODER = "encoder."  # before the encoder's names in files of the whole training module, and of Hugging Face
NETWORKS = {"dasheng_base": 12, "dasheng_06B": 24, "dasheng_12B": 24}  # heads, by the names of the training script
WIDTHS = {768: 12, 1280: 16, 1536: 24}  # heads, by the width of the published encoders
DECODER_HEAD_WIDTH = 32  # of both decoders of the training script
# what a file may say of its front end, with the values that the one here has
FRONT_END = {"n_fft": 512, "win_size": 512, "hop_size": 160, "f_min": 0, "f_max": 8000, "center": True, "top_db": 120}


def settings(found: Foreign) -> tuple[ModelSettings, TaskSettings]:
    """Read sizes off the shapes, and the number of heads off the configuration or, of published sizes, the width."""
    prefix = ENCODER if f"{ENCODER}time_pos_embed" in found.tensors else ""
    config, said, tensors = _config(found), _said_of_encoder(found), found.tensors
    for name, value in FRONT_END.items():
        if said.get(name, value) != value:
            raise PlainError(f"its front end has {name}={said[name]}; only {name}={value} is known")
    width, _, *kernel = tensors[f"{prefix}patch_embed.proj.weight"].shape
    stride = said.get("patch_stride", kernel)
    if not isinstance(stride, Sequence) or len(stride) != 2:
        raise PlainError(f"its patch_stride is {stride!r}; it must be two numbers, of frequency and of time")
    columns, group = tensors[f"{prefix}time_pos_embed"].shape[-1], said.get("group_masking", False)
    values = {
        "ast_kernel_size_chan": kernel[0],
        "ast_kernel_size_time": kernel[1],
        "ast_kernel_stride_chan": stride[0],
        "ast_kernel_stride_time": stride[1],
        "encoder_layers": found.count(f"{prefix}blocks"),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": tensors[f"{prefix}blocks.0.mlp.fc1.bias"].shape[0],
        "encoder_attention_heads": _heads(config, said, width),
        "layer_norm_first": True,
        "norm_eps": 1e-6,
        "layer_scale": said.get("init_values", 1.0) if f"{prefix}blocks.0.ls1.gamma" in tensors else 0.0,
        "class_tokens": int(f"{prefix}cls_token" in tensors),
        "enc_sine_pos": False,
        "dec_sine_pos": False,
        "enc_table_pos": "axes",
        "max_columns": columns,
        "window_columns": columns,
        "input_norm": "bins",
        "raw_targets": True,
        "standard_targets": True,
        "two_heads": False,
        "random_mask_prob": config.get("mask_ratio", 0.75),
        "weight_init": "xavier_encoder",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **({"mask_length": 2 if group is True else group} if group else {}),
        **_decoder_settings(found),
    }
    num_bins = tensors[f"{prefix}init_bn.1.weight"].shape[0]
    mask = "group_mask" if group else "random_mask"
    task = TaskSettings(feature_type="decibel_mel", feature_dim=num_bins, mask_type=mask)
    return from_mapping(ModelSettings, values), task


def _config(found: Foreign) -> Mapping[str, Any]:
    """The configuration beside the tensors: an entry of its own, or all of Hugging Face's config.json."""
    config = found.rest.get("config", found.rest)
    return config if isinstance(config, Mapping) else {}


def _said_of_encoder(found: Foreign) -> Mapping[str, Any]:
    """What the configuration says of the encoder.

    The training script nests it in ``model_args``, the whole training module in ``encoder``, Hugging Face in
    ``encoder_kwargs``; released files do not nest it. The original's own loader reads no nested one, and silently
    takes 8 heads then.
    """
    config = _config(found)
    nested = (config.get(key) for key in ("model_args", "encoder", "encoder_kwargs"))
    return next((part for part in nested if isinstance(part, Mapping)), config)


def _heads(config: Mapping[str, Any], said: Mapping[str, Any], width: int) -> Any:
    known = (said.get("num_heads"), NETWORKS.get(str(config.get("model"))), WIDTHS.get(width))
    heads = next((number for number in known if number is not None), None)
    if heads is None:
        raise PlainError(f"nothing says how many attention heads its encoder of width {width} has (num_heads)")
    return heads


def _decoder_settings(found: Foreign) -> dict[str, Any]:
    """The decoder of a whole training module; all files that the original writes hold the encoder alone."""
    if not found.has("decoder.input_proj.weight"):
        return {"embeds_only": True, "decoder_layers": 0}
    said = _config(found).get("decoder")
    width = found.tensors["decoder.input_proj.weight"].shape[0]
    heads = said.get("num_heads") if isinstance(said, Mapping) else None
    return {
        "decoder_layers": found.count("decoder.blocks"),
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": found.tensors["decoder.blocks.0.mlp.fc1.bias"].shape[0],
        "decoder_attention_heads": heads or max(1, width // DECODER_HEAD_WIDTH),
        "use_post_enc_proj": True,
        "dec_table_pos": "learned",
    }


def names(model: ModelSettings, task: TaskSettings, columns: int | None = None) -> NameTable:
    """The published names: those of an encoder alone, or of the whole training module.

    ``columns`` of the clips that the decoder's positions are for, if it has several rows of frequency: in the original
    they count the tokens of the clip at hand, row by row. None: clips as long as the table.
    """
    kernel = (model.ast_kernel_size_time, model.ast_kernel_size_chan)
    num_chan = (task.feature_dim - model.ast_kernel_size_chan) // model.ast_kernel_stride_chan + 1
    rows: list[Row] = [
        ("patch_embed.proj.weight", "embed.weight", convolution(*kernel)),
        ("patch_embed.proj.bias", "embed.bias"),
        ("freq_pos_embed", "encoder_positions.grid.chan", _CHAN),
        *_time_rows(model.class_tokens),
        ("init_bn.1.{}", "norm.{}"),
        *block_rows("blocks", "encoder.layers"),
        ("norm.{}", "encoder.norm.{}"),
    ]
    front_end = "front_end.{}.{}.{}"  # the window and the filters, which are computed here
    head = "outputlayer.{}.{}"  # of a fine-tuned encoder, in front of nothing but the classes
    if model.embeds_only:
        return NameTable(rows, unused=[front_end, head], optional_prefix=ENCODER)
    places = num_chan * model.max_columns + 1
    rows = [(ENCODER + str(row[0]), *row[1:]) for row in rows]  # type: ignore[misc]
    rows += [
        ("decoder.input_proj.{}", "bridge.{}"),
        ("decoder.mask_token", "decoder_mask_token", VECTOR),
        (
            "decoder.pos_embed",
            ("decoder_positions.grid.table", "decoder_positions.grid.class_rows"),
            _decoder_table(num_chan, columns or model.max_columns, places, model.class_tokens),
        ),
        *block_rows("decoder.blocks", "decoder.layers"),
        ("decoder.norm.{}", "decoder.norm.{}"),
        *[(f"decoder.outputlayer.{kind}", f"reconstruct.{kind}", patch_values(*kernel)) for kind in ("weight", "bias")],
    ]
    return NameTable(rows, unused=[ENCODER + front_end])


_CHAN = Change(lambda table: (table[0, :, :, 0].t(),), lambda chan: (chan.t()[None, :, :, None],))
_TIME = Change(lambda table: (table[0, :, 0].t(),), lambda time: (time.t()[None, :, None],))
_TIME_ALONE = Change(
    lambda table: (table[0, :, 0].t(), table.new_empty(0, table.shape[1])),
    lambda time, class_rows: (time.t()[None, :, None],),
)
"""Positions along an axis (1, D, ...) and ours (T, D); alone: with the rows of no class tokens."""


def _time_rows(num_class: int) -> list[Row]:
    time, class_rows = "encoder_positions.grid.time", "encoder_positions.grid.class_rows"
    if not num_class:
        return [("time_pos_embed", (time, class_rows), _TIME_ALONE)]
    return [
        ("time_pos_embed", time, _TIME),
        ("token_pos_embed", class_rows),
        ("cls_token", "class_tokens", joined_tokens(1)),
    ]


def _decoder_table(num_chan: int, columns: int, num_rows: int, num_class: int) -> Change:
    """A table (1, rows, D), row of frequency by row of frequency, and ours (T, C, D).

    It has a row more than there are tokens. Nothing reads that one, it begins at zero and stays there: it is not kept.
    """

    def to_ours(table: Tensor) -> tuple[Tensor, Tensor]:
        grid = table[0, : num_chan * columns].unflatten(0, (num_chan, columns)).transpose(0, 1)
        return grid.contiguous(), table.new_zeros(num_class, table.shape[2])

    def to_theirs(table: Tensor, class_rows: Tensor) -> tuple[Tensor]:
        flat = table.transpose(0, 1).flatten(0, 1)
        return (F.pad(flat, (0, 0, 0, num_rows - len(flat)))[None],)

    return Change(to_ours, to_theirs)


def recognises(found: Foreign) -> bool:
    """Tell an encoder by its two tables of positions and the normalisation in front, with or without a prefix."""
    parts = ("time_pos_embed", "freq_pos_embed", "init_bn.1.weight", "patch_embed.proj.weight")
    return any(found.has(*(prefix + part for part in parts)) for prefix in ("", ENCODER))


METHOD = Method(title="Dasheng", recognises=recognises, settings=settings, names=names)
