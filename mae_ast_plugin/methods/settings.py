"""The settings of the machine and their meaning: one schema for all methods.

Field names are those of the original command line (``model.*``, ``task.*``, ``criterion.*``). Plain dataclasses:
fairseq reads them through its own subclasses, inference needs none of it. ``limits.py`` says what they may be.
"""
# No postponed annotations here: fairseq and omegaconf read the types of the fields.

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Optional, TypeVar, get_args

from mae_ast_plugin.audio.frontend import CONVENTIONS, VARYING
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.statistics import TABLES
from mae_ast_plugin.nn.initialization import INITIALIZATIONS
from mae_ast_plugin.nn.losses import ERRORS
from mae_ast_plugin.nn.masking import MASKERS, SPAN_LAWS
from mae_ast_plugin.nn.positions import GRIDS
from mae_ast_plugin.nn.transformer import ACTIVATIONS

S = TypeVar("S")
TABLE_KINDS = ("none", *GRIDS, "axes")
INPUT_NORMS = ("batch", "bins", "fixed", "clip")


def setting(default: Any, meaning: str) -> Any:
    """A field with its help text: what it is, its unit, its legal range."""
    return field(default=default, metadata={"help": meaning})


@dataclass
class ModelSettings:
    """``model.*``"""

    ast_kernel_size_chan: int = setting(16, "height of a patch [mel bins], 1 to the number of mel bins")
    ast_kernel_size_time: int = setting(16, "width of a patch [frames], at least 1")
    ast_kernel_stride_chan: int = setting(16, "step between patches along frequency [mel bins]")
    ast_kernel_stride_time: int = setting(16, "step between patches along time [frames]")
    encoder_layers: int = setting(12, "layers of the encoder")
    encoder_embed_dim: int = setting(768, "width of the encoder [values]")
    encoder_ffn_embed_dim: int = setting(3072, "width of the feed-forward part of encoder and decoder [values]")
    encoder_attention_heads: int = setting(12, "attention heads of the encoder; must divide its width")
    activation_fn: str = setting("gelu", f"activation of the feed-forward part: {', '.join(ACTIVATIONS)}")
    layer_norm_first: bool = setting(False, "norms before (true) or after (false) attention and feed-forward")
    feature_grad_mult: float = setting(1.0, "without effect, as in the original; accepted for its command lines")
    use_post_enc_proj: bool = setting(False, "put a linear layer between encoder and decoder")
    decoder_embed_dim: int = setting(768, "width of the decoder [values]; the encoder's unless use_post_enc_proj")
    decoder_layers: int = setting(2, "layers of the decoder; 0: predictions come from the encoder")
    decoder_ffn_embed_dim: Optional[int] = setting(None, "width of its feed-forward part [values]; null: the encoder's")
    decoder_attention_heads: Optional[int] = setting(None, "attention heads of the decoder; null: the encoder's")
    decoder_layerdrop: float = setting(0.0, "probability of leaving out a decoder layer in training, 0 to 1")
    dropout: float = setting(0.1, "dropout on the input of a stack and after attention and feed-forward, 0 to 1")
    attention_dropout: float = setting(0.1, "dropout of attention weights, 0 to 1")
    activation_dropout: float = setting(0.0, "dropout after the feed-forward activation, 0 to 1")
    encoder_layerdrop: float = setting(0.0, "probability of leaving out an encoder layer in training, 0 to 1")
    dropout_input: float = setting(0.0, "dropout of the projected tokens in pretraining, 0 to 1")
    random_mask_prob: float = setting(
        0.75,
        "share of the tokens that is hidden, between 0 and 1; with task.mask_type=retain_spans the original's "
        "parameter of the spans that are SHOWN, which may exceed 1",
    )
    mask_length: int = setting(
        10, "length of a span [tokens], or of a group [columns]; span_mask, retain_spans and group_mask only"
    )
    mask_selection: str = setting("static", f"law of the span length: {', '.join(SPAN_LAWS)}; retain_spans only")
    mask_other: float = setting(0.0, "second parameter of that law (smallest length, or standard deviation)")
    no_mask_overlap: bool = setting(False, "spans do not overlap; retain_spans only")
    mask_min_space: int = setting(0, "tokens between spans that do not overlap; retain_spans only")
    conv_pos: int = setting(128, "kernel of the convolutional positions [tokens]")
    conv_pos_groups: int = setting(16, "groups of the convolutional positions; must divide the widths")
    checkpoint_activations: bool = setting(False, "recompute each layer in the backward pass: less memory, more time")
    max_token_length: int = setting(48000, "without effect: positions grow as needed; accepted for old command lines")
    enc_sine_pos: bool = setting(True, "sinusoidal positions in the encoder")
    enc_conv_pos: bool = setting(False, "convolutional positions in the encoder")
    dec_sine_pos: bool = setting(True, "sinusoidal positions in the decoder")
    dec_conv_pos: bool = setting(False, "convolutional positions in the decoder")
    count_partial_patches: bool = setting(
        False, "a last patch that is partly padding is a token, as in the original; features then depend on the batch"
    )
    norm_eps: float = setting(1e-5, "added to the variance in the layers' norms")
    encoder_norm: bool = setting(True, "a norm behind the last layer of the encoder (before its first if post-norm)")
    layer_scale: float = setting(0.0, "where a learned factor on each half of a layer begins; 0: none")
    class_tokens: int = setting(0, "learned tokens that go through encoder and decoder beside those of the patches")
    hide_in_encoder: bool = setting(
        False, "hidden tokens go through the encoder as mask tokens (true), or leave before it (false)"
    )
    enc_table_pos: str = setting("none", f"table of positions in the encoder: {', '.join(TABLE_KINDS)}")
    dec_table_pos: str = setting("none", "table of positions in the decoder, likewise")
    max_columns: int = setting(0, "columns of patches that the tables have positions for; clips may have fewer")
    input_norm: str = setting(
        "batch",
        "normalisation of spectrograms: batch (one mean and variance, of the batches seen), bins (one of each mel bin, "
        "with a learned factor and offset), fixed (model.input_mean and input_std), clip (each clip's own mean and "
        "deviation)",
    )
    input_mean: float = setting(0.0, "fixed mean of spectrograms [log-mel]; input_norm=fixed only")
    input_std: float = setting(1.0, "what they are divided by then [log-mel]")
    input_statistics: str = setting(
        "",
        "mean and deviation of each mel bin in their place: a JSON file with lists mean and std, read when training "
        f"begins, or one of {', '.join(TABLES)}; input_norm=fixed only",
    )
    hidden_layer_in_heads: bool = setting(False, "predictions by two layers with a rectifier between, or by one")
    stage_layers: str = setting(
        "",
        "layers of each stage of the encoder, like 2-2-6-2, between which 2 x 2 tokens become one of twice the width; "
        "width, feed-forward and heads are those of the first stage; empty: no stages",
    )
    attention_window: int = setting(
        0, "side of the windows that attention stays in [tokens], at most the grid's; with stage_layers only"
    )
    drop_path: float = setting(
        0.0,
        "share of clips for which the halves of the last layer are left out in training, growing from 0 at the first; "
        "with stage_layers only",
    )
    norm_patches: bool = setting(False, "a norm behind the embedding of patches")
    two_heads: bool = setting(True, "another head for classification than for reconstruction")
    two_passes: bool = setting(False, "reconstruction and classification each in a pass and with a mask of its own")
    raw_targets: bool = setting(False, "predict the spectrogram as it was before the input's normalisation")
    standard_targets: bool = setting(False, "predict each patch brought to mean 0 and variance 1")
    standard_bins: bool = setting(False, "predict each mel bin of a clip brought to mean 0 and variance 1")
    window_columns: int = setting(
        0, "columns of patches that the network sees at once when it embeds; 0: any number. Longer clips go in windows"
    )
    fill_windows: bool = setting(False, "windows are filled up with the mean, which is seen like audio; else masked")
    weight_init: str = setting(
        "normal", f"law of the weights before training: {', '.join(INITIALIZATIONS)} (of all matrices, offsets zero)"
    )
    embeds_only: bool = setting(
        False, "no decoder, heads and mask tokens, as in files of encoders alone: embeds, cannot be pretrained"
    )
    precision: str = setting(
        "float32", "arithmetic of the network: float32, or bfloat16 by autocast with float32 weights"
    )


@dataclass
class TaskSettings:
    """``task.*``"""

    data: str = setting("", "folder with train.tsv, valid.tsv ... (python -m manifests scan makes them)")
    sample_rate: int = setting(16000, "every clip is resampled to this rate [Hz]")
    normalize: bool = setting(False, "without effect on spectrograms, as in the original")
    enable_padding: bool = setting(False, "without effect, as in the original")
    max_keep_size: Optional[int] = setting(
        None, "leave out longer clips [samples, at task.sample_rate if rates are known]"
    )
    max_sample_size: Optional[int] = setting(250000, "crop longer clips to this [samples at task.sample_rate]")
    min_sample_size: Optional[int] = setting(None, "leave out shorter clips [samples, likewise]")
    random_crop: bool = setting(True, "crop at a random place (true) or from the beginning (false)")
    cut: str = setting(
        "crop",
        "what an epoch takes of a clip longer than max_sample_size: one crop (crop), all whole pieces of that length "
        "(pieces), or these and what is left (all_pieces)",
    )
    pad_audio: bool = setting(
        True, "pad the clips of a batch to one of a few lengths (true) or crop all to the shortest (false)"
    )
    feature_type: str = setting("fbank", f"kind of features: {', '.join(CONVENTIONS)}")
    feature_rate: int = setting(
        100, "without effect: features have 100 frames a second; accepted for old command lines"
    )
    feature_dim: int = setting(128, "mel bins (columns, for the other kinds of features)")
    vary_filters: bool = setting(
        False, f"in training each batch has its own outer edges of the mel filters; {' and '.join(VARYING)} only"
    )
    deltas: bool = setting(False, "append first and second differences: three times the columns")
    mask_spans: bool = setting(False, "without effect, as in the original; see task.mask_type")
    mask_type: str = setting("random_mask", f"which tokens are hidden: {', '.join(MASKERS)}")
    features_on: str = setting("device", "where features are computed: device (in batches) or loader (per clip)")
    resampler: str = setting("soxr", "soxr, or sinc_hann: the original's filter, slower")
    keep_decoded_gb: float = setting(
        0.0,
        "keep training clips that are not cropped at random, once decoded, in a temporary file of up to this size "
        "[10^9 bytes, for each process]; 0: decode them in every epoch",
    )
    max_unreadable: float = setting(0.1, "end the run when more than this share of the clips read so far is unreadable")
    max_skipped_updates: int = setting(
        10, "end the run when the gradients of more updates than this in a row are not finite; fewer are left out"
    )
    layer_decay: float = setting(
        1.0,
        "learning rate of each layer of the encoder as a share of the next one's, above 0 to 1; what stands behind it "
        "learns at the full rate, what stands before it slowest; optimizer=adam only",
    )
    decayed: str = setting(
        "all",
        "which parameters the optimiser's weight decay reaches: all, weights_and_tokens (not offsets, norms and other "
        "factors) or weights (nor class tokens, mask tokens and positions); the last two with optimizer=adam only",
    )
    picture_interval_updates: int = setting(
        1000, "draw reconstructions of fixed validation clips every N updates; 0: never"
    )
    num_pictures: int = setting(4, "validation clips in that picture")


@dataclass
class CriterionSettings:
    """``criterion.*``"""

    reconstruction_weight: float = setting(10.0, "weight of the mean error of hidden patches; 0 leaves it out")
    reconstruction_error: str = setting("squared", f"error of a value of theirs: {', '.join(ERRORS)}")
    classification_weight: float = setting(1.0, "weight of the InfoNCE of hidden patches; 0 leaves it out")
    nce_over: str = setting(
        "targets",
        "what the softmax of the InfoNCE runs over: targets, for each prediction, or predictions, for each target",
    )
    average_over: str = setting(
        "tokens",
        "tokens: each hidden token of all processes weighs the same; batches: each process's batch, as the original",
    )


def layers_of_stages(model: ModelSettings) -> tuple[int, ...]:
    """Read ``model.stage_layers``; PlainError where it is no list of numbers above 0."""
    parts = model.stage_layers.split("-")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise PlainError(f"model.stage_layers is {model.stage_layers!r}; it must be like 2-2-6-2")
    return tuple(map(int, parts))


def from_mapping(kind: type[S], values: Mapping[str, Any]) -> S:
    """Fill settings of ``kind`` from a checkpoint's configuration; names it does not know are left out.

    PlainError for a value that is of another kind than the field.
    """
    given = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        value, types = values.get(entry.name), get_args(entry.type) or (entry.type,)
        if entry.name not in values or (value is None and type(None) not in types):
            continue
        is_truth = isinstance(value, bool)  # which Python also takes for a whole number
        if (bool not in types and is_truth) or not isinstance(value, types + (int,) * (float in types)):
            wanted = " or ".join("null" if each is type(None) else each.__name__ for each in types)
            raise PlainError(f"in its configuration {entry.name} is {value!r}, not of the kind {wanted}")
        given[entry.name] = value
    return kind(**given)
