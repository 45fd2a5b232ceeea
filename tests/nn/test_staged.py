"""The autoencoder in stages: full windows, cells of patches, and padding that is seen but never hidden or predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.build import autoencoder_of
from mae_ast_plugin.methods.settings import ModelSettings
from mae_ast_plugin.nn.autoencoder import Clips, standardised_bins
from mae_ast_plugin.nn.masking import MaskRequest, MaskSettings, TokenMask, random_mask
from mae_ast_plugin.nn.staged import StagedAutoencoder

NUM_BINS, COLUMNS = 16, 16
MODEL = ModelSettings(
    ast_kernel_size_chan=2,
    ast_kernel_size_time=3,
    ast_kernel_stride_chan=2,
    ast_kernel_stride_time=3,
    stage_layers="2-1-1",
    attention_window=4,
    norm_patches=True,
    encoder_layers=4,
    encoder_embed_dim=8,
    encoder_ffn_embed_dim=16,
    encoder_attention_heads=2,
    decoder_layers=0,
    layer_norm_first=True,
    hide_in_encoder=True,
    two_heads=False,
    enc_sine_pos=False,
    window_columns=COLUMNS,
    fill_windows=True,
    input_norm="fixed",
    dropout=0.0,
    attention_dropout=0.0,
)


def network(**changes: Any) -> StagedAutoencoder:
    torch.manual_seed(0)
    made = autoencoder_of(replace(MODEL, **changes), NUM_BINS)
    assert isinstance(made, StagedAutoencoder)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def spectrogram(num_clips: int, num_frames: int = 3 * COLUMNS) -> Tensor:
    return torch.randn(num_clips, num_frames, NUM_BINS, generator=torch.Generator().manual_seed(num_frames))


def mask_of(clips: Clips, ratio: float = 0.6) -> TokenMask:
    seeds = torch.arange(len(clips.num_tokens)) + 5
    request = MaskRequest(seeds, 0, clips.num_tokens, clips.patches.shape[1], NUM_BINS // 2)
    return random_mask(request, MaskSettings(ratio=ratio))


def test_cells_hold_the_patches_that_they_cover() -> None:
    """A head that knew the spectrogram would give its patches: the way back from an image cut into squares."""
    made, image = network(), spectrogram(2).transpose(1, 2)  # (B, F, T)
    bins, frames = 4 * 2, 4 * 3
    squares = image.unflatten(2, (-1, frames)).unflatten(1, (-1, bins)).permute(0, 3, 1, 2, 4)
    cells = squares.flatten(3).flatten(1, 2)  # column of cells by column, low frequency first
    assert torch.equal(made.patches_of(cells), made.tokens.patchify(spectrogram(2)))


def test_a_clip_is_filled_up_to_a_window_and_only_its_own_patches_are_tokens() -> None:
    made, frames = network(), [3 * 5, 3 * 7 + 2]
    clips = made.cut(spectrogram(2, max(frames)), frames)
    assert clips.normalized.shape == (2, 3 * COLUMNS, NUM_BINS)
    assert clips.num_tokens == (5 * 8, 7 * 8)
    assert not clips.normalized[0, frames[0] :].any()
    assert mask_of(clips).num_hidden == (24, 34)  # 60 %


def test_what_stands_in_padding_changes_nothing() -> None:
    made, x, frames = network(standard_bins=True), spectrogram(2, 40), [40, 22]
    spoiled = x.clone()
    spoiled[1, 22:] = float("nan")
    found = [made(clips, mask_of(clips)) for clips in (made.cut(x, frames), made.cut(spoiled, frames))]
    padding = found[0].padding
    assert padding is not None
    for name in ("reconstructed", "target"):
        one, other = (getattr(each, name)[~padding] for each in found)
        assert torch.equal(one, other)


def test_predictions_for_a_clip_are_the_same_alone_and_in_a_batch() -> None:
    made, x, frames = network(standard_bins=True), spectrogram(2, 48), [48, 22]
    together, alone = made.cut(x, frames), made.cut(x[1:, :22])
    mask = mask_of(together)
    count = mask.num_hidden[1]
    own = TokenMask(**{**vars(mask), "hidden": mask.hidden[1:], "visible": mask.visible[1:]})
    one, other = made(together, mask), made(alone, own)
    torch.testing.assert_close(one.reconstructed[1, :count], other.reconstructed[0, :count])
    torch.testing.assert_close(one.target[1, :count], other.target[0, :count])


def test_hidden_patches_cannot_reach_the_encoder_and_visible_ones_do() -> None:
    made, x = network(), spectrogram(1)
    clips = made.cut(x)
    mask = mask_of(clips)
    for index, reaches in ((mask.hidden[0, 0], False), (mask.visible[0, 0], True)):
        patches = clips.patches.clone()
        patches[0, index] += 1.0
        moved = made.encode(replace(clips, patches=patches), mask).stack.last
        assert torch.equal(moved, made.encode(clips, mask).stack.last) is not reaches


def test_targets_are_standardised_over_the_clips_own_frames() -> None:
    made, frames = network(standard_bins=True, input_mean=2.0, input_std=3.0), [48, 24]
    clips = made.cut(spectrogram(2, 48), frames)
    image = made.tokens.unpatchify(clips.targets)
    for row, count in enumerate(frames):
        mean, variance = image[row, :count].mean(dim=0), image[row, :count].var(dim=0)
        torch.testing.assert_close(mean, torch.zeros(NUM_BINS), rtol=0, atol=1e-6)
        torch.testing.assert_close(variance, torch.ones(NUM_BINS), rtol=1e-4, atol=0)
    assert not standardised_bins(torch.ones(1, 5, 3)).any()
    assert bool(standardised_bins(torch.ones(1, 1, 3)).isfinite().all())


def test_a_longer_clip_is_refused_and_a_wider_batch_is_not() -> None:
    made = network()
    with pytest.raises(PlainError, match="a clip has 49 frames and the network sees 48; crop clips to task"):
        made.cut(spectrogram(2, 60), [48, 49])
    clips = made.cut(spectrogram(2, 60), [48, 30])
    torch.testing.assert_close(clips.normalized[0], spectrogram(2, 60)[0, :48])


@pytest.mark.parametrize(("layer", "factor"), [(1, 1), (2, 2), (3, 4)])
def test_the_tokens_of_a_column_are_the_states_of_its_cells(layer: int, factor: int) -> None:
    made = network()
    state = made.encode(made.cut(spectrogram(1))).stack.hidden[layer]
    columns = made.own_tokens(state)[0].unflatten(0, (COLUMNS, -1)).flatten(1)  # joined, as an encoder gives them
    assert columns.shape == (COLUMNS, 8 * 8)
    cells = state[0].unflatten(0, (COLUMNS // factor, -1))  # (columns of cells, rows of cells, width)
    for column in (0, 5, 15):
        assert torch.equal(columns[column], cells[column // factor].flatten())


def test_depths_count_layers_over_the_stages_and_mergings_with_the_layer_before() -> None:
    made = network()
    depths, last = made.depths(), {}
    for name, _ in made.named_parameters():
        last[name] = next((depth for start, depth in depths.items() if name.startswith(start)), None)
    assert last["embed.weight"] == last["embed_norm.bias"] == last["encoder_mask_token"] == 0
    assert last["encoder.stages.0.layers.1.bias_table"] == last["encoder.stages.0.merge.reduce.weight"] == 2
    assert last["encoder.stages.1.layers.0.fc1.weight"] == last["encoder.stages.1.merge.norm.bias"] == 3
    assert last["encoder.stages.2.layers.0.fc1.weight"] == last["encoder.norm.weight"] == 4
    assert last["reconstruct.weight"] is None  # behind the encoder


def test_a_network_that_only_embeds_has_no_parts_of_pretraining() -> None:
    made = network(embeds_only=True)
    assert made.reconstruct is None and made.encoder_mask_token is None
    clips = made.cut(spectrogram(1))
    with pytest.raises(PlainError, match="holds an encoder alone"):
        made(clips, mask_of(clips))
