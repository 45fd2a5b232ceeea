"""The whole machine: clips do not influence each other, hidden patches stay hidden, every parameter learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.nn.autoencoder import Clips, MaskedAutoencoder, Positions, Predictions
from mae_ast_plugin.nn.losses import info_nce, reconstruction_errors
from mae_ast_plugin.nn.masking import MaskRequest, MaskSettings, TokenMask, random_mask
from mae_ast_plugin.nn.normalization import InputNorm
from mae_ast_plugin.nn.positions import ConvPositions, SinusoidPositions
from mae_ast_plugin.nn.tokens import PatchTokens
from mae_ast_plugin.nn.transformer import Transformer, TransformerSettings

NUM_BINS = 12
PATCHES = PatchTokens(NUM_BINS, 4, 6, 4, 6)
FRAMES = PatchTokens(NUM_BINS, 2, NUM_BINS, 2, NUM_BINS)
OVERLAPPING = PatchTokens(NUM_BINS, 4, 6, 3, 3)


def positions(dim: int, kind: str) -> Positions:
    conv = ConvPositions(dim, 4, groups=2) if kind in ("conv", "both") else None
    return Positions(SinusoidPositions(dim) if kind in ("sinusoid", "both") else None, conv)


def network(
    tokens: PatchTokens = PATCHES,
    kind: str = "sinusoid",
    decoder_dim: int = 12,
    pre_norm: bool = False,
    count_partial: bool = False,
    input_dropout: float = 0.0,
) -> MaskedAutoencoder:
    """A small network in evaluation mode, with weights large enough to matter and running statistics of its own."""
    torch.manual_seed(0)
    sizes = TransformerSettings(num_layers=2, dim=12, ffn_dim=20, num_heads=2, pre_norm=pre_norm)
    made = MaskedAutoencoder(
        tokens=tokens,
        norm=InputNorm(),
        encoder=Transformer(sizes),
        decoder=Transformer(replace(sizes, num_layers=1, dim=decoder_dim)),
        encoder_positions=positions(12, kind),
        decoder_positions=positions(decoder_dim, kind),
        bridge=nn.Linear(12, decoder_dim) if decoder_dim != 12 else None,
        input_dropout=input_dropout,
        count_partial=count_partial,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.norm.running_mean.fill_(-8.0)
    made.norm.running_var.fill_(9.0)
    return made.eval()


VARIANTS: dict[str, dict[str, object]] = {
    "patches": {},
    "frames": {"tokens": FRAMES},
    "overlapping": {"tokens": OVERLAPPING},
    "conv": {"kind": "conv"},
    "both": {"kind": "both", "tokens": FRAMES},
    "no positions": {"kind": "none"},
    "pre-norm": {"pre_norm": True},
    "narrow decoder": {"decoder_dim": 6, "kind": "both"},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def log_mel(num_clips: int, num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return 3 * torch.randn(num_clips, num_frames, NUM_BINS, generator=generator) - 8


def draw(clips: Clips, ratio: float = 0.5, seeds: Sequence[int] | None = None) -> TokenMask:
    chosen = torch.tensor(list(range(len(clips.num_tokens))) if seeds is None else list(seeds))
    return random_mask(MaskRequest(chosen, 0, clips.num_tokens, clips.patches.shape[1]), MaskSettings(ratio=ratio))


def loss_of(predictions: Predictions) -> Tensor:
    errors = reconstruction_errors(predictions.reconstructed, predictions.target)
    if predictions.padding is not None:
        errors = errors.masked_fill(predictions.padding, 0.0)
    return (errors + info_nce(predictions.classified, predictions.target, predictions.padding)).sum()


# --------------------------------------------------------------------------- clips do not influence each other


@every_variant
def test_features_of_a_clip_are_the_same_alone_and_in_a_batch(variant: dict) -> None:
    net, lengths, x = network(**variant), [37, 4, 21, 8], log_mel(4, 37)
    batch = net.features(net.cut(x, lengths), with_decoder=True)
    assert len(batch.stack.hidden) == 3
    for row, length in enumerate(lengths):
        clips = net.cut(x[row : row + 1, :length])
        alone = net.features(clips, with_decoder=True)
        count = clips.num_tokens[0]
        assert count == net.tokens.num_tokens(length) == alone.tokens.shape[1]
        torch.testing.assert_close(batch.tokens[row, :count], alone.tokens[0], rtol=1e-4, atol=1e-5)
        for together, single in zip(batch.stack.hidden, alone.stack.hidden, strict=True):
            torch.testing.assert_close(together[row, :count], single[0], rtol=1e-4, atol=1e-5)


@every_variant
def test_predictions_for_a_clip_are_the_same_alone_and_in_a_batch(variant: dict) -> None:
    net, lengths, x = network(**variant), [37, 4, 21, 8], log_mel(4, 37)
    clips = net.cut(x, lengths)
    batch = net(clips, draw(clips))
    for row, length in enumerate(lengths):
        own = net.cut(x[row : row + 1, :length])
        alone, count = net(own, draw(own, seeds=[row])), batch.num_hidden[row]
        assert alone.num_hidden == (count,)
        for name in ("reconstructed", "classified", "target"):
            torch.testing.assert_close(getattr(batch, name)[row, :count], getattr(alone, name)[0], rtol=1e-4, atol=1e-5)


@every_variant
@pytest.mark.parametrize("training", [False, True])
def test_what_stands_in_padding_changes_nothing(variant: dict, training: bool) -> None:
    lengths, x = [21, 9, 5], log_mel(3, 21)
    other = x.masked_fill((torch.arange(21) >= torch.tensor(lengths)[:, None])[..., None], 55.0)
    losses = []
    for spectrogram in (x, other):
        net = network(**variant).train(training)
        clips = net.cut(spectrogram, lengths)
        losses.append(loss_of(net(clips, draw(clips))))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)


def test_more_padding_changes_nothing() -> None:
    net, x = network(), log_mel(2, 40)
    short, long = net.cut(x[:, :21], [21, 9]), net.cut(x, [21, 9])
    assert short.num_tokens == long.num_tokens
    torch.testing.assert_close(loss_of(net(short, draw(short))), loss_of(net(long, draw(long))), rtol=1e-5, atol=0)


def test_the_order_of_the_clips_does_not_matter() -> None:
    net, lengths, x = network().train(), [21, 9, 5], log_mel(3, 21)
    forward, backward = net.cut(x, lengths), net.cut(x.flip(0), lengths[::-1])
    first = loss_of(net(forward, draw(forward, seeds=[1, 2, 3])))
    torch.testing.assert_close(first, loss_of(net(backward, draw(backward, seeds=[3, 2, 1]))), rtol=1e-5, atol=0)


def test_only_whole_patches_of_a_clips_own_frames_are_tokens() -> None:
    clips = network().cut(log_mel(4, 11), [11, 8, 7, 4])
    assert clips.num_tokens == (4, 4, 2, 2)
    assert clips.padding is not None
    assert clips.padding.tolist() == [[False] * 4, [False] * 4, [False] * 2 + [True] * 2, [False] * 2 + [True] * 2]
    assert network().cut(log_mel(2, 11)).padding is None


def test_partial_patches_count_where_the_batch_has_room_for_them() -> None:
    net = network(count_partial=True)
    assert net.cut(log_mel(4, 12), [12, 9, 8, 1]).num_tokens == (6, 6, 4, 2)
    assert net.cut(log_mel(2, 11), [11, 9]).num_tokens == (4, 4)  # the last patch is in nobody's spectrogram
    assert net.cut(log_mel(1, 11)).num_tokens == (4,)


# ----------------------------------------------------------------------------------- what is hidden stays hidden


@every_variant
def test_hidden_patches_cannot_reach_the_encoder(variant: dict) -> None:
    net = network(**variant)
    clips = net.cut(log_mel(3, 29), [29, 11, 4])
    mask = draw(clips)
    perturbed = clips.patches.clone()
    for row in range(3):
        perturbed[row, mask.hidden[row, : mask.num_hidden[row]]] = 100.0
    first, second = net.encode(clips, mask), net.encode(replace(clips, patches=perturbed), mask)
    for mine, other, count in zip(first.stack.last, second.stack.last, mask.num_visible, strict=True):
        assert torch.equal(mine[:count], other[:count])
    before, after = net(clips, mask), net(replace(clips, patches=perturbed), mask)
    for row, count in enumerate(mask.num_hidden):
        assert torch.equal(before.reconstructed[row, :count], after.reconstructed[row, :count])


@every_variant
def test_visible_patches_do_reach_the_predictions(variant: dict) -> None:
    net = network(**variant)
    clips = net.cut(log_mel(1, 29))
    mask = draw(clips)
    perturbed = clips.patches.clone()
    perturbed[0, mask.visible[0, 0]] += 1.0
    before, after = net(clips, mask), net(replace(clips, patches=perturbed), mask)
    assert (before.reconstructed != after.reconstructed).any(dim=-1).all()


@pytest.mark.parametrize("decoder_dim", [12, 6])
def test_the_decoder_sees_its_mask_token_at_hidden_places_and_the_encoder_elsewhere(decoder_dim: int) -> None:
    net = network(kind="none", decoder_dim=decoder_dim)
    clips = net.cut(log_mel(2, 29), [29, 12])
    mask = draw(clips)
    encoded = net.encode(clips, mask).stack.last
    inputs, _ = net.decoder_inputs(encoded, clips, mask)
    assert inputs.shape == (2, clips.patches.shape[1], decoder_dim)
    for row in range(2):
        visible, hidden = mask.visible[row, : mask.num_visible[row]], mask.hidden[row, : mask.num_hidden[row]]
        assert torch.equal(inputs[row, hidden], net.decoder_mask_token.expand(len(hidden), -1))
        bridged = encoded if net.bridge is None else net.bridge(encoded)
        torch.testing.assert_close(inputs[row, visible], bridged[row, : len(visible)])


@every_variant
def test_the_encoder_is_given_the_visible_tokens_only(variant: dict) -> None:
    net = network(**variant)
    clips = net.cut(log_mel(2, 41), [41, 17])
    encoded = net.encode(clips, draw(clips, ratio=0.75))
    assert encoded.inputs.shape[1] == max(max(1, int(0.25 * count)) for count in clips.num_tokens)


@every_variant
def test_what_is_predicted_is_what_the_whole_decoder_says_of_hidden_places(variant: dict) -> None:
    net, lengths = network(**variant), [37, 21]
    clips = net.cut(log_mel(2, 37), lengths)
    mask = draw(clips)
    whole = net.predict(net.decode(net.encode(clips, mask).stack.last, clips, mask).last, clips, mask)
    own = mask.hidden < mask.num_tokens
    some = net(clips, mask)
    for ours, expected in ((some.reconstructed, whole.reconstructed), (some.classified, whole.classified)):
        torch.testing.assert_close(ours[own], expected[own], rtol=1e-4, atol=1e-5)


def test_targets_are_the_normalised_patches_at_hidden_places() -> None:
    net = network()
    clips = net.cut(log_mel(2, 29), [29, 12])
    mask = draw(clips)
    predictions = net(clips, mask)
    for row, count in enumerate(mask.num_hidden):
        assert torch.equal(predictions.target[row, :count], clips.patches[row, mask.hidden[row, :count]])


def test_dropout_of_the_input_acts_in_pretraining_only() -> None:
    net = network(input_dropout=0.5).train()
    clips = net.cut(log_mel(1, 41))
    assert torch.equal(net.encode(clips).tokens, net.encode(clips).tokens)
    mask = draw(clips)
    assert not torch.equal(net.encode(clips, mask).tokens, net.encode(clips, mask).tokens)


# ------------------------------------------------------------------------------------------------------------- learning


@every_variant
def test_every_parameter_that_should_learn_has_a_gradient(variant: dict) -> None:
    net = network(**variant).train()
    clips = net.cut(log_mel(3, 29), [29, 11, 4])
    loss_of(net(clips, draw(clips))).backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize(("kind", "learns"), [("sinusoid", False), ("none", False), ("conv", True), ("both", True)])
def test_the_encoders_mask_token_learns_only_where_a_convolution_sees_it(kind: str, learns: bool) -> None:
    assert network(kind=kind).encoder_mask_token.requires_grad == learns


@every_variant
@pytest.mark.parametrize("training", [False, True])
def test_a_silent_clip_gives_finite_numbers(variant: dict, training: bool) -> None:
    net = network(**variant).train(training)
    clips = net.cut(torch.full((2, 21, NUM_BINS), -15.942385), [21, 9])
    loss = loss_of(net(clips, draw(clips)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(
    "tokens", [FRAMES, PatchTokens(NUM_BINS, 1, NUM_BINS, 1, NUM_BINS)], ids=["2 frames", "1 frame"]
)
def test_a_clip_of_one_token_has_nothing_to_predict_and_no_loss(tokens: PatchTokens) -> None:
    net = network(tokens).train()
    clips = net.cut(log_mel(1, tokens.kernel_time))
    predictions = net(clips, draw(clips))
    assert predictions.reconstructed.shape == (1, 0, tokens.patch_size)
    assert loss_of(predictions).item() == 0
    assert net.features(clips).stack.last.shape == (1, 1, 12)


def test_a_clip_too_short_for_a_token_leaves_the_others_as_they_are() -> None:
    net, x = network(), log_mel(2, 21)
    batch = net.features(net.cut(x, [21, 3])).stack.last
    assert torch.isfinite(batch).all()
    torch.testing.assert_close(batch[:1], net.features(net.cut(x[:1])).stack.last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_frames", [8, 29])
def test_a_narrow_decoder_predicts_whole_patches(num_frames: int) -> None:
    net = network(decoder_dim=6)
    clips = net.cut(log_mel(1, num_frames))
    predictions = net(clips, draw(clips))
    shape = (1, predictions.num_hidden[0], PATCHES.patch_size)
    assert predictions.reconstructed.shape == predictions.classified.shape == predictions.target.shape == shape


def test_features_stop_after_the_layer_asked_for() -> None:
    net = network()
    clips = net.cut(log_mel(2, 21), [21, 9])
    whole, part = net.features(clips), net.features(clips, until=1)
    assert len(part.stack.hidden) == 1
    assert torch.equal(part.stack.last, whole.stack.hidden[0])


def test_windows_of_a_clip_that_was_normalised_as_a_whole_stay_as_they_are() -> None:
    net, x = network(), log_mel(2, 16)
    whole = net.cut(x)
    window = net.cut(whole.normalized[:, 8:], is_normalized=True)
    assert torch.equal(window.patches, whole.patches[:, net.tokens.num_tokens(8) :])


def test_a_network_that_only_embeds_has_no_parts_of_pretraining() -> None:
    whole = network()
    alone = MaskedAutoencoder(
        tokens=PATCHES, norm=whole.norm, encoder=whole.encoder, decoder=None, bridge=None, embeds_only=True,
        encoder_positions=whole.encoder_positions, decoder_positions=None,
    ).eval()  # fmt: skip
    alone.embed = whole.embed
    assert {name.split(".")[0] for name in alone.state_dict()} == {"embed", "encoder", "norm"}
    clips = whole.cut(torch.randn(2, 16, NUM_BINS))
    assert torch.equal(alone.features(clips).stack.last, whole.features(clips).stack.last)
    mask = random_mask(MaskRequest(torch.tensor([1, 2]), 1, clips.num_tokens, 8), MaskSettings())
    with pytest.raises(PlainError, match="it embeds, but has no parts to predict with"):
        alone(clips, mask)
