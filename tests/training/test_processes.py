"""Several processes: two with b clips do what one with 2 b does, and launchers are understood."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fairseq.tasks import FairseqTask

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch import preflight
from mae_ast_plugin.tasks.mae_ast_pretraining import MaskedPretrainingConfig, MaskedPretrainingTask

if TYPE_CHECKING:
    from .conftest import Command, Corpus, Run

PER_PROCESS = 3  # of 19 clips: a global batch of 6, so that the last one has a single clip and one process none
EPOCHS, UPDATES_PER_EPOCH = 2, 4
UPDATES = EPOCHS * UPDATES_PER_EPOCH
SETTINGS = (
    "dataset.max_tokens=null",
    f"optimization.max_update={UPDATES}",
    f"lr_scheduler.total_num_update={UPDATES + 2}",
    "model.dropout=0",
    "model.attention_dropout=0",
    "model.dropout_input=0",
    "model.encoder_layerdrop=0",
    "optimization.lr=[0.001]",
    "optimization.clip_norm=0",
    "checkpoint.save_interval_updates=3",
    "checkpoint.save_interval=100",
    "checkpoint.keep_interval_updates=2",
    "task.picture_interval_updates=3",
    "optimizer.adam_eps=0.001",  # a step stays proportional to a gradient that is nothing but rounding
)
ROUNDING = 2e-6


def torchrun(run: Command, folder: Path, *arguments: str) -> Run:
    """Start two processes as a user does."""
    program = str(Path(sys.executable).with_name("fairseq-hydra-train"))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        program,
        *run.arguments(*arguments, folder=folder),
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    return run.elsewhere(folder, done.stdout + done.stderr)


def environments(number: int) -> list[dict[str, str]]:
    """What torchrun gives each of ``number`` processes, for those that are started without its cost."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        {name: str(value) for name, value in {"RANK": rank, "LOCAL_RANK": rank, **shared}.items()}
        for rank in range(number)
    ]


def group(run: Command, folder: Path, *arguments: str, number: int = 2) -> Run:
    """Start processes and wait for them; rank 0's run."""
    runs = [run.start(*arguments, folder=folder, env=environment) for environment in environments(number)]
    found = [run.wait(each) for each in runs]
    assert found == [0] * number, "".join(each.output[-4000:] for each in runs)
    return runs[0]


def largest_difference(here: dict[str, torch.Tensor], there: dict[str, torch.Tensor]) -> float:
    assert here.keys() == there.keys()
    return max(float((here[name].double() - there[name].double()).abs().max()) for name in here)


@pytest.fixture(scope="module")
def one(run_of_module: Command) -> Run:
    return run_of_module(*SETTINGS, f"dataset.batch_size={2 * PER_PROCESS}")


@pytest.fixture(scope="module")
def two(run_of_module: Command) -> Run:
    return torchrun(run_of_module, run_of_module.folder / "two", *SETTINGS, f"dataset.batch_size={PER_PROCESS}")


def test_two_processes_end_with_the_weights_of_one_with_twice_the_batch(one: Run, two: Run) -> None:
    first, last = one.checkpoint("checkpoint_1_3.pt")["model"], one.weights()
    assert largest_difference(first, last) > 1000 * ROUNDING
    assert largest_difference(last, two.weights()) < ROUNDING


def test_torchs_own_way_to_share_gradients_is_kept_on_cpus_and_ends_with_the_same_weights(
    run: Command, one: Run, tmp_path: Path
) -> None:
    settings = (*SETTINGS, f"dataset.batch_size={PER_PROCESS}", "distributed_training.ddp_backend=pytorch_ddp")
    ddp = group(run, tmp_path / "run", *settings)
    assert "ddp_backend: pytorch_ddp" in (ddp.folder / "resolved_config.yaml").read_text()
    assert largest_difference(one.weights(), ddp.weights()) < ROUNDING


def test_two_processes_share_the_statistics_of_the_input(one: Run, two: Run) -> None:
    names = [name for name in one.weights() if name.startswith("autoencoder.norm.")]
    assert len(names) == 3
    for name in names:
        torch.testing.assert_close(one.weights()[name], two.weights()[name], rtol=1e-6, atol=0)
    assert int(two.weights()["autoencoder.norm.num_batches_tracked"]) == UPDATES


@pytest.mark.parametrize("name", ["loss", "mse", "nce_nats", "gnorm", "bsz", "lr"])
def test_two_processes_report_what_one_reports(name: str, one: Run, two: Run) -> None:
    expected, found = one.scalars(name), two.scalars(name)
    assert list(expected) == list(range(1, UPDATES + 1))
    assert found == pytest.approx(expected, rel=1e-4)


def test_two_processes_validate_as_one_does(one: Run, two: Run) -> None:
    assert two.scalars("loss", "valid") == pytest.approx(one.scalars("loss", "valid"), rel=1e-4)


def test_every_clip_is_seen_once_an_epoch_by_one_process_or_two(one: Run, two: Run, corpus: Corpus) -> None:
    for run in (one, two):
        assert run.audio_seconds() == pytest.approx(corpus.seconds * EPOCHS, rel=1e-9)
        per_epoch = [run.scalars("bsz")[update] for update in range(1, UPDATES_PER_EPOCH + 1)]
        assert sorted(per_epoch) == [1, 6, 6, 6]
        assert sum(run.scalars("bsz").values()) == corpus.num_train * EPOCHS


def test_two_processes_that_stopped_within_an_epoch_go_on_as_if_they_had_not(
    run: Command, two: Run, tmp_path: Path
) -> None:
    arguments = (*SETTINGS, f"dataset.batch_size={PER_PROCESS}")
    group(run, tmp_path / "run", *arguments, "optimization.max_update=6")
    refused = run(*arguments, folder=tmp_path / "run", status=1)
    assert "was written by 2 processes in the middle of an epoch and there are 1 now" in refused.sentence

    resumed = group(run, tmp_path / "run", *arguments)
    assert [int(values["num_updates"]) for values in resumed.logged()] == [7, 8]
    assert largest_difference(resumed.weights(), two.weights()) == 0


def test_four_processes_end_with_the_weights_of_one_with_four_times_the_batch(run: Command, tmp_path: Path) -> None:
    epoch = (*SETTINGS, "optimization.max_update=3")
    one = run(*epoch, "dataset.batch_size=8")  # the last batch has three clips, for four processes
    four = group(run, tmp_path / "four", *epoch, "dataset.batch_size=2", number=4)
    assert largest_difference(one.weights(), four.weights()) < ROUNDING
    assert four.scalars("loss") == pytest.approx(one.scalars("loss"), rel=1e-4)
    assert four.scalars("bsz") == one.scalars("bsz")


def test_two_processes_of_which_one_is_asked_to_stop_both_stop_and_go_on_as_if_not(
    run: Command, tmp_path: Path
) -> None:
    long = (*SETTINGS, "dataset.batch_size=3", "optimization.max_update=50", "lr_scheduler.total_num_update=50",
            "checkpoint.save_interval_updates=1000", "dataset.num_workers=1", "task.picture_interval_updates=0",
            "dataset.validate_interval=1000", "model.dropout=0.1", "model.encoder_layerdrop=0.3")  # fmt: skip
    whole = group(run, tmp_path / "whole", *long)
    runs = [run.start(*long, folder=tmp_path / "run", env=environment) for environment in environments(2)]
    run.wait_until(lambda: runs[0].num_updates() >= 2)
    os.kill(runs[1].process, signal.SIGTERM)
    assert [run.wait(each) for each in runs] == [0, 0]
    assert "stopped by a signal to another process after update" in runs[0].output
    assert "stopped by" not in runs[1].output
    reached = runs[0].checkpoint()["optimizer_history"][-1]["num_updates"]
    assert 2 <= reached < 50
    resumed = group(run, tmp_path / "run", *long)
    assert [int(values["num_updates"]) for values in resumed.logged()] == list(range(reached + 1, 51))
    assert largest_difference(resumed.weights(), whole.weights()) == 0


def test_of_four_processes_of_which_one_is_killed_the_others_end_with_a_sentence_and_soon(
    run: Command, tmp_path: Path
) -> None:
    long = (*SETTINGS, "dataset.batch_size=2", "optimization.max_update=500", "lr_scheduler.total_num_update=500")
    runs = [run.start(*long, folder=tmp_path / "run", env=environment) for environment in environments(4)]
    run.wait_until(lambda: runs[0].num_updates() >= 3)
    os.kill(runs[2].process, signal.SIGKILL)
    began = time.monotonic()
    assert [run.wait(each, seconds=30) for each in runs] == [1, 1, -signal.SIGKILL, 1]
    assert time.monotonic() - began < 30
    for rank in (0, 1, 3):
        assert f"process {rank} of 4 lost another one, which has ended or hangs" in runs[rank].sentence


@pytest.mark.parametrize("number", [2, 3, 4])
def test_no_two_processes_ever_read_the_same_crop(number: int, corpus: Corpus) -> None:
    task = MaskedPretrainingTask(MaskedPretrainingConfig(seed=1, data=str(corpus.data), train_subset="train"))
    task.load_dataset("train")
    dataset = task.dataset("train")
    seen = set()
    for epoch in (1, 2):
        read: list[int] = []
        for rank in range(number):
            task.dataset_to_epoch_iter.clear()
            batches = task.get_batch_iterator(
                dataset, max_sentences=2, num_shards=number, shard_id=rank, epoch=epoch, seed=1
            ).ordered_batches(epoch, False, True)
            refs = [ref for batch in batches for ref in batch]
            read += [ref.row for ref in refs]
            # where a crop begins, for a clip with much to spare
            seen |= {(ref.epoch, ref.row, dataset._crop_start(10**9, ref)) for ref in refs}
        assert sorted(read) == list(range(corpus.num_train))
    assert len({start for _, _, start in seen}) == 2 * corpus.num_train


def test_two_processes_without_a_launcher_are_a_plain_error_where_there_is_no_gpu(run: Command) -> None:
    ended = run("distributed_training.distributed_world_size=2", status=1)
    assert "distributed_training.distributed_world_size is 2, but there are no GPUs" in ended.sentence
    assert "torchrun --nproc_per_node 2" in ended.sentence


# ---- what one process does by itself


class Recorder:
    """Stands where fairseq's own step stands: draws numbers as dropout would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: list[list[float]] = []
        monkeypatch.setattr(FairseqTask, "train_step", self._step)
        monkeypatch.setattr(MaskedPretrainingTask, "_report_unreadable", lambda *_: None)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        self.monkeypatch = monkeypatch

    def _step(self, *_: object) -> tuple[float, int, dict[str, float]]:
        self.drawn.append(torch.rand(4).tolist())
        return 0.0, 1, {}

    def update(self, rank: int, number: int, batches: int) -> list[list[float]]:
        """The numbers of every batch of one update, seeded before as fairseq does."""
        task = MaskedPretrainingTask(MaskedPretrainingConfig(seed=1))
        self.monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        self.drawn.clear()
        torch.manual_seed(number)
        for _ in range(batches):
            task.train_step({}, None, None, None, number)
        return list(self.drawn)


def test_processes_batches_and_updates_all_draw_different_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    with torch.random.fork_rng():
        drawn = [
            tuple(values)
            for rank in range(3)
            for number in (7, 8)
            for values in recorder.update(rank, number, batches=2)
        ]
        assert len(set(drawn)) == 3 * 2 * 2
        assert recorder.update(2, 7, batches=2) == recorder.update(2, 7, batches=2)


def test_a_picture_is_drawn_once_an_update_however_many_batches_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder(monkeypatch)
    drawn: list[int] = []
    monkeypatch.setattr(MaskedPretrainingTask, "_draw", lambda task, model, criterion, number: drawn.append(number))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    task = MaskedPretrainingTask(MaskedPretrainingConfig(seed=1, picture_interval_updates=2))
    for number in range(6):
        for _ in range(3):
            task.train_step({}, None, None, None, number)
    assert drawn == [2, 4]


# ---- the environment of launchers


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    return SimpleNamespace(
        common=SimpleNamespace(cpu=True),
        checkpoint=SimpleNamespace(load_checkpoint_on_all_dp_ranks=False),
        distributed_training=SimpleNamespace(
            distributed_world_size=1,
            distributed_rank=0,
            device_id=0,
            distributed_no_spawn=False,
            distributed_init_method=None,
            distributed_port=-1,
            distributed_backend="nccl",
            ddp_backend="pytorch_ddp",
        ),
    )


def slurm(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_slurm_gives_rank_device_size_and_the_first_node(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, STEP_NUM_TASKS="8", PROCID="5", LOCALID="1", JOB_ID="1234567", STEP_NODELIST="node[03-04]")
    preflight._set_up_processes(config)
    settings = config.distributed_training
    assert (settings.distributed_world_size, settings.distributed_rank, settings.device_id) == (8, 5, 1)
    assert settings.distributed_no_spawn
    assert settings.distributed_init_method == f"tcp://node03:{20000 + 1234567 % 20000}"
    assert (settings.distributed_backend, settings.ddp_backend) == ("gloo", "pytorch_ddp")
    assert config.checkpoint.load_checkpoint_on_all_dp_ranks


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[01-02,05],gpu3", "node01"),
        ("node[007,9-12]", "node007"),
        ("gpu3,node[01-02]", "gpu3"),
        ("rack[1-2]node[08-11]-ib.site", "rack1node08-ib.site"),
        ("here", "here"),
    ],
)
def test_the_first_host_of_a_list_of_slurm_is_read_without_slurm(nodes: str, first: str) -> None:
    assert preflight.first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["", "node[01-02", "[]", ",node1"])
def test_a_list_of_hosts_that_cannot_be_read_is_a_plain_error(nodes: str) -> None:
    with pytest.raises(PlainError, match="names no first host"):
        preflight.first_host(nodes)


def test_a_backend_that_somebody_chose_is_kept_on_cpus(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, STEP_NUM_TASKS="2", PROCID="0", LOCALID="0", JOB_NODELIST="here")
    config.distributed_training.distributed_backend = "mpi"
    config.distributed_training.ddp_backend = "no_c10d"
    preflight._set_up_processes(config)
    assert config.distributed_training.distributed_backend == "mpi"
    assert config.distributed_training.ddp_backend == "no_c10d"


def test_a_chosen_port_is_kept_under_slurm(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, STEP_NUM_TASKS="2", PROCID="0", LOCALID="0", JOB_NODELIST="here")
    monkeypatch.setenv("PATH", "")
    config.distributed_training.distributed_port = 4321
    preflight._set_up_processes(config)
    assert config.distributed_training.distributed_init_method == "tcp://here:4321"


def test_a_single_slurm_task_is_a_single_process(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, NTASKS="1", PROCID="0", LOCALID="0", JOB_NODELIST="here")
    preflight._set_up_processes(config)
    assert config.distributed_training.distributed_world_size == 1
    assert config.distributed_training.distributed_init_method is None


def test_torchrun_within_slurm_is_torchrun(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(monkeypatch, STEP_NUM_TASKS="2", PROCID="1", LOCALID="0", JOB_NODELIST="here")
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    preflight._set_up_processes(config)
    settings = config.distributed_training
    assert (settings.distributed_world_size, settings.distributed_rank, settings.device_id) == (4, 3, 1)
    assert settings.distributed_init_method == "env://"


def test_torchrun_with_one_process_needs_no_group(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    config.distributed_training.distributed_world_size = 2
    preflight._set_up_processes(config)
    assert config.distributed_training.distributed_world_size == 1
    assert config.distributed_training.distributed_init_method is None


def test_several_processes_on_one_machine_without_gpus_need_a_launcher(config: Any) -> None:
    config.distributed_training.distributed_world_size = 3
    with pytest.raises(PlainError, match="torchrun --nproc_per_node 3"):
        preflight._set_up_processes(config)
