"""A manifest of clips as a fairseq dataset of waveforms.

Reads, crops and pads; what a clip is cropped to depends on (seed, epoch, row) alone. A clip that cannot be read is
replaced by its next readable neighbour and named in the batch, so that the main process can count and report it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from mae_ast_plugin.audio.features import is_features
from mae_ast_plugin.audio.frontend import FrontEnd, as_float
from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.audio.reader import AudioError, read_compact, sample_rate_of
from mae_ast_plugin.audio.resample import sinc_hann
from mae_ast_plugin.data.batching import Batches, ClipRef, make_batches
from mae_ast_plugin.data.joining import joined
from mae_ast_plugin.data.kept import KeptClips
from mae_ast_plugin.data.spectrograms import holds_features, read_spectrogram, sizes_of
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.methods.settings import TaskSettings
from mae_ast_plugin.nn.noise import combine

logger = logging.getLogger(__name__)

CROP_STREAM, MASK_STREAM = 1, 2
MAX_NEIGHBOURS = 20


@dataclass
class Clip:
    """One clip as read, and rows that could not be read on the way to it, each (row, path and reason).

    ``waveform`` (S,), float32 or of 16 bits (``reader.read_compact``), or (T, F) where the manifest holds features.
    """

    ref: ClipRef
    waveform: Tensor
    unreadable: list[tuple[int, str]] = field(default_factory=list)


class ClipDataset(FairseqDataset):
    """Clips of one split."""

    def __init__(
        self,
        split: str,
        manifest: Manifest,
        task: TaskSettings,
        frontend: FrontEnd,
        *,
        min_frames: int,
        seed: int,
        epoch_matters: bool,
        pad_to_widths: bool = True,
    ) -> None:
        """``pad_to_widths``: pad each batch to the width planned for it, one of a few, and not to its longest clip."""
        self.split, self.manifest, self.task = split, manifest, task
        self.seed, self.epoch_matters = seed, epoch_matters
        self.frontend = frontend
        self.pad_to_widths = pad_to_widths and task.pad_audio
        self.shortest = frontend.num_samples(min_frames)
        if task.max_sample_size is not None and task.max_sample_size < self.shortest:
            raise PlainError(
                f"task.max_sample_size is {task.max_sample_size} samples, but one patch needs {self.shortest}"
            )
        self.of_features = holds_features(manifest, task, frontend)
        self.rows, self.sizes = self._keep()
        self.pieces: np.ndarray | None = None  # which piece of its clip an entry is
        if task.cut != "crop":
            self._cut()
        self.kept = KeptClips(self.sizes, 1e9 * task.keep_decoded_gb) if self._keeps_decoded() else None

    def _keeps_decoded(self) -> bool:
        return self.task.keep_decoded_gb > 0 and self.epoch_matters and not self.of_features

    def _keep(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows within the length limits, and their sizes [samples at task.sample_rate] after cropping."""
        lengths = self._task_samples(self.manifest.lengths, slice(None))
        limit = self.task.max_sample_size or np.inf
        if self.of_features and limit != np.inf:
            limit = self.frontend.num_samples(self.frontend.num_frames(int(limit)))
        least = max(self.shortest if self.manifest.sample_rates is not None else 1, self.task.min_sample_size or 0)
        most = self.task.max_keep_size or np.inf
        kept = np.flatnonzero((lengths >= least) & (lengths <= most)).astype(np.int32)
        if len(kept) == 0:
            raise PlainError(
                f"{self.manifest.path}: none of its {len(lengths)} clips has between {least} and {most} samples "
                f"(shortest {lengths.min():.0f}, longest {lengths.max():.0f}); change task.min_sample_size or "
                "task.max_keep_size, or use longer audio"
            )
        self.num_short = int((lengths < least).sum())
        self.num_long = int((lengths > most).sum())
        np.minimum(lengths, limit, out=lengths)  # in place: there may be millions
        return kept, lengths[kept].astype(np.int64)

    def _task_samples(self, lengths: np.ndarray, rows: Any) -> np.ndarray:
        """Lengths at the rates of ``rows``, or frames of features, in samples at task.sample_rate."""
        if self.of_features:
            return sizes_of(lengths, self.frontend)
        if self.manifest.sample_rates is None:
            return lengths.astype(np.float64)
        samples = lengths * float(self.task.sample_rate)
        samples /= self.manifest.sample_rates[rows]
        return np.ceil(samples, out=samples)

    def _cut(self) -> None:
        """Make an entry of every piece of a clip; a clip shorter than a piece is one entry."""
        if self.manifest.sample_rates is None or self.task.max_sample_size is None:
            raise PlainError(
                f"{self.manifest.path} has no sample rates beside it (.rates), without which clips cannot be counted "
                "into pieces; make it with `python -m manifests`, or set task.cut=crop"
            )
        longest = self._most(self.manifest.sample_rates[self.rows].astype(np.int64))
        whole, rest = np.divmod(self.manifest.lengths[self.rows], longest)
        rest_size = self._task_samples(rest, self.rows)
        kept = (whole == 0) | (rest_size >= self.shortest) & (self.task.cut == "all_pieces")
        counts = whole + kept
        self.pieces = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        is_rest = self.pieces == np.repeat(whole, counts)
        self.rows = np.repeat(self.rows, counts)
        self.sizes = np.where(is_rest, np.repeat(rest_size, counts), np.repeat(self.sizes, counts)).astype(np.int64)

    def _most(self, native: Any) -> Any:
        """How many samples at a file's own rate (or frames of features) an entry holds at most."""
        limit = self.task.max_sample_size or 0
        if self.of_features:
            return self._units(limit)
        return limit * native // self.task.sample_rate

    # ---- what fairseq asks

    def __len__(self) -> int:
        return len(self.rows)

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens(self, index: int) -> int:
        return self.size(index)

    def ordered_indices(self) -> np.ndarray:
        return np.argsort(-self.sizes, kind="stable")

    def batches(
        self, epoch: int, max_samples: int | None, max_clips: int | None, num_parts: int, multiple: int
    ) -> Batches:
        """Batches of ``epoch`` for ``num_parts`` processes; a dataset whose epochs are alike always gives those of
        epoch 0.
        """
        longest = int(self.sizes.max())
        if max_samples is not None and longest > max_samples:
            raise PlainError(
                f"dataset.max_tokens is {max_samples} samples, less than the longest clip of {self.manifest.path} "
                f"({longest}); raise it or lower task.max_sample_size"
            )
        batches = make_batches(
            self.sizes,
            max_samples=max_samples,
            max_clips=max_clips,
            num_parts=num_parts,
            multiple=multiple,
            seed=self.seed,
            epoch=epoch if self.epoch_matters else 0,
        )
        if self.epoch_matters or epoch == 1:  # others are made again whenever they are gone through, always the same
            self._tell(batches, epoch, max_samples)
        return batches

    def _tell(self, batches: Batches, epoch: int, max_samples: int | None) -> None:
        sentence = f"{self.split}: {len(batches)} batches in epoch {epoch}"
        if self.pad_to_widths:
            share = 1 - self.sizes.sum() / batches.num_samples()
            sentence += f" of {len(batches.shapes())} shapes, {share:.1%} of their samples padding"
        if max_samples is not None:
            fill = batches.num_samples() / max_samples / len(batches)
            sentence += f", {fill:.1%} of dataset.max_tokens filled"
        logger.info(sentence)

    def __getitem__(self, ref: ClipRef) -> Clip:
        unreadable: list[tuple[int, str]] = []
        for step in range(min(MAX_NEIGHBOURS, len(self.rows))):
            entry = (ref.row + step) % len(self.rows)
            try:
                waveform = self._read(entry, ref)
                if step:  # a replacement takes no more room than the clip it stands for
                    waveform = waveform[: self._units(max(self.shortest, self.size(ref.row)))]
                return Clip(ref, waveform, unreadable)
            except AudioError as error:
                unreadable.append((int(self.rows[entry]), str(error)))
        raise PlainError(
            f"{self.manifest.path}: {len(unreadable)} clips in a row are unreadable, the first is {unreadable[0][1]}; "
            f"check that the root on its first line ({self.manifest.root}) is where the audio lies"
        )

    # ---- reading

    def _read(self, entry: int, ref: ClipRef) -> Tensor:
        found = None if self.kept is None else self.kept.get(entry)
        return self._decode(entry, ref) if found is None else torch.from_numpy(found)

    def _decode(self, entry: int, ref: ClipRef) -> Tensor:
        row = int(self.rows[entry])
        path, length, _ = self.manifest[row]
        rate, limit = self.task.sample_rate, self.task.max_sample_size
        if self.of_features:
            return self._read_features(entry, path, length, ref)
        if is_features(path):
            raise PlainError(f"{path} holds features in a manifest of audio: put it into a manifest of its own")
        start, count = 0, None
        if limit is not None:
            native = self._native_rate(row, path, length)
            most = self._most(native)
            if length > most:
                start, count = self._start(entry, length - most, most, ref), most
        native_rate = None if self.task.resampler == "sinc_hann" else rate
        waveform, found = read_compact(path, sample_rate=native_rate, start=start, num_samples=count)
        samples = torch.from_numpy(waveform)
        if found != rate:
            samples = sinc_hann(as_float(samples), found, rate)
        is_fixed = count is None or self.pieces is not None
        if limit is not None and len(samples) > limit:  # longer than its manifest could tell
            is_fixed = False
            begin = self._crop_start(len(samples) - limit, ref)
            samples = samples[begin : begin + limit]
        if len(samples) < self.shortest:
            raise AudioError(path, f"has {len(samples)} samples at {rate} Hz, one patch needs {self.shortest}")
        if self.kept is not None and (is_fixed or not self.task.random_crop):
            self.kept.put(entry, samples.numpy())
        return samples

    def _read_features(self, entry: int, path: str, length: int, ref: ClipRef) -> Tensor:
        limit = None if self.task.max_sample_size is None else self._units(self.task.max_sample_size)
        features = read_spectrogram(
            path, length, limit, self.frontend, lambda surplus: self._start(entry, surplus, limit or 0, ref)
        )
        if len(features) < self._units(self.shortest):
            raise AudioError(path, f"has {len(features)} frames, one patch needs {self._units(self.shortest)}")
        return features

    def _units(self, num_samples: int) -> int:
        """How many samples, or frames of features, a clip of ``num_samples`` holds."""
        return self.frontend.num_frames(num_samples) if self.of_features else num_samples

    def _num_samples(self, waveform: Tensor) -> int:
        return self.frontend.num_samples(len(waveform)) if self.of_features else len(waveform)

    def _native_rate(self, row: int, path: str, length: int) -> int:
        if self.manifest.sample_rates is not None:
            return int(self.manifest.sample_rates[row])
        # without known rates only a clip that may need a crop is worth a look at its header
        longer = length > (self.task.max_sample_size or 0)
        return sample_rate_of(path) if longer else self.task.sample_rate

    def _start(self, entry: int, surplus: int, most: int, ref: ClipRef) -> int:
        """Where ``most`` samples begin in a clip that has ``surplus`` more, both at its own rate."""
        return self._crop_start(surplus, ref) if self.pieces is None else int(self.pieces[entry]) * most

    def _crop_start(self, surplus: int, ref: ClipRef) -> int:
        if not self.task.random_crop:
            return 0
        return combine(self.seed, CROP_STREAM, ref.epoch, ref.row) % (surplus + 1)

    # ---- batches

    def collater(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Pad clips to the width of their batch, or crop them to the shortest.

        An empty list gives a batch without weight, which keeps processes in step.
        """
        weight = float(len(clips) > 0)
        if not clips:
            clips = [self[ClipRef(0, 0, 0)]]
        waveforms = [clip.waveform for clip in clips]
        if not self.task.pad_audio:
            shortest = min(len(waveform) for waveform in waveforms)
            starts = [self._crop_start(len(clip.waveform) - shortest, clip.ref) for clip in clips]
            waveforms = [waveform[at : at + shortest] for waveform, at in zip(waveforms, starts, strict=True)]
        refs = [clip.ref for clip in clips]
        lengths = [self._num_samples(waveform) for waveform in waveforms]
        width = max(refs[0].width if self.pad_to_widths else 0, *lengths)
        return {
            "id": torch.tensor([int(self.rows[ref.row]) for ref in refs]),
            "split": self.split,
            "nsentences": len(clips),
            "audio_seconds": weight * sum(lengths) / self.task.sample_rate,
            "padded_seconds": weight * width * len(clips) / self.task.sample_rate,
            "unreadable": [found for clip in clips for found in clip.unreadable],
            "net_input": {
                **self._source(waveforms, width),
                "lengths": lengths,
                "clip_seeds": torch.tensor([combine(self.seed, MASK_STREAM, ref.epoch, ref.row) for ref in refs]),
                "batch_seed": combine(self.seed, MASK_STREAM, refs[0].epoch, refs[0].batch),
                "weight": weight,
            },
        }

    def _source(self, waveforms: Sequence[Tensor], width: int) -> dict[str, Tensor]:
        if self.task.features_on == "device" and not self.of_features:
            return {"waveforms": joined(waveforms, width)}
        batch = torch.zeros(len(waveforms), self.frontend.num_frames(width), self.frontend.num_features)
        for row, waveform in zip(batch, waveforms, strict=True):
            features = waveform if self.of_features else self.frontend(waveform[None])[0]
            row[: len(features)] = features
        return {"features": batch}
