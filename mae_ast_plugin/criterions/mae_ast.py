"""Joint reconstruction and InfoNCE as a fairseq criterion.

Logged under the original's names in the original's unit (base 2: ``loss``, ``loss_recon``, ``loss_info_nce``,
``nll_loss``, ``ppl``), and as plain values under clear names: ``mse`` (``l1``), ``nce_nats``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from mae_ast_plugin.methods.settings import CriterionSettings, from_mapping
from mae_ast_plugin.nn.autoencoder import Predictions
from mae_ast_plugin.nn.losses import info_nce, match_accuracy, reconstruction_errors
from mae_ast_plugin.nn.transformer import keep_in_graph


@dataclass
class MaskedPredictionConfig(FairseqDataclass, CriterionSettings):
    """``criterion.*`` for fairseq."""


@register_criterion("mae_ast", dataclass=MaskedPredictionConfig)
class MaskedPredictionCriterion(FairseqCriterion):
    """Weighs the two losses over hidden tokens and reports their sums, which processes can add up."""

    def __init__(self, settings: CriterionSettings, task: Any = None) -> None:
        super().__init__(task)
        self.settings = settings

    @classmethod
    def build_criterion(cls, cfg: Mapping[str, Any], task: Any) -> MaskedPredictionCriterion:
        return cls(from_mapping(CriterionSettings, cfg), task)

    def losses(
        self, predictions: Predictions, num_clips: int, classification: Predictions | None = None
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Weigh the losses; returns (loss, denominator of its gradient, what to log).

        ``classification`` is the pass that is classified, where that is another than the one that is reconstructed;
        both hide as many tokens.

        Over tokens: sums over the hidden tokens, so that dividing by their number over all processes gives their mean.
        Over batches: the mean of this batch, as in the original, whose ``ntokens`` counts the hidden tokens of one
        clip.
        """
        per_batch = self.settings.average_over == "batches"
        hidden = sum(predictions.num_hidden)
        scale = 1.0 / max(1, hidden) if per_batch else 1.0
        recon, nce, right = self._sums(predictions, classification or predictions)
        loss = self.settings.reconstruction_weight * recon + self.settings.classification_weight * nce
        if self.settings.reconstruction_weight == 0:
            loss = keep_in_graph(loss, [predictions.reconstructed])
        if self.settings.classification_weight == 0:
            loss = keep_in_graph(loss, [(classification or predictions).classified])
        sample_size = 1 if per_batch else hidden
        logging: dict[str, Any] = {
            "loss": (loss * scale).detach(),
            "ntokens": hidden // max(1, num_clips) if per_batch else hidden,
            "nsentences": num_clips,
            "sample_size": sample_size,
            "loss_recon": (recon * scale).detach(),
            "loss_info_nce": (nce * scale).detach(),
            "matched": (right * scale).detach(),
            **({"accuracy": 1} if self.settings.nce_over == "predictions" else {}),
            **({"l1": 1} if self.settings.reconstruction_error == "absolute" else {}),
            "batches": int(per_batch),
        }
        return loss * scale, sample_size, logging

    def _sums(self, reconstruction: Predictions, classification: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over hidden tokens of the errors, of the InfoNCE, and of the tokens that are matched rightly."""
        zero = reconstruction.reconstructed.new_zeros((), dtype=torch.float32)
        recon = nce = right = zero
        if self.settings.reconstruction_weight > 0:
            padding = reconstruction.padding
            kind = self.settings.reconstruction_error
            errors = reconstruction_errors(reconstruction.reconstructed, reconstruction.target, kind)
            recon = (errors if padding is None else errors.masked_fill(padding, 0.0)).sum()
        if self.settings.classification_weight > 0:
            predicted, target, padding = classification.classified, classification.target, classification.padding
            if self.settings.nce_over == "predictions":
                nce = info_nce(target, predicted, padding).sum()
                right = match_accuracy(predicted.detach(), target, padding).sum()
            else:
                nce = info_nce(predicted, target, padding).sum()
        return recon, nce, right

    def forward(self, model: Any, sample: Mapping[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        net_input = sample["net_input"]
        predictions, classification = model(**net_input)
        loss, sample_size, logging = self.losses(predictions, len(net_input["lengths"]), classification)
        if net_input["weight"] == 0:  # a batch that only keeps this process in step with the others
            loss, sample_size = loss * 0, 0
            logging = {name: value * 0 for name, value in logging.items()}
        logging["unreadable"] = len(sample["unreadable"])
        logging["audio_seconds"] = float(sample["audio_seconds"])
        logging["padded_seconds"] = float(sample["padded_seconds"])
        return loss, sample_size, logging

    @classmethod
    def shown_values(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What is displayed for these outputs: each value with the original's name and unit, then the plain ones."""
        sums = {name: sum(log.get(name, 0) for log in logging_outputs) for name in _SUMMED}
        size = max(1, int(sums["sample_size"]))
        mean = {name: sums[name] / size for name in ("loss", "loss_recon", "loss_info_nce")}
        # hidden tokens of a clip: over batches ntokens already is that number, once for each of them
        tokens = sums["ntokens"] / max(1, int(sums["batches"] or sums["nsentences"]))
        shown = {name: value / math.log(2) for name, value in mean.items()}
        shown["nll_loss"] = mean["loss"] / max(1.0, tokens) / math.log(2)
        shown[_error_name(logging_outputs)], shown["nce_nats"] = mean["loss_recon"], mean["loss_info_nce"]
        shown["accuracy"] = sums["matched"] / size
        return shown

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Hand the values of one update to fairseq's meters; tensors stay on their device until they are displayed."""
        size = int(sum(log.get("sample_size", 0) for log in logging_outputs))
        if size == 0:
            return
        shown = cls.shown_values(logging_outputs)
        plain = (_error_name(logging_outputs), "nce_nats")
        for priority, name in enumerate(("loss", "loss_recon", "loss_info_nce", *plain)):
            metrics.log_scalar(name, shown[name], size, priority=priority + 1, round=4 if name in plain else 3)
        if any("accuracy" in log for log in logging_outputs):
            metrics.log_scalar("accuracy", shown["accuracy"], size, priority=6, round=3)
        metrics.log_scalar("nll_loss", shown["nll_loss"], size, priority=6, round=3)
        metrics.log_derived("ppl", lambda meters: perplexity(float(meters["nll_loss"].avg)), priority=7)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def _error_name(logging_outputs: Sequence[Mapping[str, Any]]) -> str:
    """What the mean error of hidden patches is called."""
    return "l1" if any("l1" in log for log in logging_outputs) else "mse"


def perplexity(nll: float) -> float:
    """Raise 2 to ``nll``; infinite, not an error that ends the run, where a float cannot hold it."""
    return math.inf if nll >= sys.float_info.max_exp else 2**nll


_SUMMED = ("loss", "loss_recon", "loss_info_nce", "matched", "ntokens", "nsentences", "sample_size", "batches")
