"""What a worker tells the process that drives it: progress, log records, results and errors."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from inoculate.artifacts.executors.base import N, Watch
from inoculate.core.errors import InputError

BEGUN, PROGRESS, LOG, DONE, FAILED = "begun", "progress", "log", "done", "failed"
Send = Callable[[str, Any], None]  # (kind of message, content)
_LOGGER = "inoculate"
_INTERVAL = 0.2  # seconds between two reports of progress


class Reporter:
    """Progress of the node under way, as messages: not more than a few per second, and always the last one."""

    def __init__(self, send: Send) -> None:
        self._send, self._last = send, 0.0

    def __call__(self, done: int, total: int, facts: Mapping[str, float]) -> None:
        if done >= total or time.monotonic() - self._last > _INTERVAL:
            self._last = time.monotonic()
            self._send(PROGRESS, (done, total, dict(facts)))


@dataclass
class _Channel:
    """A queue as `QueueHandler` wants it."""

    send: Send

    def put_nowait(self, record: logging.LogRecord) -> None:
        self.send(LOG, record)


@contextlib.contextmanager
def sent_log(send: Send, level: int) -> Iterator[None]:
    """Inside, what the package logs is sent, and handled by the driving process instead of this one."""
    log, handler = logging.getLogger(_LOGGER), logging.handlers.QueueHandler(_Channel(send))  # type: ignore[arg-type]
    log.addHandler(handler)
    before, log.level, log.propagate = (log.level, log.propagate), level, False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


def log_level() -> int:
    """The level at which this process listens to the package's log."""
    return logging.getLogger(_LOGGER).getEffectiveLevel()


def portable(error: BaseException) -> BaseException:
    """An error to raise in the driving process: the same for wrong input, else one that holds the traceback as text."""
    if isinstance(error, InputError):
        return error
    return RuntimeError("a worker failed:\n" + "".join(traceback.format_exception(error)))


@dataclass
class Listener(Generic[N]):
    """Passes messages of workers on: progress to `watch`, log records to this process's log, each only once."""

    watch: Watch[N]
    _seen: set[str] = field(default_factory=set)

    def hear(self, node: N | None, kind: str, content: Any) -> None:
        """One message of a worker, about the node that it makes if it makes one."""
        if kind == LOG and (text := content.getMessage()) not in self._seen:
            self._seen.add(text)
            logging.getLogger(content.name).handle(content)
        elif kind == BEGUN and node is not None:
            self.watch.begin(node)
        elif kind == PROGRESS and node is not None:
            self.watch.progress(node, *content)
