"""Inside the real s3prl: its own tests of an upstream, its bundled MAE-AST beside ours, both ways of getting in.

What s3prl's ``test/test_upstream.py`` demands is written again here, with the comparison of values that it leaves out;
its reference values come from the network.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_plugin import load_model

KINDS = ("patch", "frame")
Checkpoints = Callable[..., Path]


@pytest.fixture(scope="module")
def hub(needs_s3prl: None) -> ModuleType:
    from s3prl_upstream.registration import register

    return register()


@pytest.fixture(scope="module")
def pseudo_waves(hub: ModuleType) -> Callable[..., Any]:
    """Random clips as s3prl's tests make them; the padded ones need a gradient."""
    return importlib.import_module("s3prl.util.pseudo_data").get_pseudo_wavs


def wrapped(path: Path, **options: Any) -> Any:
    """The upstream in s3prl's Python interface, in training mode as its constructor leaves it."""
    return importlib.import_module("s3prl.nn").S3PRLUpstream(
        "mae_ast_plugin_local", str(path), extra_conf=options or None
    )


# ---- registration


def test_the_hub_lists_our_entries_and_leaves_its_own(hub: ModuleType) -> None:
    from s3prl_upstream.registration import register

    bundled = sys.modules["s3prl.upstream.mae_ast.hubconf"]
    assert register() is hub
    assert {"mae_ast_plugin_local", "mae_ast_plugin_custom", "mae_ast_local"} <= set(hub.options())
    assert not {name for name in hub.options(only_registered_ckpt=True) if name.startswith("mae_ast_plugin")}
    for name in ("mae_ast_local", "mae_ast_url", "mae_ast_patch", "mae_ast_frame"):
        assert getattr(hub, name) is getattr(bundled, name)


def test_the_pages_lines_of_python_work(
    hub: ModuleType, checkpoints: Checkpoints, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs" / "superb.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copy(checkpoints("patch"), tmp_path / "checkpoint_best.pt")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["upstream"].hidden_sizes == [32] * 3


# ---- s3prl's own tests, written again


@pytest.mark.parametrize("columns", ["join", "flat"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_deterministic_and_layers_constant(
    hub: ModuleType, checkpoints: Checkpoints, pseudo_waves: Callable[..., Any], kind: str, columns: str
) -> None:
    upstream = wrapped(checkpoints(kind, layer_drop=0.5), columns=columns).eval()
    first, again = (upstream(*pseudo_waves(padded=True))[0] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    for training, seeds in ((False, 3), (True, 6)):
        upstream.train(training)
        for seed in range(1, seeds):
            assert len(upstream(*pseudo_waves(seed=seed, padded=True))[0]) == len(first) == upstream.num_layers == 3


@pytest.mark.parametrize("columns", ["join", "flat"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_clips_pass_forward_and_backward(
    hub: ModuleType, checkpoints: Checkpoints, pseudo_waves: Callable[..., Any], kind: str, columns: str
) -> None:
    for clips in ({"n": 1, "max_secs": 0.05}, {"n": 2, "max_secs": 0.05}, {"n": 3, "max_secs": 1}):
        with torch.autograd.set_detect_anomaly(True):
            upstream = wrapped(checkpoints(kind), columns=columns)
            hidden, _ = upstream(*pseudo_waves(min_secs=0.05, padded=True, **clips))
            torch.stack([states.sum() for states in hidden]).sum().backward()
        gradient = upstream.upstream.encoder.network.embed.weight.grad
        assert gradient is not None and bool(gradient.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_s3prl_hands_on_the_values_of_our_encoder(
    hub: ModuleType, checkpoints: Checkpoints, pseudo_waves: Callable[..., Any], kind: str
) -> None:
    waves, lengths = pseudo_waves(n=3, min_secs=0.3, padded=True)
    upstream, encoder = wrapped(checkpoints(kind)).eval(), load_model(checkpoints(kind))
    hidden, steps = upstream(waves, lengths)
    out = encoder([wave[:length] for wave, length in zip(waves, lengths, strict=True)])
    rate = upstream.downsample_rates[0]
    for found, wanted, num_steps in zip(hidden, out.hidden_states, steps, strict=True):
        assert num_steps.tolist() == [-(-length // rate) for length in lengths.tolist()]
        for row, own in enumerate(out.lengths.tolist()):
            torch.testing.assert_close(found[row, :own], wanted[row, :own])


# ---- the MAE-AST that s3prl brings, on the same checkpoint


def write_published(path: Path, kind: str) -> Path:
    """Write random weights in the published layout: those of the bundled model itself."""
    time, chan = {"patch": (16, 16), "frame": (2, 128)}[kind]
    model = {
        "ast_kernel_size_chan": chan, "ast_kernel_size_time": time, "ast_kernel_stride_chan": chan,
        "ast_kernel_stride_time": time, "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 80,
        "encoder_attention_heads": 4, "activation_fn": "gelu", "layer_norm_first": False, "feature_grad_mult": 0.1,
        "use_post_enc_proj": False, "decoder_embed_dim": 32, "decoder_layers": 1, "decoder_layerdrop": 0.0,
        "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "encoder_layerdrop": 0.05,
        "dropout_input": 0.1, "random_mask_prob": 0.75, "mask_length": 10, "mask_selection": "static",
        "mask_other": 0.0, "no_mask_overlap": False, "mask_min_space": 0, "conv_pos": 128, "conv_pos_groups": 16,
        "checkpoint_activations": False, "max_token_length": 2000, "enc_sine_pos": True, "enc_conv_pos": False,
        "dec_sine_pos": True, "dec_conv_pos": False,
    }  # fmt: skip
    task = {"sample_rate": 16000, "feature_type": "fbank", "feature_dim": 128, "feature_rate": 100, "deltas": False,
            "mask_type": "random_mask", "mask_spans": False}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bundled = importlib.import_module("s3prl.upstream.mae_ast.mae_ast")
        network = bundled.MAE_AST(SimpleNamespace(**model), SimpleNamespace(**task))
    torch.save({"cfg": {"model": model, "task": task}, "model": network.state_dict()}, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_hidden_states_of_a_single_clip_equal_those_of_the_bundled_upstream(
    hub: ModuleType, tmp_path: Path, kind: str
) -> None:
    path = str(write_published(tmp_path / "published.pt", kind))
    theirs, ours = hub.mae_ast_local(path).eval(), hub.mae_ast_plugin_local(ckpt=path).eval()
    assert ours.get_downsample_rates("hidden_states") == theirs.get_downsample_rates("hidden_states")
    for length in (16000, 24001, 40960):
        wave = torch.rand(length, generator=torch.Generator().manual_seed(length)) - 0.5
        their_states, our_states = (each([wave])["hidden_states"] for each in (theirs, ours))
        assert len(our_states) == 1 + len(their_states) == 3
        for ours_of_layer, theirs_of_layer in zip(our_states[1:], their_states, strict=True):
            own = theirs_of_layer.shape[1]
            assert ours_of_layer.shape[1] - own in (0, 1, 2)  # steps of ours that repeat the last
            torch.testing.assert_close(ours_of_layer[:, :own], theirs_of_layer, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_where_the_bundled_upstream_depends_on_a_clips_neighbours_ours_does_not(
    hub: ModuleType, tmp_path: Path
) -> None:
    path = str(write_published(tmp_path / "published.pt", "patch"))
    short, long = (torch.rand(n, generator=torch.Generator().manual_seed(n)) - 0.5 for n in (10000, 16000))

    def difference(upstream: Any) -> float:
        alone: Tensor = upstream([short])["hidden_states"][-1]
        beside = upstream([long, short])["hidden_states"][-1][1:, : alone.shape[1]]
        own = 3  # columns that 10000 samples fill
        return float((alone - beside)[:, :own].norm() / alone[:, :own].norm())

    assert difference(hub.mae_ast_local(path).eval()) > 1e-3
    assert difference(hub.mae_ast_plugin_local(ckpt=path).eval()) < 1e-5


# ---- the folder inside s3prl, without fairseq and hydra


INSIDE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fairseq", "fairseq_cli", "hydra"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
overlay, checkpoint = sys.argv[1:]
sys.path.insert(0, overlay)
from s3prl_upstream import compat
hub = compat.import_hub()
assert hub.__file__.startswith(overlay), hub.__file__
import torch
from s3prl.nn import S3PRLUpstream
upstream = S3PRLUpstream("mae_ast_plugin_local", checkpoint).eval()
assert type(upstream.upstream).__module__ == "s3prl.upstream.ours.expert"
hidden, lengths = upstream(torch.rand(2, 16000), torch.tensor([16000, 9000]))
assert len(hidden) == 3 and hidden[0].shape == (2, 7, 256) and lengths[0].tolist() == [7, 4]
from s3prl_upstream.registration import register
register()
assert S3PRLUpstream.available_names().count("mae_ast_plugin_local") == 1
assert hub.mae_ast_plugin_local.__module__ == "s3prl.upstream.ours.hubconf"
"""


@pytest.mark.parametrize("way", ["copied", "linked"])
def test_the_folder_works_copied_or_linked_into_s3prl(
    needs_s3prl: None, checkpoints: Checkpoints, repository: Path, tmp_path: Path, way: str
) -> None:
    """In a private copy of s3prl, whose hub gets the one line that it needs."""
    found = importlib.util.find_spec("s3prl")
    assert found and found.origin
    package = tmp_path / "s3prl"
    shutil.copytree(Path(found.origin).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    if way == "copied":
        shutil.copytree(repository / "s3prl_upstream", package / "upstream" / "ours")
    else:
        (package / "upstream" / "ours").symlink_to(repository / "s3prl_upstream", target_is_directory=True)
    with (package / "hub.py").open("a") as hub:
        hub.write("\nfrom s3prl.upstream.ours.hubconf import *\n")
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, str(tmp_path), str(checkpoints("patch"))],
        cwd=repository, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "s3prl has its own mae_ast_plugin_local (from s3prl.upstream.ours.hubconf), which is used" in done.stderr
