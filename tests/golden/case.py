"""One golden case: its inputs, what the original gave, and the ledger of what has been compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# Parts of config.json that describe the case and are no results.
DESCRIPTION = {
    "system",
    "about",
    "reference_config",
    "fbank",
    "resampler",
    "layout",
    "tolerance",
    "mode",
    "compare",
    "solo_note",
    "measured_fp32_vs_fp64",
    "mask_note",
    "reduced_metrics_single_worker_note",
    "files",
    "s3prl_note",
    "case",
    "model",
    "input_tensors",
    "expected_tensors",
    "checkpoint_container",
    "left_out",
    "shapes",
}
# What an item asks for, and how exact the original itself is: no results either.
MEASURED = {
    "max_abs_fp32_vs_fp64",
    "mean_abs_fp32_vs_fp64",
    "orig_sample_rate",
    "feature_type",
    "feature_dim",
    "deltas",
    "formula",
}


class Case:
    """A case folder; ``compare`` and ``scalar`` check a result and cross its name off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = folder.parent.name
        config = folder / "config.json"
        self.config: dict[str, Any] = json.loads(config.read_text()) if config.exists() else {}
        self.input = self._tensors("input")
        self.expected = self._tensors("expected")
        self.open_tensors = set(self.expected)
        self.open_scalars = dict(leaves({k: v for k, v in self.config.items() if k not in DESCRIPTION}))
        self.problems: list[str] = []
        self.largest_difference = 0.0  # of all tensors, as a share of the largest value in its tensor

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.exists() else {}

    @property
    def checkpoint(self) -> Path:
        return next(self.folder.glob("checkpoint.pt*"))

    def compare(self, name: str, found: Tensor, valid: Tensor | None = None, *, absolute: float | None = None) -> None:
        """Check ``found`` against the expected tensor; rows where ``valid`` is false carry no meaning."""
        wanted = self.expected[name]
        self.open_tensors.discard(name)
        found = found.detach()
        if tuple(found.shape) != tuple(wanted.shape):
            self.problems.append(f"{name}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
            return
        if valid is not None:
            found, wanted = found[valid], wanted[valid]
        if not wanted.is_floating_point():
            if not torch.equal(found.to(wanted.dtype), wanted):
                self.problems.append(f"{name}: differs")
            return
        difference = (found.double() - wanted.double()).abs()
        self._note(difference, wanted)
        tolerance = self.config.get("tolerance", {})
        atol = tolerance.get("atol", 2e-5) if absolute is None else absolute
        rtol = tolerance.get("rtol", 1e-4) if absolute is None else 0.0
        if not bool((difference <= atol + rtol * wanted.double().abs()).all()):
            self.problems.append(
                f"{name}: off by {float(difference.max()):.3g} at most {float(wanted.abs().max()):.3g}"
            )

    def _note(self, difference: Tensor, wanted: Tensor) -> None:
        if difference.numel() and (largest := float(wanted.abs().max())):
            self.largest_difference = max(self.largest_difference, float(difference.max()) / largest)

    def within(self, name: str, found: Tensor, tolerance: Mapping[str, float]) -> None:
        """Check ``found`` against the expected tensor with a tolerance of its own, exactly where that is empty."""
        wanted = self.expected[name]
        self.open_tensors.discard(name)
        found = found.detach()
        if tuple(found.shape) != tuple(wanted.shape):
            self.problems.append(f"{name}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
            return
        difference = (found.double() - wanted.double()).abs()
        allowed = tolerance.get("atol", 0.0) + tolerance.get("rtol", 0.0) * wanted.double().abs()
        self._note(difference, wanted)
        if not bool((difference <= allowed).all()):
            self.problems.append(
                f"{name}: off by {float(difference.max()):.3g} at most {float(wanted.abs().max()):.3g}"
            )

    def scalar(self, name: str, found: object, *, within: float = 0.0) -> None:
        """Check one value of config.json; ``within`` is the allowed absolute difference of a number."""
        wanted = self.open_scalars.pop(name)
        if isinstance(wanted, int | float) and not isinstance(wanted, bool):
            right = abs(float(found) - wanted) <= within  # type: ignore[arg-type]
        else:
            right = found == wanted
        if not right:
            self.problems.append(f"{name}: {found!r}, expected {wanted!r}")

    def verdict(self) -> list[str]:
        """All that is wrong, what was never compared included."""
        unchecked = [f"{name}: never compared" for name in [*sorted(self.open_tensors), *sorted(self.open_scalars)]]
        return self.problems + unchecked


def leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Walk the results in config.json: every number, word and list of words with its dotted path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key not in MEASURED or isinstance(value, Mapping):
                yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree
