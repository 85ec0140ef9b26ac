"""What a server tells its operators: one line for each turn of its life, as text or as JSON.

Only what operators do and what happens to the machines around is told. Strangers write no lines, whatever they send: what they do
is counted (`/metrics`).
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_SAID_OTHERWISE = {"started", "stopping"}
"""A person is told of these at greater length."""

_log = logging.getLogger("peergram.operator")


def tell(event: str, text: str, *, level: int = logging.INFO, **fields: object) -> None:
    """One line. `event` is a name that stays the same from version to version, `fields` are what belongs to it."""
    _log.log(level, "%s", text, extra={"event": event, "fields": fields})


class JsonLines(logging.Formatter):
    """`time`, `level`, `event`, `node`, `text`, and the fields of the event, in one line."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            "node": self._node,
            "text": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_lines(kind: str, node: str) -> None:
    """From now on what is told goes to the standard output: as `json` all that the library says, as `text` what is told."""
    handler = logging.StreamHandler(sys.stdout)
    if kind == "json":
        handler.setFormatter(JsonLines(node))
        logger = logging.getLogger("peergram")
    else:
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: getattr(record, "event", "") not in _SAID_OTHERWISE)
        logger = _log
    logger.propagate = False
    logger.handlers[:] = [handler]
    _log.setLevel(logging.INFO)
