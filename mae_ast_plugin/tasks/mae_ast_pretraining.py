"""Pretraining by masked prediction over TSV manifests of audio."""
# No postponed annotations here: fairseq reads the types of the fields.

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.data import iterators
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from mae_ast_plugin.audio.manifest import Manifest
from mae_ast_plugin.criterions import mae_ast as _registers_the_criterion  # noqa: F401
from mae_ast_plugin.data.clips import ClipDataset
from mae_ast_plugin.data.unreadable import UnreadableClips
from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.endings import out_of_gpu_memory
from mae_ast_plugin.launch.repairs import repair_engine
from mae_ast_plugin.launch.rows import record_rows
from mae_ast_plugin.methods.build import frontend_of, tokens_of
from mae_ast_plugin.methods.limits import check, idle_settings
from mae_ast_plugin.methods.settings import ModelSettings, TaskSettings, from_mapping, setting
from mae_ast_plugin.nn.noise import combine
from mae_ast_plugin.tasks._pictures import PictureWriter
from mae_ast_plugin.tasks._precision import announce_precision

logger = logging.getLogger(__name__)


@dataclass
class MaskedPretrainingConfig(FairseqDataclass, TaskSettings):
    """``task.*`` for fairseq, with what the task must know of the rest of the run."""

    seed: int = setting(II("common.seed"), "seed of crops, masks and batches; that of the run")
    tensorboard_logdir: Optional[str] = setting(
        II("common.tensorboard_logdir"), "TensorBoard's folder; that of the run"
    )
    save_dir: str = setting(II("checkpoint.save_dir"), "folder of checkpoints; pictures go beside it")
    train_subset: str = setting(II("dataset.train_subset"), "split whose clips change from epoch to epoch")


@register_task("mae_ast_pretraining", dataclass=MaskedPretrainingConfig)
class MaskedPretrainingTask(FairseqTask):
    """Loads manifests, deals batches to processes, and reports what the run has seen."""

    def __init__(self, cfg: MaskedPretrainingConfig) -> None:
        super().__init__(cfg)
        repair_engine()  # the engine's child processes come by here, not by the checks before the start
        self.settings = from_mapping(TaskSettings, _plain(cfg))
        self.frontend = frontend_of(self.settings)
        self.min_frames = 1
        self.pad_to_widths = True
        self.unreadable = UnreadableClips(self.settings.max_unreadable)
        self.pictures: Optional[PictureWriter] = None
        self.drawn_at = 0
        self.recorded: dict[str, str] = {}  # split to the digest of its manifest's rows
        self.last_logged: Optional[dict[str, Any]] = None
        self.audio_seconds = 0.0  # heard in training, earlier starts of the run included

    @classmethod
    def setup_task(cls, cfg: MaskedPretrainingConfig, **kwargs: Any) -> "MaskedPretrainingTask":
        return cls(cfg)

    # ---- building

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        model = from_mapping(ModelSettings, _plain(cfg))
        check(model, self.settings)
        for sentence in idle_settings(model, self.settings):
            logger.warning(sentence)
        self.min_frames = tokens_of(model, self.frontend.num_features).num_frames(1)
        # what is a token of the original then depends on the padding: no more of it than the original has
        self.pad_to_widths = not model.count_partial_patches
        announce_precision(model.precision)
        return super().build_model(cfg, from_checkpoint)

    def max_positions(self) -> None:
        """Clips of any length are cropped, none is too long."""

    # ---- data

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        if not os.path.isdir(self.settings.data):
            raise PlainError(
                f"task.data is {self.settings.data!r}, which is no folder; make manifests with "
                "`python -m manifests scan AUDIO --out FOLDER` and set task.data=FOLDER"
            )
        manifest = Manifest.load(os.path.join(self.settings.data, f"{split}.tsv"))
        dataset = ClipDataset(
            split,
            manifest,
            self.settings,
            self.frontend,
            min_frames=self.min_frames,
            seed=int(self.cfg.seed),
            epoch_matters=split == self.cfg.train_subset,
            pad_to_widths=self.pad_to_widths,
        )
        logger.info(
            f"{split}: {len(dataset)} {'' if dataset.pieces is None else 'pieces '}of {len(manifest)} clips, "
            f"{dataset.sizes.sum() / self.settings.sample_rate / 3600:.2f} "
            f"hours ({dataset.num_short} too short, {dataset.num_long} too long)"
        )
        self.datasets[split] = dataset

    def get_batch_iterator(
        self,
        dataset: ClipDataset,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        skip_remainder_batch: bool = False,
        **kwargs: Any,
    ) -> iterators.EpochBatchIterator:
        """Iterate over batches that are made anew each epoch; groups of one batch per process are shuffled together."""
        if dataset not in self.dataset_to_epoch_iter:
            self.dataset_to_epoch_iter[dataset] = iterators.EpochBatchIterator(
                dataset=dataset,
                collate_fn=dataset.collater,
                batch_sampler=lambda data, number: data.batches(
                    number, max_tokens, max_sentences, num_shards, required_batch_size_multiple
                ),
                seed=seed,
                num_shards=num_shards,
                shard_id=shard_id,
                num_workers=num_workers,
                epoch=epoch,
                buffer_size=data_buffer_size,
                skip_remainder_batch=skip_remainder_batch,
                grouped_shuffling=True,
                reuse_dataloader=True,
                persistent_workers=True,
            )
        return self.dataset_to_epoch_iter[dataset]

    # ---- steps

    def train_step(
        self,
        sample: Mapping[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        self._report_unreadable(sample)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if rank:  # fairseq seeds all processes alike at each update; without this they would all drop the same values
            torch.manual_seed(combine(int(torch.randint(1 << 31, ())), rank) & 0x7FFFFFFF)
        interval = self.settings.picture_interval_updates
        if interval and rank == 0 and update_num > self.drawn_at and update_num % interval == 0:
            self.drawn_at = update_num  # an update may have several batches (optimization.update_freq)
            self._draw(model, criterion, update_num)
        try:
            loss, size, logged = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        except (torch.OutOfMemoryError, RuntimeError) as error:  # the engine would leave the batch out and go on
            if not out_of_gpu_memory(error):
                raise
            clips = sample["net_input"]["lengths"]
            raise PlainError(
                f"a batch of {len(clips)} clips of up to {max(clips)} samples does not fit into the GPU's memory; "
                "lower dataset.max_tokens or dataset.batch_size, or set model.checkpoint_activations=true"
            ) from error
        self.last_logged = logged
        return loss, size, logged

    def valid_step(self, sample: Mapping[str, Any], model: Any, criterion: Any) -> Any:
        self._report_unreadable(sample)
        return super().valid_step(sample, model, criterion)

    def _report_unreadable(self, sample: Mapping[str, Any]) -> None:
        self.unreadable.report(sample["split"], sample["unreadable"])

    def _draw(self, model: Any, criterion: Any, update_num: int) -> None:
        dataset = next((data for split, data in self.datasets.items() if split != self.cfg.train_subset), None)
        if dataset is None:
            return
        if self.pictures is None:
            folder = Path(self.cfg.save_dir).parent / "pictures"
            error = criterion.settings.reconstruction_error
            self.pictures = PictureWriter(
                dataset, self.settings.num_pictures, folder, self.cfg.tensorboard_logdir, error
            )
        while hasattr(model, "module"):  # what the engine wraps around a model for several processes
            model = model.module
        self.pictures.write(model, update_num)

    def reduce_metrics(self, logging_outputs: Any, criterion: Any) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        seconds = float(sum(log.get("audio_seconds", 0) for log in logging_outputs))
        clips = sum(log.get("nsentences", 0) for log in logging_outputs)
        unreadable = int(sum(log.get("unreadable", 0) for log in logging_outputs))
        metrics.log_scalar_sum("unreadable", unreadable, priority=210)
        padded = float(sum(log.get("padded_seconds", 0) for log in logging_outputs))
        if padded:
            metrics.log_scalar("padding", 100 * (1 - seconds / padded), weight=padded, priority=206, round=1)
        # the sums are those of all processes, so all of them come to the same judgement
        kind = "training" if criterion.training else "validation"
        sizes = [len(data) for data in self.datasets.values() if data.epoch_matters == criterion.training]
        self.unreadable.judge(kind, unreadable, int(clips), min(sizes, default=0))
        if criterion.training:
            self.audio_seconds += seconds
            metrics.log_speed("clips_per_second", int(clips), priority=95, round=1)
            metrics.log_scalar("audio_hours", self.audio_seconds / 3600, weight=0, priority=205, round=4)

    # ---- checkpoints: the engine stores a task's ``state`` but never gives it back, this pair it does

    def begin_epoch(self, epoch: int, model: Any) -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            return  # the process that saves is the one that keeps the record
        for split, dataset in self.datasets.items():
            if split not in self.recorded:
                self.recorded[split] = record_rows(Path(dataset.manifest.path), self.cfg.save_dir)

    def get_checkpoint_dict(self) -> dict[str, Any]:
        counts = {"read": dict(self.unreadable.num_read), "unreadable": dict(self.unreadable.num_unreadable)}
        state = {"audio_seconds": self.audio_seconds, "manifests": self.recorded, "clips": counts}
        return {type(self).__name__: state}

    def set_checkpoint_dict(self, stored: Mapping[str, Any]) -> None:
        self.audio_seconds = float(stored["audio_seconds"])
        counts = stored.get("clips") or {}  # a run of a time before they were kept has none
        self.unreadable.num_read = Counter(counts.get("read"))
        self.unreadable.num_unreadable = Counter(counts.get("unreadable"))


def _plain(cfg: Any) -> Mapping[str, Any]:
    """Read a configuration section as a plain mapping."""
    from omegaconf import DictConfig, OmegaConf

    if isinstance(cfg, DictConfig):
        return OmegaConf.to_container(cfg, resolve=False, throw_on_missing=False)  # type: ignore[return-value]
    return vars(cfg)
