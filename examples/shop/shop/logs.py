"""Structured log lines: one JSON object per line on a stream."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from typing import Any, TextIO


class Log:
    """Writes whole lines, so that lines of different threads never mix."""

    def __init__(self, stream: TextIO, **always: Any) -> None:
        self._stream = stream
        self._always = always
        self._lock = threading.Lock()

    def info(self, message: str, **fields: Any) -> None:
        """Something normal happened."""
        self._write("info", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Something failed that somebody should look at."""
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        entry = {"time": time, "level": level, "msg": message, **self._always, **fields}
        line = json.dumps(entry, default=str) + "\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()
