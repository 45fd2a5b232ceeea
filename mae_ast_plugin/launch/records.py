"""The log and TensorBoard's files on a full disk: the run ends in one sentence, not in traces, and never hangs."""

from __future__ import annotations

import logging
import sys
from functools import partial, wraps
from typing import Any

from fairseq.logging import progress_bar
from tensorboardX import event_file_writer

from mae_ast_plugin.errors import PlainError
from mae_ast_plugin.launch.saving import system_error, unwritable

END = "so the run ends"


def end_with_the_log() -> None:
    """Let a line that the log's disk does not take end the run; ``logging`` would print a trace for each."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_end, handler)  # type: ignore[method-assign]


def _end(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    cause = system_error(sys.exception())
    if cause is None:
        logging.Handler.handleError(handler, record)
        return
    logging.getLogger().removeHandler(handler)  # what is still said goes to the terminal
    raise unwritable(cause, handler.baseFilename, END) from cause


def write_to_log(sentence: str) -> None:
    """Write what ends the run into the log's file alone: on the terminal the program says it when it ends."""
    logger = logging.getLogger(__name__)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, sentence, (), None))


def keep_event_files_going() -> None:
    """Let tensorboardX tell of a full disk. Repeated, it does nothing.

    It writes in a thread of its own, which such an error would end; the next few values would then fill its queue, and
    the run would wait for ever.
    """
    thread, writer = event_file_writer._EventLoggerThread, event_file_writer.EventFileWriter
    if not hasattr(thread.run, "tells"):
        thread.run = _telling(thread.run)
        writer.flush, writer.close = _asking(writer.flush), _closing(writer.close)


def _telling(original: Any) -> Any:
    @wraps(original)
    def run(self: Any) -> None:
        try:
            original(self)
        except OSError as error:
            self.failure = error
            while type(self._queue.get()) is not type(self._shutdown_signal):
                pass  # nobody shall wait for room in the queue

    run.tells = True  # type: ignore[attr-defined]
    return run


def _asking(original: Any) -> Any:
    @wraps(original)
    def flush(self: Any) -> None:
        try:
            if failure := getattr(self._worker, "failure", None):
                raise failure
            original(self)
        except OSError as error:
            self.told = True
            raise unwritable(error, self.get_logdir(), END) from error

    return flush


def _closing(original: Any) -> Any:
    """It is closed once more when the process ends; a trace there would hide the sentence."""

    @wraps(original)
    def close(self: Any) -> None:
        told = hasattr(self, "told")
        try:
            original(self)
        except PlainError:  # of the flush before it
            self._worker.stop()
            self._closed = True
            if not told:
                raise

    return close


def close_event_files() -> None:
    """Close TensorBoard's files of the run that ends; PlainError where the disk does not take the rest of one."""
    failed = None
    for writer in progress_bar._tensorboard_writers.values():
        try:
            writer.close()
        except PlainError as error:
            failed = failed or error
    progress_bar._tensorboard_writers.clear()
    if failed is not None:
        raise failed
