"""Runs our run_downstream many times, paying once for the ten seconds that s3prl needs to be imported.

The script imports it, then forks a process for each request on standard input, a line of JSON ``{"argv", "cwd",
"output", "seconds"}``. The process becomes the command; the answer is its exit code (negative: what signal ended it).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = "s3prl_upstream.run_downstream"
TASKS = ("speech_commands", "voxceleb1", "emotion")


@dataclass(frozen=True)
class Engine:
    """Types commands of ours into a process that has s3prl imported already."""

    process: subprocess.Popen[str]

    def __call__(self, folder: Path, *arguments: str, status: int = 0, seconds: float = 240) -> str:
        """Run the command in a folder; what it prints to both outputs."""
        output = folder / "console.log"
        request = {"argv": arguments, "cwd": str(folder), "output": str(output), "seconds": seconds}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        printed = output.read_text(errors="replace")
        assert answer.strip() == str(status), f"ended with {answer.strip()}\n{printed[-6000:]}"
        return printed


def become_command(request: dict[str, Any]) -> None:
    """Turn this fresh process into the command; ends it."""
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(request["cwd"])
    sys.argv = ["run_downstream", *request["argv"]]
    sys.exit(sys.modules[COMMAND].main())


def wait_for(process: int, seconds: float) -> int:
    """Wait for a process; kill it when ``seconds`` have passed."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        time.sleep(0.02)


def serve() -> None:
    importlib.import_module(COMMAND)
    importlib.import_module("s3prl_upstream.compat").import_hub()
    for name in ("s3prl.run_downstream", *(f"s3prl.downstream.{task}.expert" for task in TASKS)):
        importlib.import_module(name)
    gc.freeze()  # or every command would copy and count all of it when it ends
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            become_command(request)
        print(wait_for(process, request["seconds"]), flush=True)


if __name__ == "__main__":
    serve()
