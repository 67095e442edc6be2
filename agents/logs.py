"""Logs are events with fields: one JSON object a line on stderr."""

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """``{"at": …, "level": …, "event": …, …}``; what a call gives as ``extra`` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Ours only: a library's may hold a message's arguments."""
    if not record.name.startswith("agents"):
        return {}
    fields = {key: value for key, value in vars(record).items() if key not in {*_STANDARD, "fields"}}
    return fields | getattr(record, "fields", {})  # what is common with the server gives them as the server does


def log_to_stderr(level: str = "INFO") -> None:
    """Our events at ``level``; of the libraries only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("agents").setLevel(level)
