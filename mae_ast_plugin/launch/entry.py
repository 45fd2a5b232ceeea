"""What stands around a run: the checks before it, and what it says in the end.

``prepare`` puts this before the training of the process that the command starts. A launcher that pickles the runs of a
sweep and starts them elsewhere (submitit, joblib) gets a task that brings it along.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from fairseq.distributed import utils as distributed_utils
from torch.multiprocessing import ProcessExitedException

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.continuation import Finished
from mae_ast_plugin.launch.endings import AGAIN, INTERRUPTED, plain_sentence
from mae_ast_plugin.launch.preflight import preflight
from mae_ast_plugin.launch.records import close_event_files, end_with_the_log, write_to_log
from mae_ast_plugin.launch.saving import system_error, unwritable
from mae_ast_plugin.launch.stopping import ended_before_listening, listening, nothing_to_save, stop_listening

OUR_TASK = "mae_ast_pretraining"
REGISTERING_MODULES = ("mae_ast_plugin.tasks.mae_ast_pretraining", "mae_ast_plugin.models.mae_ast")
ERROR = "error: "


def import_plugin() -> None:
    """Make the engine know the plugin's task, model and criterion."""
    for module in REGISTERING_MODULES:
        importlib.import_module(module)


def check_runs() -> None:
    """Let every run of this process be checked. Repeated, it does nothing."""
    if not hasattr(distributed_utils.call_main, "checked"):
        distributed_utils.call_main = checked(distributed_utils.call_main)


def checked(call_main: Callable[..., None]) -> Callable[..., None]:
    """Put the checks before ``call_main``; turn every mistake a user can mend into one sentence and exit status 1."""

    @wraps(call_main)
    def run(cfg: Any, main: Callable[..., None], **kwargs: Any) -> None:
        if (cfg.task or {}).get("_name") != OUR_TASK:  # another program's run in the same environment
            stop_listening()
            return call_main(cfg, main, **kwargs)
        try:
            with listening():
                end_with_the_log()
                preflight(cfg)
                try:
                    call_main(cfg, main, **kwargs)
                except ProcessExitedException as ended:
                    if not ended_before_listening(ended.signal_name):
                        raise
                    nothing_to_save()
                close_event_files()
        except Finished as done:
            print(done, flush=True)
        except KeyboardInterrupt:
            print(f"interrupted; {AGAIN}", flush=True)
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            sentence = plain_sentence(error)
            if sentence is None:
                raise
            with suppress(PlainError):  # the log may be what cannot be written
                write_to_log(sentence)
            with suppress(PlainError):
                close_event_files()
            raise SystemExit(f"{ERROR}{sentence}") from None
        return None

    run.checked = True  # type: ignore[attr-defined]
    return run


def plain_output(run_job: Callable[..., Any]) -> Callable[..., Any]:
    """Say in one sentence that the run's folder cannot be written; Hydra makes it before any check of ours."""

    @wraps(run_job)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return run_job(*args, **kwargs)
        except (OSError, ValueError) as error:  # of the folder or of the log in it; the training's own are kept inside
            cause = system_error(error)
            if cause is None:
                raise
            sentence = unwritable(cause, str(cause.filename or "the run's folder"), "so the run cannot begin")
            raise SystemExit(f"{ERROR}{sentence}") from None

    run.plain = True  # type: ignore[attr-defined]
    return run


# ---- sweeps


class Job:
    """The task of a sweep. Unpickled in another process it puts the checks before the run there."""

    def __init__(self, task: Callable[[Any], Any]) -> None:
        self.task = task
        self.travelled = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "travelled": True}

    def __call__(self, cfg: Any) -> Any:
        """Run; elsewhere an end with a sentence is an error, which the launcher can hand back, unlike an exit."""
        if not self.travelled:
            return self.task(cfg)
        import_plugin()
        check_runs()
        try:
            return self.task(cfg)
        except SystemExit as end:
            if not isinstance(end.code, str):
                raise
            raise PlainError(end.code.removeprefix(ERROR)) from None


def portable(multirun: Callable[..., Any]) -> Callable[..., Any]:
    """Give launchers a task that brings its checks along."""

    @wraps(multirun)
    def run(hydra: Any, config_name: str | None, task_function: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
        stop_listening()  # what waits for a sweep is no run: asked to stop, it ends as any program does
        return multirun(hydra, config_name, Job(task_function), *args, **kwargs)

    run.portable = True  # type: ignore[attr-defined]
    return run
