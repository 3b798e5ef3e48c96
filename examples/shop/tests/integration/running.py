"""Starts the real shop as a process of its own, and a collector that stands in for telemetry."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.client import ShopClient

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE_SECONDS = 20.0
CODE = "WELCOME"


class RunningShop:
    """A shop on a free port. Its log lines are collected while it runs."""

    def __init__(self, root: Path = ROOT, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shop"],
            cwd=root,
            env={**os.environ, "HOST": "127.0.0.1", "PORT": "0", **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.port: int = self.wait_for_log("listening")["port"]
        self.client = ShopClient(f"http://127.0.0.1:{self.port}")

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Returns once the shop has loaded its configuration."""
        wait_for(lambda: self.client.get("/readyz").status == 200, "the shop to be ready")

    def wait_for_log(self, message: str) -> dict[str, Any]:
        """The first log line with that message, as soon as it is written."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log if line["msg"] == message]

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, DEADLINE_SECONDS)
            if not found():
                what = "before it ended" if self._ended else f"within {DEADLINE_SECONDS:g} s"
                raise AssertionError(f"the shop wrote no log line {message!r} {what}")
            return found()[0]

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def wait_for_exit(self) -> int:
        """The exit code."""
        code = self._process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        return code

    def close(self) -> None:
        """Ends the process, whatever state it is in."""
        self._process.kill()
        self.wait_for_exit()
        if self._process.stdout:
            self._process.stdout.close()

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.log.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Collector:
    """Receives OTLP/HTTP JSON and keeps the spans."""

    def __init__(self) -> None:
        self.spans: queue.Queue[dict[str, Any]] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                found = self.path == "/v1/traces"
                for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"] if found else ():
                    spans.put(span)
                self.send_response(200 if found else 404)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Stays silent."""

        return Handler


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Returns once `condition` holds; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {DEADLINE_SECONDS:g} s for {what}")
        time.sleep(0.01)
