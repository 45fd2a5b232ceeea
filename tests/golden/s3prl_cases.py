"""The cases of MAE-AST's upstreams: that of its repository (flat tokens) and the copy that s3prl brings (columns).

Both pad after the fbank and count a patch that is partly padding as a token of its clip; the network is told to do the
same. What a clip gives that is padded by nobody, the longest, must also come out of our upstream.
"""

from __future__ import annotations

import torch
from case import Case
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mae_ast_plugin.checkpoint import build_network, load_checkpoint
from mae_ast_plugin.encoder import COLUMNS
from mae_ast_plugin.methods.build import frontend_of
from s3prl_upstream.expert import UpstreamExpert


@torch.no_grad()
def check(case: Case) -> None:
    """Compare everything an upstream's case defines."""
    waves = [case.input[f"waveform.{number}"] for number in range(len(case.input))]
    case.scalar("wav_lengths", [len(wave) for wave in waves])
    _check_network(case, waves)
    _check_upstream(case, waves)


def _check_network(case: Case, waves: list[Tensor]) -> None:
    checkpoint = load_checkpoint(case.checkpoint)
    frontend, network = frontend_of(checkpoint.task), build_network(checkpoint)
    network.count_partial = True
    features = [frontend(wave[None])[0] for wave in waves]
    frames = [len(each) for each in features]
    source = pad_sequence(features, batch_first=True)
    # logarithms of nearly empty bins: the original's float32 is itself 2.5e-4 from float64 (its fbank cases allow 5e-3)
    case.compare("source", source, absolute=5e-4)
    case.compare("padding_mask", torch.arange(source.shape[1]) >= torch.tensor(frames)[:, None])
    clips = network.cut(source, frames)
    padding = clips.padding
    if padding is None:
        padding = torch.zeros(clips.patches.shape[:2], dtype=torch.bool)
    case.compare("token_padding_mask", padding)
    num_chan = network.tokens.num_chan
    case.scalar("s3prl_num_vertical_patch", num_chan)
    stack = network.features(clips).stack
    columns = ~padding.unflatten(1, (-1, num_chan))[..., 0]
    for number, states in enumerate(stack.hidden):
        case.compare(f"raw_hidden_states.{number}", states, ~padding)
        case.compare(f"s3prl_hidden_states.{number}", COLUMNS["join"](states, num_chan), columns)
    case.compare("raw_last_hidden_state", stack.last, ~padding)


def _check_upstream(case: Case, waves: list[Tensor]) -> None:
    """The longest clip through our upstream, in both layouts."""
    longest = max(range(len(waves)), key=lambda row: len(waves[row]))
    last: list[Tensor] = []
    for columns, prefix in (("join", "s3prl"), ("flat", "raw")):
        upstream = UpstreamExpert(case.checkpoint, columns=columns).eval()
        if columns == "join":
            case.scalar("s3prl_downsample_rate", upstream.get_downsample_rates("hidden_states"))
        out = upstream([waves[longest]])
        found = {f"{prefix}_hidden_states.{number}": states for number, states in enumerate(out["hidden_states"][1:])}
        if columns == "flat":
            found["raw_last_hidden_state"] = out["last_hidden_state"]
        own = upstream.encoder.num_steps(len(waves[longest]))
        last.append(out["last_hidden_state"][:, :own].flatten())
        for name, states in found.items():
            wanted = case.expected[name][longest]
            difference = float((states[0, : len(wanted)] - wanted).abs().max())
            if difference > case.config["tolerance"]["atol"] + 1e-4 * float(wanted.abs().max()):
                case.problems.append(f"{name} of the longest clip, by our upstream: off by {difference:.3g}")
    # the two originals agree to the last bit, and so do our two layouts
    case.scalar("max_abs_diff_s3prl_copy_vs_original_model", float((last[0] - last[1]).abs().max()))
