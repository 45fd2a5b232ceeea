"""Runs fairseq-hydra-train many times, paying for its imports once.

Imports what that command imports before it looks at its arguments (the plugin not among it), then forks a process for
each request on standard input: it becomes the command (or the program ``"script"``), with arguments, folder,
environment and output of its own, and ends as the command ends. A request is one line of JSON, so is its answer:
``{"argv", "cwd", "env", "output", "script"}`` gives a process id, ``{"wait", "seconds"}`` its exit status (negative:
the signal that ended it).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import time
from typing import Any

HEAVY = (
    "torch",
    "torch._dynamo",
    "numpy",
    "soundfile",
    "av",
    "soxr",
    "tensorboardX",
    "matplotlib.figure",
    "fairseq.trainer",
    "fairseq_cli.hydra_train",
)


def become_command(request: dict[str, Any]) -> None:
    """Turn this fresh process into the command that was asked for; ends it."""
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = [request.get("script") or "fairseq-hydra-train", *request["argv"]]
    if request.get("script"):
        runpy.run_path(request["script"], run_name="__main__")
        sys.exit(0)
    sys.exit(sys.modules["fairseq_cli.hydra_train"].cli_main())


def wait_for(process: int, seconds: float) -> int:
    """Wait for a process and what it started; kill them when ``seconds`` have passed."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        time.sleep(0.02)


def answer(value: int) -> None:
    print(json.dumps(value), flush=True)


def serve() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # or every command would copy and count all of it when it ends
    answer(0)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer(wait_for(request["wait"], request["seconds"]))
            continue
        process = os.fork()
        if process == 0:
            become_command(request)
        answer(process)


if __name__ == "__main__":
    serve()
