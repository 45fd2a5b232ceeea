"""The upstream by itself, without s3prl: its steps, its values, its options."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mae_ast_plugin import load_model
from mae_ast_plugin.errors import PlainError
from s3prl_upstream import hubconf
from s3prl_upstream.expert import UpstreamExpert
from s3prl_upstream.options import Options, read_options
from s3prl_upstream.run_downstream import HERE, our_names

RATES = {("patch", "join"): 2560, ("patch", "mean"): 2560, ("patch", "flat"): 320, ("frame", "join"): 320}
Checkpoints = Callable[..., Path]


def noise(num_samples: int, seed: int = 0) -> Tensor:
    return torch.rand(num_samples, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.fixture(params=sorted(RATES), ids="-".join)
def layout(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Kind of network and columns."""
    return request.param


@pytest.fixture
def upstream(layout: tuple[str, str], checkpoints: Checkpoints) -> UpstreamExpert:
    return UpstreamExpert(checkpoints(layout[0]), columns=layout[1]).eval()


# ---- steps


@torch.no_grad()
def test_every_length_gives_the_steps_that_s3prl_expects(layout: tuple[str, str], checkpoints: Checkpoints) -> None:
    """From 0.05 s to 60 s: around every step's edge while clips are short, then ever wider apart."""
    upstream = UpstreamExpert(checkpoints(layout[0], num_layers=1, dim=16, decoder_dim=16), columns=layout[1]).eval()
    rate = upstream.get_downsample_rates("hidden_states")
    assert rate == RATES[layout]
    edges = [rate * steps + offset for steps in (1, 2, 3, 4, 5, 7, 16) for offset in (-1, 0, 1, 239, 240, 400)]
    lengths = [*range(800, 8300, 173), *edges, 16000, 31999, 100003, 320000, 480001, 959999, 960000]
    for length in lengths:
        if length < 800:
            continue
        out = upstream([noise(length)])
        wanted = len(range(0, length, rate))
        assert {states.shape[1] for states in [*out["hidden_states"], out["last_hidden_state"]]} == {wanted}, length
        assert bool(out["last_hidden_state"].isfinite().all())


@torch.no_grad()
def test_values_are_those_of_the_encoder_and_the_last_own_step_is_repeated(
    upstream: UpstreamExpert, layout: tuple[str, str], checkpoints: Checkpoints
) -> None:
    encoder = load_model(checkpoints(layout[0]), columns=layout[1])
    waves = [noise(length, seed) for seed, length in enumerate((16000, 9001, 24000, 5000))]
    out, direct = upstream(waves), encoder(waves)
    assert len(out["hidden_states"]) == len(direct.hidden_states) == 3
    for found, wanted in zip(
        [*out["hidden_states"], out["last_hidden_state"]], [*direct.hidden_states, direct.frames], strict=True
    ):
        for row, own in enumerate(direct.lengths.tolist()):
            assert torch.equal(found[row, :own], wanted[row, :own])
            assert torch.equal(found[row, own:], wanted[row, own - 1 : own].expand(found.shape[1] - own, -1))


@torch.no_grad()
def test_a_clip_has_the_same_features_alone_and_beside_others(upstream: UpstreamExpert) -> None:
    waves = [noise(length, seed) for seed, length in enumerate((16000, 3200, 7001, 12345))]
    together = upstream(waves)["hidden_states"]
    for row, wave in enumerate(waves):
        for many, one in zip(together, upstream([wave])["hidden_states"], strict=True):
            steps = one.shape[1]
            torch.testing.assert_close(many[row, :steps], one[0], atol=1e-5, rtol=1e-5)
            assert torch.equal(many[row, steps:], many[row, steps - 1 : steps].expand(many.shape[1] - steps, -1))


# ---- training


def test_gradients_reach_the_first_layer_through_every_feature(upstream: UpstreamExpert) -> None:
    upstream.train()
    waves = [noise(800).requires_grad_(), noise(16000, 1).requires_grad_()]
    with torch.autograd.set_detect_anomaly(True):
        out = upstream(waves)
        for states in [*out["hidden_states"], out["last_hidden_state"]]:
            upstream.zero_grad()
            states.sum().backward(retain_graph=True)
            gradient = upstream.encoder.network.embed.weight.grad
            assert gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.abs().sum() > 0)


@torch.no_grad()
def test_the_number_of_layers_never_changes_in_training(checkpoints: Checkpoints) -> None:
    """A dropped layer hands on what it was given."""
    upstream = UpstreamExpert(checkpoints("frame", layer_drop=0.9)).train()
    hidden = [upstream([noise(4000, seed)])["hidden_states"] for seed in range(10)]
    assert {len(states) for states in hidden} == {3}
    assert any(torch.equal(states[1], states[2]) for states in hidden)


# ---- options


@torch.no_grad()
def test_the_decoders_layers_follow_on_request(checkpoints: Checkpoints) -> None:
    with_decoder = UpstreamExpert(checkpoints("patch"), {"decoder": True}).eval()
    without = UpstreamExpert(checkpoints("patch")).eval()
    found, plain = (each([noise(16000)]) for each in (with_decoder, without))
    assert len(found["hidden_states"]) == len(plain["hidden_states"]) + 1 == 4
    for one, other in zip(found["hidden_states"], plain["hidden_states"], strict=False):
        assert torch.equal(one, other)
    torch.testing.assert_close(found["last_hidden_state"], found["hidden_states"][-1])
    assert not torch.equal(found["last_hidden_state"], plain["last_hidden_state"])


def test_a_decoder_of_another_width_is_refused(checkpoints: Checkpoints) -> None:
    path = checkpoints("patch", decoder_dim=16)
    assert UpstreamExpert(path)
    with pytest.raises(PlainError, match=r"its decoder is 16 wide and its encoder 32"):
        UpstreamExpert(path, decoder=True)


def test_every_shipped_yaml_of_options_can_be_read() -> None:
    names = our_names("upstreams")
    layouts = ["decoder", "flat", "join", "mean"]
    assert names == sorted([*layouts, "dasheng", "mae_ast", "maskspec", "msm_mae", "ssast_frame", "ssast_patch"])
    read = {name: read_options(HERE / "upstreams" / f"{name}.yaml") for name in names}
    assert read == {
        "dasheng": Options(),
        "decoder": Options(decoder=True),
        "flat": Options(columns="flat"),
        "join": Options(),
        "mae_ast": Options(),
        "maskspec": Options(columns="mean"),
        "mean": Options(columns="mean"),
        "msm_mae": Options(),
        "ssast_frame": Options(window_seconds=1, stride_time=1),
        "ssast_patch": Options(window_seconds=1, stride_time=10, stride_chan=10),
    }
    assert read_options(HERE / "upstreams" / "decoder.yaml", {"columns": "mean"}).columns == "mean"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("layers: 3", "there is no option 'layers'; there are columns, decoder, window_seconds, stride_time"),
        ("window_seconds: -1", "window_seconds is -1; it must be a number"),
        ("stride_time: ten", "stride_time is 'ten'; it must be a number"),
        ("{window_seconds: 1, decoder: true}", "window_seconds and decoder do not go together"),
        ("columns: rows", "columns is 'rows'; it must be one of join"),
        ("decoder: 1", "decoder is 1; it must be true or false"),
        ("- a", "it must hold lines such as"),
        ("a: [", "it is no YAML"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_sentence_that_begins_with_the_file(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    path = tmp_path / "options.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PlainError, match=f"^{re.escape(str(path))}: .*{re.escape(sentence)}") as error:
        read_options(path)
    assert "\n" not in str(error.value)


# ---- windows and strides


def test_windows_give_the_steps_that_s3prl_expects_and_know_no_neighbours(checkpoints: Checkpoints) -> None:
    """Their values are those of SSAST's own upstream: ``tests/golden``."""
    options = {"window_seconds": 0.5, "stride_time": 8}
    upstream = UpstreamExpert(str(checkpoints("patch")), options).eval()
    rate = upstream.get_downsample_rates()
    assert rate == 8 * 160
    waves = [
        torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5 for length in (3000, 20011, 9000)
    ]
    with torch.no_grad():
        together = upstream(waves)
        assert len(together["hidden_states"]) == upstream.encoder.num_layers + 1
        assert together["last_hidden_state"].shape[1] == -(-20011 // rate)
        for row, wave in enumerate(waves):
            alone = upstream([wave])["last_hidden_state"][0]
            torch.testing.assert_close(together["last_hidden_state"][row, : len(alone)], alone, atol=1e-5, rtol=1e-5)


# ---- entries


def test_only_the_entries_are_public() -> None:
    assert [name for name in vars(hubconf) if not name.startswith("_")] == [
        "mae_ast_plugin_local",
        "mae_ast_plugin_custom",
        *(f"mae_ast_plugin_{name}_local" for name in our_names("upstreams")),
    ]


@pytest.mark.parametrize("name", ["dasheng", "mae_ast", "maskspec", "msm_mae", "ssast_patch"])
def test_an_entry_of_a_method_is_the_general_one_with_its_options(checkpoints: Checkpoints, name: str) -> None:
    path = str(checkpoints("patch"))
    entry = getattr(hubconf, f"mae_ast_plugin_{name}_local")
    wave = [torch.rand(20000) - 0.5]
    with torch.no_grad():
        own = entry(path, refresh=False).eval()(wave)["last_hidden_state"]
        general = hubconf.mae_ast_plugin_local(path, HERE / "upstreams" / f"{name}.yaml").eval()(wave)
    assert torch.equal(own, general["last_hidden_state"])
    assert entry(path, {"columns": "flat"}).get_downsample_rates() == 320  # what is given comes first


def test_an_entry_takes_what_s3prl_passes(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("columns: flat\n")
    passed = {"ckpt": str(checkpoints("patch")), "model_config": str(tmp_path / "mine.yaml"), "refresh": False}
    assert hubconf.mae_ast_plugin_local(**passed).get_downsample_rates("hidden_states") == 320
    passed["model_config"] = None
    assert hubconf.mae_ast_plugin_custom(**passed, columns="mean").get_downsample_rates() == 2560
    with pytest.raises(PlainError, match="needs a checkpoint; give its path with -k"):
        hubconf.mae_ast_plugin_local(refresh=True)
    with pytest.raises(PlainError, match="there is no option 'feature'"):
        hubconf.mae_ast_plugin_local(ckpt=passed["ckpt"], feature="x")


def test_a_checkpoint_at_a_url_is_downloaded_once(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    place = tmp_path / "there" / "model.pt"
    place.parent.mkdir()
    place.write_bytes(checkpoints("frame").read_bytes())
    assert hubconf.mae_ast_plugin_custom(place.as_uri()).get_downsample_rates() == 320
    place.write_bytes(checkpoints("patch").read_bytes())
    assert hubconf.mae_ast_plugin_custom(place.as_uri()).get_downsample_rates() == 320
    assert hubconf.mae_ast_plugin_custom(place.as_uri(), refresh=True).get_downsample_rates() == 2560
    place.unlink()
    with pytest.raises(PlainError, match="it could not be downloaded"):
        hubconf.mae_ast_plugin_custom(place.as_uri(), refresh=True)


# ---- neither fairseq nor s3prl


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fairseq", "fairseq_cli", "hydra", "omegaconf", "s3prl", "torchaudio"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import torch
from s3prl_upstream.hubconf import mae_ast_plugin_local
upstream = mae_ast_plugin_local(ckpt=sys.argv[1], model_config=None, refresh=False).eval()
print(len(upstream([torch.rand(16000)])["hidden_states"]))
"""


def test_neither_the_trainer_nor_s3prl_is_needed(checkpoints: Checkpoints, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(checkpoints("patch"))],
        cwd=repository, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n"


def test_without_s3prl_the_command_names_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from s3prl_upstream import run_downstream

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_downstream.main(["-m", "evaluate", "-e", "somewhere"]) == 2
    error = capsys.readouterr().err
    assert "make s3prl-setup" in error and error.count("\n") == 1
