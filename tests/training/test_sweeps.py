"""Jobs that a launcher pickles and starts in fresh processes are checked and stopped as other runs are.

The launcher here has the structure of hydra-submitit-launcher, without a cluster: what it pickles a test starts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .test_stopping import LONG

if TYPE_CHECKING:
    from .conftest import Command, Corpus, Run

pytest.importorskip("cloudpickle")
JOB = Path(__file__).with_name("pickled_job.py")
LAUNCHER = """
import os
from dataclasses import dataclass
from pathlib import Path
import cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

@dataclass
class Settings:
    _target_: str = "hydra_plugins.pickling.pickling.Pickling"

ConfigStore.instance().store(group="hydra/launcher", name="pickling", node=Settings, provider="pickling")

class Pickling(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def __call__(self, overrides, number, singletons):
        Singleton.set_state(singletons)
        setup_globals()
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config.hydra.job) as job:
            job.id = job.num = number
        return run_job(
            hydra_context=self.hydra_context, task_function=self.task_function, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )

    def launch(self, job_overrides, initial_job_idx):
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            job = (self, (list(overrides), number, Singleton.get_state()))
            Path(os.environ["JOBS"], f"{number}.pkl").write_bytes(cloudpickle.dumps(job))
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]
"""
Start = Callable[..., "Run"]


@pytest.fixture(scope="module")
def jobs(run_of_module: Command) -> Path:
    """A folder with the two jobs of a sweep, as a submitting process leaves them; each runs below its own folder."""
    plugin = run_of_module.folder / "path" / "hydra_plugins" / "pickling"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").touch()
    (plugin / "pickling.py").write_text(LAUNCHER)
    jobs = run_of_module.folder / "jobs"
    jobs.mkdir()
    arguments = run_of_module.arguments(*LONG, "hydra/launcher=pickling", "common.seed=1,2", folder=jobs / "unused")
    command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), "--multirun", *arguments]
    environment = {**os.environ, **settings(jobs), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    submitted = subprocess.run(
        [sys.executable, "-W", "ignore", *command, "hydra.sweep.dir=sweep"],
        cwd=jobs,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert sorted(path.name for path in jobs.iterdir() if path.suffix) == ["0.pkl", "1.pkl"]
    return jobs


def settings(jobs: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(jobs.parent / "path"), "JOBS": str(jobs)}


@pytest.fixture
def start(jobs: Path, run: Command, tmp_path: Path) -> Start:
    """Start the second job in a process that knows nothing of the plugin but what the job brings along."""
    fresh = tmp_path / "fresh.py"
    fresh.write_text(f"import runpy, sys\nsys.path.insert(0, {settings(jobs)['PYTHONPATH']!r})\n")
    fresh.write_text(fresh.read_text() + f"runpy.run_path({str(JOB)!r}, run_name='__main__')\n")

    def start(*overrides: str) -> Run:
        arguments = (str(jobs / "1.pkl"), *overrides)
        return run.start(*arguments, bare=True, script=fresh, cwd=tmp_path, folder=tmp_path / "sweep" / "1")

    return start


def test_a_job_elsewhere_is_trained_once_and_its_manifest_may_not_change(
    start: Start, run: Command, make_corpus: Callable[[], Corpus]
) -> None:
    data = make_corpus().data
    few = (f"task.data={data}", "optimization.max_update=6", "checkpoint.save_interval_updates=3")
    first = start(*few)
    assert run.wait(first) == 0, first.output[-3000:]
    assert first.num_updates() == 6
    resolved = (first.folder / "resolved_config.yaml").read_text()
    assert "max_update: 6" in resolved and "seed: 2" in resolved
    again = start(*few)
    assert run.wait(again) == 0, again.output[-3000:]
    assert "holds a finished run of 6 updates" in again.output and not again.logged()
    manifest = data / "train.tsv"
    manifest.write_text(manifest.read_text().replace("clip 03", "other 03"))
    changed = start(*few, "optimization.max_update=9")
    assert run.wait(changed) == 1, changed.output[-3000:]
    assert "is not what it was when" in changed.sentence and not changed.logged()


def test_a_job_elsewhere_may_not_be_in_fp16(start: Start, run: Command) -> None:
    refused = start("common.fp16=true")
    assert run.wait(refused) == 1
    assert refused.sentence == (
        "common.fp16=true would round waveforms and lose float32 weights; use model.precision=bfloat16 instead"
    )


def test_a_job_elsewhere_saves_when_asked_to_stop(start: Start, run: Command) -> None:
    stopped = start()
    run.wait_until(lambda: stopped.num_updates() >= 3)
    os.kill(stopped.process, signal.SIGTERM)
    assert run.wait(stopped) == 0, stopped.output[-3000:]
    reached = int(stopped.checkpoint()["optimizer_history"][-1]["num_updates"])
    assert f"stopped by SIGTERM after update {reached}: saved in {stopped.checkpoints}" in stopped.output


def test_a_process_that_is_new_altogether_checks_a_job_too(jobs: Path, tmp_path: Path) -> None:
    shutil.copy(jobs / "0.pkl", tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(JOB), "0.pkl", "common.fp16=true"],
        cwd=tmp_path,
        env={**os.environ, **settings(jobs), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: common.fp16=true would round waveforms")
