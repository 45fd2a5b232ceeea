"""Laws of the one inference path, on networks of every build."""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mae_ast_plugin import load_model
from mae_ast_plugin.audio.resample import resample, sinc_hann
from mae_ast_plugin.checkpoint import OUR_PREFIX, Checkpoint
from mae_ast_plugin.encoder import AudioEncoder, Embeddings, encoder_of
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of, frontend_of
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings
from mae_ast_plugin.segments import Segment, segments_of, windows_of

RATE, MELS = 16000, 32
LAYERS, DECODER_LAYERS = 3, 2
WIDTH = 8
SMALL = {
    "encoder_layers": LAYERS,
    "decoder_layers": DECODER_LAYERS,
    "encoder_embed_dim": WIDTH,
    "decoder_embed_dim": WIDTH,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
}


def patches(chan: int, time: int, stride_chan: int = 0, stride_time: int = 0) -> dict[str, int]:
    return {
        "ast_kernel_size_chan": chan,
        "ast_kernel_size_time": time,
        "ast_kernel_stride_chan": stride_chan or chan,
        "ast_kernel_stride_time": stride_time or time,
    }


PATCH = patches(16, 4)
CONV = {"enc_conv_pos": True, "dec_conv_pos": True, "conv_pos": 4, "conv_pos_groups": 2}
# an encoder alone, with tokens beside those of the patches and positions for so many columns
ALONE = {
    **PATCH,
    "decoder_layers": 0,
    "layer_norm_first": True,
    "class_tokens": 2,
    "hide_in_encoder": True,
    "enc_sine_pos": False,
    "enc_table_pos": "learned",
    "max_columns": 80,
    "input_norm": "fixed",
    "input_mean": -6.0,
    "input_std": 3.0,
}
# name -> settings of the model, settings of the task
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "patch": (PATCH, {}),
    "frame": (patches(MELS, 2), {}),
    "overlap": (patches(16, 6, 8, 4), {}),
    "convolution": ({**PATCH, **CONV, "enc_sine_pos": False}, {}),
    "pre-norm": ({**PATCH, "layer_norm_first": True}, {}),
    "bridge": ({**PATCH, "use_post_enc_proj": True, "decoder_embed_dim": 4}, {}),
    "deltas": (patches(MELS, 4), {"deltas": True}),
    "8 kHz": (PATCH, {"sample_rate": 8000}),
    "class tokens": (ALONE, {"feature_type": "hanning_fbank"}),
    "own windows": ({**ALONE, "window_columns": 9, "max_columns": 9}, {}),
    "filled windows": ({**ALONE, "window_columns": 9, "max_columns": 9, "fill_windows": True}, {}),
}


def settings(kind: str, **changes: Any) -> tuple[ModelSettings, TaskSettings]:
    model, task = KINDS[kind]
    return ModelSettings(**{**SMALL, **model, **changes}), TaskSettings(**{"feature_dim": MELS, **task})


def make(kind: str = "patch", options: dict[str, Any] | None = None, **changes: Any) -> AudioEncoder:
    model, task = settings(kind, **changes)
    torch.manual_seed(0)
    frontend = frontend_of(task)
    network = autoencoder_of(model, frontend.num_features)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for name, value in (("running_mean", -6.0), ("running_var", 9.0)):
        if hasattr(network.norm, name):
            getattr(network.norm, name).fill_(value)
    return AudioEncoder(frontend, network, **(options or {})).eval()


@pytest.fixture(params=list(KINDS))
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    return make(request.param)


def noise(num_samples: int, seed: int = 0) -> Tensor:
    return torch.rand(num_samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def seconds_of(encoder: AudioEncoder, num_columns: float) -> float:
    return num_columns * encoder.step_seconds


def columns_of(encoder: AudioEncoder, num_samples: int) -> int:
    """Patches along time: those that a clip fills, or those that it begins where windows are filled up."""
    window, hop, tokens = encoder.frontend.num_samples(1), encoder.frontend.hop, encoder.network.tokens
    frames = 1 + (max(num_samples, encoder.shortest) - window) // hop
    if encoder.network.fill_windows:
        return -(-frames // tokens.stride_time)
    return 1 + (frames - tokens.kernel_time) // tokens.stride_time


def embed(encoder: AudioEncoder, waveforms: Any, *arguments: Any, **options: Any) -> Embeddings:
    with torch.no_grad():
        return encoder(waveforms, *arguments, **options)


def every_state(out: Embeddings) -> list[Tensor]:
    return [out.frames, *out.hidden_states]


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def assert_same(found: Embeddings, expected: Embeddings, rows: Sequence[int] | None = None) -> None:
    """Clip ``rows[i]`` of ``found`` is clip ``i`` of ``expected``, and what lies behind it is zero."""
    rows = range(len(expected.lengths)) if rows is None else rows
    assert found.lengths[list(rows)].tolist() == expected.lengths.tolist()
    assert_close(found.clip[list(rows)], expected.clip)
    for many, few in zip(every_state(found), every_state(expected), strict=True):
        for place, (row, steps) in enumerate(zip(rows, expected.lengths.tolist(), strict=True)):
            assert_close(many[row, :steps], few[place, :steps])
            assert not many[row, steps:].any()


# ------------------------------------------------------------------------------------------ clips among other clips


def test_a_clip_in_a_batch_is_embedded_as_if_alone(encoder: AudioEncoder) -> None:
    waves = [noise(length, seed) for seed, length in enumerate((9000, 5001, 1, 700, 11011))]
    together = embed(encoder, waves, encoder.sample_rate, with_decoder=True)
    for row, wave in enumerate(waves):
        assert_same(together, embed(encoder, [wave], encoder.sample_rate, with_decoder=True), [row])


@pytest.mark.parametrize("seed", range(6))
def test_any_clips_in_any_order_and_batches_and_windows_are_embedded_as_if_alone(seed: int) -> None:
    draw = random.Random(seed)
    kind = draw.choice(list(KINDS))
    window, batch = draw.choice([1, 2, 7, 30]), draw.choice([1, 5, 40, 1000])
    encoder = make(kind)
    encoder.window_seconds, encoder.batch_seconds = seconds_of(encoder, window), seconds_of(encoder, batch)
    lengths = [draw.choice([1, 399, 400, draw.randrange(1, 3000), draw.randrange(1, 20000)]) for _ in range(7)]
    waves = [noise(length, seed=100 + row) for row, length in enumerate(lengths)]
    order = draw.sample(range(7), 7)
    together = embed(encoder, [waves[row] for row in order], encoder.sample_rate)
    for place, row in enumerate(order):
        assert_same(together, embed(encoder, [waves[row]], encoder.sample_rate), [place])


def test_the_order_and_the_company_of_clips_do_not_matter(encoder: AudioEncoder) -> None:
    waves = [noise(length, seed) for seed, length in enumerate((3000, 9000, 6001, 4500))]
    one = embed(encoder, waves)
    assert_same(embed(encoder, waves[::-1]), one, [3, 2, 1, 0])
    loud = embed(encoder, [1000 * noise(20000, 9), *waves])
    assert_same(loud, one, [1, 2, 3, 4])


@pytest.mark.parametrize("behind", [0.0, 5.0, float("nan"), float("inf")])
def test_a_padded_batch_equals_the_list_whatever_lies_behind_the_clips(encoder: AudioEncoder, behind: float) -> None:
    waves = [noise(length, seed) for seed, length in enumerate((5000, 8003, 200))]
    expected = embed(encoder, waves)
    for width in (8003, 9999):
        batch = torch.full((3, width), behind)
        for row, wave in enumerate(waves):
            batch[row, : len(wave)] = wave
        lengths = [len(wave) for wave in waves]
        for given in (lengths, torch.tensor(lengths), np.array(lengths, dtype=np.int32)):
            found = embed(encoder, batch, lengths=given)
            assert all(torch.equal(a, b) for a, b in zip(every_state(found), every_state(expected), strict=True))
            assert torch.equal(found.lengths, expected.lengths)
    assert torch.equal(embed(encoder, batch.numpy(), lengths=lengths).frames, expected.frames)


def test_a_single_waveform_is_a_list_of_one() -> None:
    encoder, wave = make(), noise(5000)
    assert torch.equal(embed(encoder, wave).frames, embed(encoder, [wave]).frames)
    assert torch.equal(embed(encoder, wave.numpy()).frames, embed(encoder, (wave,)).frames)


def test_the_size_of_batches_changes_nothing(encoder: AudioEncoder) -> None:
    waves = [noise(length, seed) for seed, length in enumerate((7000, 9001, 4000, 9000, 500))]
    expected = embed(encoder, waves)
    for columns in (1, 20, 50):
        encoder.batch_seconds = seconds_of(encoder, columns)
        assert_same(embed(encoder, waves), expected)


def test_the_same_clips_give_the_same_numbers_twice(encoder: AudioEncoder) -> None:
    waves = [noise(6000), noise(4000, 1)]
    first, second = embed(encoder, waves), embed(encoder, waves)
    assert all(torch.equal(a, b) for a, b in zip(every_state(first), every_state(second), strict=True))


# --------------------------------------------------------------------------------------------- what an embedding has


def test_every_layer_is_given_and_a_step_is_a_column_of_patches(encoder: AudioEncoder) -> None:
    rate, tokens = encoder.sample_rate, encoder.network.tokens
    out = embed(encoder, [noise(rate), noise(rate // 2)], rate)
    steps = columns_of(encoder, rate)
    assert (out.step_seconds, out.times_seconds.shape) == (pytest.approx(tokens.stride_time * 0.01), (steps,))
    assert len(out.hidden_states) == 1 + LAYERS == 1 + encoder.num_layers
    assert encoder.dim == tokens.num_chan * WIDTH
    assert all(states.shape == (2, steps, encoder.dim) for states in every_state(out))
    assert {states.dtype for states in every_state(out)} == {torch.float32}
    assert out.lengths.tolist() == [steps, columns_of(encoder, rate // 2)]
    assert torch.equal(out.frames, out.hidden_states[-1]) != encoder.network.encoder.settings.pre_norm
    assert_close(out.clip[1], out.frames[1, : out.lengths[1]].mean(dim=0))


def test_hidden_states_are_what_the_layers_of_the_network_give(encoder: AudioEncoder) -> None:
    given: list[Tensor] = []
    for layer in encoder.network.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: given.append(output))
    encoder.network.encoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    out = embed(encoder, [noise(encoder.sample_rate // 4)], encoder.sample_rate)
    assert len(given) == 1 + LAYERS
    for states, expected in zip(out.hidden_states, given, strict=True):
        own = encoder.network.own_tokens(expected)[0].flatten()
        assert torch.equal(states.flatten(), own[: states.numel()])


def test_the_decoders_layers_follow_those_of_the_encoder(encoder: AudioEncoder) -> None:
    wave, decoder = [noise(8000)], encoder.network.decoder
    without, out = embed(encoder, wave), embed(encoder, wave, with_decoder=True)
    assert all(torch.equal(a, b) for a, b in zip(out.hidden_states, without.hidden_states, strict=False))
    if decoder is None:
        assert len(out.hidden_states) == 1 + LAYERS and torch.equal(out.frames, without.frames)
        return
    assert len(out.hidden_states) == 1 + LAYERS + DECODER_LAYERS
    assert out.frames.shape[2] == encoder.network.tokens.num_chan * decoder.settings.dim
    assert torch.equal(out.frames, out.hidden_states[-1]) != decoder.settings.pre_norm
    picked = embed(encoder, wave, with_decoder=True, layers=(0, -1, LAYERS + 1))
    for states, number in zip(picked.hidden_states, (0, LAYERS + DECODER_LAYERS, LAYERS + 1), strict=True):
        assert torch.equal(states, out.hidden_states[number])
    assert torch.equal(picked.frames, out.frames)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_layers_that_training_drops_keep_their_numbers(rate: float) -> None:
    encoder = make(encoder_layerdrop=rate, decoder_layerdrop=rate, dropout=0.0, attention_dropout=0.0).train()
    for _ in range(4):
        out = embed(encoder, [noise(8000), noise(5000)], with_decoder=True)
        assert len(out.hidden_states) == 1 + LAYERS + DECODER_LAYERS
        if rate == 1.0:
            assert all(torch.equal(states, out.hidden_states[1]) for states in out.hidden_states[1 : 1 + LAYERS])


def test_nothing_is_dropped_outside_training() -> None:
    dropping = make(encoder_layerdrop=1.0, decoder_layerdrop=1.0, dropout=0.5, attention_dropout=0.5)
    found, expected = (embed(encoder, [noise(8000)], with_decoder=True) for encoder in (dropping, make()))
    assert all(torch.equal(a, b) for a, b in zip(every_state(found), every_state(expected), strict=True))


@pytest.mark.parametrize("window", [0.2, 60.0])
@pytest.mark.parametrize("kind", ["patch", "overlap"])
def test_columns_are_joined_averaged_or_laid_in_a_row(kind: str, window: float) -> None:
    waves = [noise(8000), noise(5000, 1)]
    encoders = {
        columns: make(kind, {"columns": columns, "window_seconds": window}) for columns in ("flat", "join", "mean")
    }
    flat, join, mean = (embed(encoder, waves) for encoder in encoders.values())
    num_chan = encoders["flat"].network.tokens.num_chan
    assert num_chan > 1
    for tokens, joined, averaged in zip(every_state(flat), every_state(join), every_state(mean), strict=True):
        grid = tokens.unflatten(1, (-1, num_chan))
        assert torch.equal(grid.flatten(2), joined)
        assert_close(grid.mean(dim=2), averaged)
    assert torch.equal(flat.lengths, num_chan * join.lengths) and torch.equal(mean.lengths, join.lengths)
    assert_close(flat.clip, mean.clip)
    assert torch.equal(flat.times_seconds[::num_chan], join.times_seconds)
    assert torch.equal(flat.times_seconds[num_chan - 1 :: num_chan], join.times_seconds)
    for columns, encoder in encoders.items():
        out = {"flat": flat, "join": join, "mean": mean}[columns]
        assert out.frames.shape[2] == encoder.dim
        assert out.lengths.tolist() == [encoder.num_steps(8000), encoder.num_steps(5000)]
    assert encoders["flat"].samples_per_step == encoders["join"].samples_per_step // num_chan


def test_the_first_layer_changes_at_the_times_that_cover_a_click() -> None:
    for kind in ("patch", "frame", "overlap", "8 kHz"):
        encoder = make(kind)
        rate = encoder.sample_rate
        for place in (rate // 5 + 7, rate // 2, rate - 3000):
            click = torch.zeros(rate)
            click[place] = 1.0
            silent, loud = (embed(encoder, [wave], rate, layers=(0,)) for wave in (torch.zeros(rate), click))
            changed = (silent.hidden_states[0] - loud.hidden_states[0]).abs().amax(dim=(0, 2)) > 1e-4
            distance = (loud.times_seconds - place / rate).abs()
            reach = (
                (encoder.network.tokens.kernel_time - 1) * encoder.frontend.hop + encoder.frontend.num_samples(1)
            ) / 2
            assert bool(changed.any())
            assert distance[changed].max() <= (reach + 1) / rate
            assert bool(changed[distance < 0.9 * reach / rate].all())


def test_times_are_evenly_apart_and_go_on_across_windows(encoder: AudioEncoder) -> None:
    encoder.window_seconds = seconds_of(encoder, 3)
    out = embed(encoder, [noise(20000)], encoder.sample_rate)
    kernel, hop = encoder.network.tokens.kernel_time, encoder.frontend.hop
    first = ((kernel - 1) * hop + encoder.frontend.num_samples(1)) / 2 / encoder.sample_rate
    expected = first + torch.arange(out.frames.shape[1], dtype=torch.float64) * out.step_seconds
    torch.testing.assert_close(out.times_seconds, expected)
    assert out.times_seconds[-1] < 20000 / encoder.sample_rate


# ------------------------------------------------------------------------------------------------------- any length


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_clip_shorter_than_a_patch_is_padded_to_one(kind: str) -> None:
    encoder = make(kind)
    for num_samples in (1, 159, 160, encoder.shortest - 1, encoder.shortest):
        wave = noise(num_samples)
        padded = torch.nn.functional.pad(wave, (0, encoder.shortest - num_samples))
        out = embed(encoder, [wave], encoder.sample_rate)
        assert out.lengths.tolist() == [1] and bool(out.frames.isfinite().all())
        assert torch.equal(out.frames, embed(encoder, [padded], encoder.sample_rate).frames)


def test_the_steps_of_every_length_can_be_told_beforehand(encoder: AudioEncoder) -> None:
    edge = encoder.shortest + 2 * encoder.network.tokens.stride_time * encoder.frontend.hop
    lengths = [1, 400, edge - 1, edge, edge + 1, 4999, 7001]
    out = embed(encoder, [noise(length) for length in lengths], encoder.sample_rate)
    for length, steps in zip(lengths, out.lengths.tolist(), strict=True):
        assert steps == encoder.num_steps(length) == columns_of(encoder, length)


def windows(encoder: AudioEncoder, num_steps: int, most: int) -> Iterator[Segment]:
    own = encoder.network.window_columns
    return windows_of(0, num_steps, min(own, most)) if own else segments_of(0, num_steps, most)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "deltas"])
def test_a_long_clip_is_its_windows_embedded_one_by_one(kind: str) -> None:
    encoder = make(kind)
    tokens, rate = encoder.network.tokens, encoder.sample_rate
    wave = noise(20011)
    num_steps = encoder.num_steps(len(wave))
    whole = AudioEncoder(encoder.frontend, encoder.network, window_seconds=float("inf")).eval()
    for most in (1, 5, num_steps // 2, num_steps - 1):
        encoder.window_seconds = seconds_of(encoder, most)
        found = embed(encoder, [wave, noise(3000, 1)], rate)
        assert found.lengths.tolist() == [num_steps, encoder.num_steps(3000)]
        for segment in windows(encoder, num_steps, most):
            end = segment.first_step + segment.num_steps
            begin = segment.first_step * tokens.stride_time * encoder.frontend.hop
            size = encoder.frontend.num_samples(tokens.num_frames(segment.num_steps))
            piece = wave[begin:] if end == num_steps else wave[begin : begin + size]
            if encoder.network.fill_windows and len(piece) < encoder.shortest:
                continue  # alone, it is first padded with zeros to a patch; behind others, filled up with the mean
            expected = embed(whole, [piece], rate)
            assert expected.lengths.tolist() == [segment.num_steps]
            for states, alone in zip(every_state(found), every_state(expected), strict=True):
                assert_close(states[0, segment.first_step : end], alone[0])


@pytest.mark.parametrize("kind", ["patch", "overlap", "deltas"])
def test_windows_are_cut_from_the_features_of_the_whole_clip(kind: str) -> None:
    encoder, wave = make(kind), noise(9000)
    tokens, num_steps = encoder.network.tokens, encoder.num_steps(9000)
    features = encoder.frontend(wave[None])
    encoder.window_seconds = seconds_of(encoder, 4)
    found = embed(encoder, [wave])
    for segment in windows(encoder, num_steps, 4):
        begin = segment.first_step * tokens.stride_time
        part = features[:, begin : begin + tokens.num_frames(segment.num_steps)]
        with torch.no_grad():
            last = encoder.network.features(encoder.network.cut(part)).stack.last
        steps = slice(segment.first_step, segment.first_step + segment.num_steps)
        assert_close(found.frames[:, steps].flatten(), last.flatten())


def passes_over(encoder: AudioEncoder) -> list[tuple[int, int]]:
    """Clips and tokens of every pass of the network from now on."""
    shapes: list[tuple[int, int]] = []
    encoder.network.embed.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[:2]))
    return shapes


def test_a_clip_of_just_the_window_is_one_window(encoder: AudioEncoder) -> None:
    rate = encoder.sample_rate
    encoder.window_seconds = encoder.batch_seconds = 0.32
    passes = passes_over(encoder)
    embed(encoder, [noise(int(0.32 * rate))], rate)
    assert len(passes) == 1
    embed(encoder, [noise(int(0.64 * rate))], rate)
    assert len(passes) == 3  # and no remnant behind two windows


def test_a_pass_holds_no_more_than_the_batch_and_the_windows_are_even(encoder: AudioEncoder) -> None:
    encoder.window_seconds, encoder.batch_seconds = seconds_of(encoder, 7), seconds_of(encoder, 16)
    passes = passes_over(encoder)
    rate, num_chan = encoder.sample_rate, encoder.network.tokens.num_chan
    out = embed(encoder, [noise(length) for length in (30000, 1000, 2000, 900, 800, 700)], rate)
    columns = [(clips, tokens // num_chan) for clips, tokens in passes]
    assert max(clips * width for clips, width in columns) <= 16
    assert max(width for _, width in columns) <= (encoder.network.window_columns if encoder.network.fill_windows else 7)
    assert sum(clips * width for clips, width in columns) >= int(out.lengths.sum())


def test_the_batch_may_be_shorter_than_the_window() -> None:
    encoder = make(options={"window_seconds": 0.4, "batch_seconds": 1e-9})
    assert_same(
        embed(encoder, [noise(16000), noise(900)]),
        embed(make(options={"window_seconds": 0.4}), [noise(16000), noise(900)]),
    )


def test_seconds_without_end_mean_one_window() -> None:
    encoder = make(options={"window_seconds": float("inf"), "batch_seconds": float("inf")})
    passes = passes_over(encoder)
    embed(encoder, [noise(50000), noise(30000)])
    assert len(passes) == 1


def test_a_thousand_clips_are_laid_out_in_their_order() -> None:
    encoder = make(encoder_layers=1)
    wave = noise(1200)
    scales = torch.linspace(0.1, 1.0, 1000)
    out = embed(encoder, [scale * wave for scale in scales], layers=())
    assert_close(out.frames[[0, 999]], embed(encoder, [0.1 * wave, wave]).frames)


def test_partly_filled_patches_count_where_the_original_counted_them() -> None:
    encoder = make(count_partial_patches=True)
    wave, long = noise(encoder.shortest + 200), noise(9000, 1)
    alone, together = embed(encoder, [wave]), embed(encoder, [wave, long])
    assert alone.lengths.tolist() == [1]
    assert together.lengths.tolist() == [2, encoder.num_steps(9000)]
    assert not together.frames[0, 2:].any()


# -------------------------------------------------------------------------------------------- layers of one's choice


@pytest.mark.parametrize("layers", [(0,), (LAYERS,), (-1,), (2, 0), (1, 1), (-2, -LAYERS - 1), range(1, 3), ()])
@pytest.mark.parametrize("kind", ["patch", "pre-norm"])
def test_chosen_layers_are_entries_of_the_full_list(kind: str, layers: Sequence[int]) -> None:
    encoder, waves = make(kind, {"window_seconds": 0.3}), [noise(9000), noise(3000, 1)]
    full, chosen = embed(encoder, waves), embed(encoder, waves, layers=layers)
    assert len(chosen.hidden_states) == len(layers)
    for states, number in zip(chosen.hidden_states, layers, strict=True):
        assert torch.equal(states, full.hidden_states[number])
    assert torch.equal(chosen.lengths, full.lengths)
    if not layers or LAYERS in [number % (LAYERS + 1) for number in layers]:
        assert torch.equal(chosen.frames, full.frames)


def test_no_layer_above_the_chosen_ones_is_run() -> None:
    encoder, run = make(), []
    for number, layer in enumerate(encoder.network.encoder.layers, start=1):
        layer.register_forward_hook(lambda module, inputs, output, number=number: run.append(number))
    out = embed(encoder, [noise(4000)], layers=(2, 1))
    assert run == [1, 2]
    assert torch.equal(out.frames, out.hidden_states[0])
    run.clear()
    embed(encoder, [noise(4000)], layers=(0,))
    assert run == []


def test_the_output_of_a_layer_that_was_not_chosen_is_let_go() -> None:
    encoder, outputs, alive = make(), [], []

    def look(module: object, inputs: object, output: Tensor) -> None:
        alive.append([reference() is not None for reference in outputs])
        outputs.append(weakref.ref(output))

    for layer in encoder.network.encoder.layers:
        layer.register_forward_hook(look)
    embed(encoder, [noise(4000)], layers=())
    assert alive == [[], [True], [False, True]]  # a layer's input lives on until it is done
    outputs.clear()
    alive.clear()
    embed(encoder, [noise(4000)], layers=(1,), with_decoder=True)
    assert alive == [[], [True], [True, True]]


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("kind", list(KINDS))
def test_gradients_reach_the_weights_and_the_waveforms(kind: str) -> None:
    encoder = make(kind)
    waves = [noise(7000).requires_grad_(), noise(5000, 1).requires_grad_()]
    encoder(waves, encoder.sample_rate, with_decoder=True).clip.square().sum().backward()
    assert all(wave.grad is not None and bool(wave.grad.abs().sum() > 0) for wave in waves)
    used = ("embed.", "encoder.", "encoder_positions.", "decoder.", "decoder_positions.", "bridge.")
    for name, parameter in encoder.network.named_parameters():
        if name.startswith(used):
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


def test_gradients_change_no_number(encoder: AudioEncoder) -> None:
    encoder.window_seconds = seconds_of(encoder, 5)
    waves = [noise(9000), noise(3000, 1), noise(100, 2)]
    for options in ({}, {"layers": (2, 0)}):
        found, expected = encoder(waves, **options), embed(encoder, waves, **options)
        assert found.frames.requires_grad and not expected.frames.requires_grad
        assert torch.equal(found.lengths, expected.lengths)
        assert all(torch.equal(a, b) for a, b in zip(every_state(found), every_state(expected), strict=True))


def test_the_gradient_of_a_padded_batch_ends_with_the_clips() -> None:
    batch = torch.stack([noise(7000), noise(7000, 1)]).requires_grad_()
    make()(batch, lengths=[7000, 3000]).clip.square().sum().backward()
    assert batch.grad is not None
    assert bool(batch.grad[1, :3000].any()) and not batch.grad[1, 3000:].any()


def test_a_window_sees_itself_only() -> None:
    encoder = make(options={"window_seconds": 0.2})
    wave = noise(9000).requires_grad_()
    out = encoder(wave)
    steps = next(segments_of(0, out.frames.shape[1], 5)).num_steps
    out.frames[0, :steps].square().sum().backward()
    edge = encoder.frontend.num_samples(encoder.network.tokens.num_frames(steps))
    assert wave.grad is not None
    assert bool(wave.grad[:edge].any()) and not wave.grad[edge:].any()


def test_a_gradient_through_soxr_is_refused_and_through_sinc_hann_goes() -> None:
    wave = noise(4000).requires_grad_()
    with pytest.raises(PlainError, match="no gradient passes through the resampling from 8000 to 16000 Hz"):
        make()(wave, 8000)
    assert embed(make(), wave, 8000).frames.requires_grad is False
    model, task = settings("patch")
    task.resampler = "sinc_hann"
    checkpoint = Checkpoint("", "", model, task, {}, 0)
    given = make()
    AudioEncoder(given.frontend, given.network, checkpoint).eval()(wave, 8000).clip.square().sum().backward()
    assert wave.grad is not None and bool(wave.grad.abs().sum() > 0)


def test_training_goes_on_after_inference_of_a_longer_clip() -> None:
    encoder = make(kind="frame")
    with torch.inference_mode():
        encoder([noise(16000 * 50)], layers=(0,))  # more tokens than the table of positions has at first
    encoder.train()([noise(16000 * 45)], layers=(1,)).frames.sum().backward()
    assert encoder.network.embed.weight.grad is not None


# ------------------------------------------------------------------------------------- numbers and rates of the input


@pytest.mark.parametrize(
    "convert",
    [
        lambda wave: wave.double(),
        lambda wave: wave.numpy(),
        lambda wave: wave.double().numpy(),
        lambda wave: wave.numpy().astype(">f4"),
        lambda wave: np.ascontiguousarray(wave.numpy()[::-1])[::-1],
        lambda wave: wave.numpy().astype(np.longdouble),
        lambda wave: wave.tolist(),
        lambda wave: torch.stack([wave, wave], dim=1)[:, 0],
        lambda wave: np.frombuffer(wave.numpy().tobytes(), dtype=np.float32),
    ],
    ids=["float64", "numpy", "numpy float64", "big endian", "reversed", "long double", "list", "strided", "read-only"],
)
def test_the_kind_of_numbers_changes_nothing(convert: Callable[[Tensor], Any]) -> None:
    encoder, wave = make(), noise(5000)
    assert torch.equal(embed(encoder, [convert(wave)]).frames, embed(encoder, [wave]).frames)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_waveforms_are_taken_as_they_are(kind: torch.dtype) -> None:
    encoder, wave = make(), noise(5000).to(kind)
    assert torch.equal(embed(encoder, [wave]).frames, embed(encoder, [wave.float()]).frames)
    if kind == torch.float16:
        assert torch.equal(embed(encoder, [wave.numpy()]).frames, embed(encoder, [wave.float()]).frames)


def test_bfloat16_is_close_to_float32_and_gives_float32(encoder: AudioEncoder) -> None:
    waves = [noise(8000), noise(5000, 1)]
    exact = embed(encoder, waves, with_decoder=True)
    encoder.precision = "bfloat16"
    found = embed(encoder, waves, with_decoder=True)
    for states, expected in zip(every_state(found), every_state(exact), strict=True):
        assert states.dtype == torch.float32
        assert 0 < (states - expected).norm() < 0.03 * expected.norm()
    encoder(waves).clip.sum().backward()
    assert encoder.network.embed.weight.grad is not None


def test_each_clip_has_its_own_rate() -> None:
    encoder = make()
    rates = [16000, 48000, 8000, 44100, 11025]
    waves = [noise(rate // 3, seed) for seed, rate in enumerate(rates)]
    here = [torch.from_numpy(resample(wave.numpy(), rate, RATE)) for wave, rate in zip(waves, rates, strict=True)]
    expected = embed(encoder, here)
    for given in (rates, tuple(rates), np.array(rates), torch.tensor(rates)):
        assert torch.equal(embed(encoder, waves, given).frames, expected.frames)
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    padded = embed(encoder, batch, rates, [len(wave) for wave in waves])
    assert torch.equal(padded.frames, expected.frames) and torch.equal(padded.lengths, expected.lengths)


def test_a_tone_at_another_rate_is_the_same_tone() -> None:
    encoder, time = make(), torch.arange(32000) / 32000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * time)
    low, high = embed(encoder, [tone[::2].clone()], 16000), embed(encoder, [tone], 32000)
    assert torch.equal(low.lengths, high.lengths)
    assert torch.nn.functional.cosine_similarity(low.clip, high.clip).item() > 0.99


def test_the_resampler_is_the_checkpoints() -> None:
    wave, (model, task), state = noise(9000), settings("patch"), make().network.state_dict()
    by = {
        resampler: encoder_of(Checkpoint("", "", model, replace(task, resampler=resampler), state, 0))
        for resampler in ("soxr", "sinc_hann")
    }
    here = sinc_hann(wave, 22050, RATE)
    assert torch.equal(embed(by["sinc_hann"], wave, 22050).frames, embed(by["sinc_hann"], here).frames)
    assert not torch.equal(embed(by["sinc_hann"], wave, 22050).frames, embed(by["soxr"], wave, 22050).frames)
    assert torch.equal(embed(by["sinc_hann"], wave).frames, embed(by["soxr"], wave).frames)


def test_the_result_lies_where_the_network_does() -> None:
    encoder = make()
    assert encoder.device == torch.device("cpu") == embed(encoder, [noise(4000)]).frames.device
    assert encoder.to("meta").device == torch.device("meta")


# ---------------------------------------------------------------------------------------------------- what is refused

HALF, TWO = noise(800), [noise(800), noise(900)]
REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "no clips": (([],), {}, "give at least one"),
    "empty batch": ((torch.zeros(0, 5),), {"lengths": []}, "give at least one"),
    "stereo in a list": (([torch.zeros(2, 100)],), {}, r"waveform 0 has shape \(2, 100\); .*average the channels"),
    "stereo alone": ((torch.zeros(2, 100),), {}, r"\(2, 100\); .*lengths="),
    "three axes": ((torch.zeros(1, 2, 100),), {}, r"\(1, 2, 100\)"),
    "a number": ((torch.tensor(1.0),), {}, r"shape \(\)"),
    "numbers": (([0.1, 0.2],), {}, r"waveform 0 has shape \(\)"),
    "16-bit": (([HALF, torch.zeros(100, dtype=torch.int16)],), {}, "waveform 1 holds int16 .*32768"),
    "numpy integers": (([np.zeros(100, np.int32)],), {}, "int32"),
    "truth values": (([torch.zeros(9, dtype=torch.bool)],), {}, "bool"),
    "complex": (([torch.zeros(9, dtype=torch.complex64)],), {}, "complex64"),
    "NaN": (([HALF, torch.tensor([0.0, 0.0, float("nan"), 0.0])],), {}, "waveform 1 .*first at sample 2"),
    "infinite": (([torch.tensor([0.0, float("-inf")])],), {}, "waveform 0 .*first at sample 1"),
    "too loud": (([1e30 * HALF],), {}, "waveform 0 reaches 5e.29; give floats between -1 and 1"),
    "beyond float32": (([1e200 * HALF.double()],), {}, "waveform 0 reaches"),
    "no samples": (([HALF, torch.zeros(0)],), {}, "waveform 1 has no samples"),
    "a path": (("clip.wav",), {}, "the waveforms are a str"),
    "paths": ((["clip.wav"],), {}, "waveform 0 is a str"),
    "a path object": ((Path("clip.wav"),), {}, "the waveforms are a P"),
    "nothing": ((None,), {}, "the waveforms are a NoneType"),
    "a missing one": (([HALF, None],), {}, "waveform 1 is a NoneType"),
    "ragged lists": (([[[0.1], [0.2, 0.3]]],), {}, "waveform 0 is a list"),
    "lengths with a list": ((TWO,), {"lengths": [800, 900]}, "lengths go with a padded batch"),
    "a length too few": ((torch.zeros(2, 900),), {"lengths": [800]}, "there are 1 lengths for 2 clips"),
    "a length of none": ((torch.zeros(2, 900),), {"lengths": [800, 0]}, r"lengths\[1\] is 0; .*between 1 and 900"),
    "a length below": ((torch.zeros(2, 900),), {"lengths": [-1, 900]}, r"lengths\[0\] is -1"),
    "a length beyond": ((torch.zeros(2, 900),), {"lengths": [800, 901]}, r"lengths\[1\] is 901"),
    "shares": ((torch.zeros(2, 900),), {"lengths": torch.tensor([1.0, 0.5])}, "whole number"),
    "a mask": ((torch.zeros(2, 900),), {"lengths": torch.ones(2, 900)}, "whole number"),
    "one length": ((torch.zeros(2, 900),), {"lengths": 900}, "whole number"),
    "a rate too few": ((TWO, [16000]), {}, "there are 1 sample rates for 2 waveforms"),
    "a bad rate": ((TWO, [16000, 16]), {}, "sample_rate is 16;"),
    "no such layer": ((TWO,), {"layers": (0, 4)}, r"there is no layer 4; this network has 0 .* to 3"),
    "a layer below": ((TWO,), {"layers": (-5,)}, "there is no layer -5"),
    "one layer": ((TWO,), {"layers": 3}, "layers is 3; it must be a sequence"),
    "a layer's name": ((TWO,), {"layers": ["last"]}, "whole numbers"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_embedded_is_refused_in_a_sentence(case: str) -> None:
    arguments, options, found = REFUSED[case]
    with pytest.raises(PlainError, match=found) as caught:
        make()(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rate", [0, -1, 16, 22050.5, "16000", None, True, float("nan"), float("inf"), 2**70, 16000 + 0j, b"16000", {}]
)
def test_a_rate_that_is_none_is_refused_with_what_a_rate_looks_like(rate: Any) -> None:
    with pytest.raises(PlainError, match=r"sample_rate is .*whole number of Hz between 1000 and 1000000, like 16000"):
        make()(TWO, rate)


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("columns", "first", "columns is 'first'; it must be one of join, mean, flat"),
        ("precision", "float16", "precision is 'float16'; it must be one of float32, bfloat16"),
        *(
            (name, value, f"{name} is {value!r}; it must be more than 0")
            for name, value in itertools.product(("window_seconds", "batch_seconds"), (0, -1.5, None, "60"))
        ),
        ("window_seconds", float("nan"), "window_seconds is nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(option: str, value: Any, found: str) -> None:
    with pytest.raises(PlainError, match=found):
        make(options={option: value})


# ------------------------------------------------------------------------------------------------- from a checkpoint


def test_a_loaded_model_embeds_as_the_network_it_was_saved_from(tmp_path: Path) -> None:
    original, (model, task) = make("overlap"), settings("overlap")
    content = {
        "cfg": {"model": asdict(model), "task": asdict(task)},
        "model": {OUR_PREFIX + name: tensor for name, tensor in original.network.state_dict().items()},
        "optimizer_history": [{"num_updates": 7}],
    }
    torch.save(content, tmp_path / "checkpoint_best.pt")
    encoder = load_model(tmp_path / "checkpoint_best.pt", device="cpu", columns="mean", window_seconds=0.5)
    assert not any(module.training for module in encoder.modules())
    assert (encoder.columns, encoder.window_seconds) == ("mean", 0.5)
    expected = AudioEncoder(original.frontend, original.network, columns="mean", window_seconds=0.5).eval()
    found = encoder([noise(9000), noise(3000, 1)])
    assert torch.equal(found.frames, embed(expected, [noise(9000), noise(3000, 1)]).frames)
    assert encoder.checkpoint is not None
    assert (encoder.checkpoint.model, encoder.checkpoint.task, encoder.checkpoint.num_updates) == (model, task, 7)
    assert encoder.checkpoint.state == {}  # they are in the network, and not in memory twice


def test_a_missing_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match="there is no such file"):
        load_model(tmp_path / "none.pt")
