"""Distributed tracing: W3C trace context in, OTLP/HTTP JSON out.

A request never waits for the collector and never fails because of it: finished spans go into a
bounded queue, and one background thread sends them. What does not fit or cannot be sent is counted.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

QUEUE_SPANS = 2048
BATCH_SPANS = 256
BATCH_SECONDS = 0.5
SEND_TIMEOUT_SECONDS = 2.0

KIND_INTERNAL = 1
KIND_SERVER = 2
STATUS_UNSET = 0
STATUS_ERROR = 2

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True)
class SpanContext:
    """The identity of a span, as `traceparent` carries it."""

    trace_id: str
    span_id: str
    sampled: bool = True

    def child(self) -> SpanContext:
        """A new span of the same trace."""
        return SpanContext(self.trace_id, os.urandom(8).hex(), self.sampled)

    def traceparent(self) -> str:
        """The header for a call that continues this trace."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(header: str | None) -> SpanContext | None:
    """The caller's span; None where the header is absent or invalid, which starts a new trace."""
    match = _TRACEPARENT.fullmatch((header or "").strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if (
        version == "ff"
        or (version == "00" and rest)
        or not int(trace_id, 16)
        or not int(span_id, 16)
    ):
        return None
    return SpanContext(trace_id, span_id, bool(int(flags, 16) & 1))


@dataclass
class Span:
    """One timed operation."""

    name: str
    context: SpanContext
    parent_id: str | None = None
    kind: int = KIND_INTERNAL
    attributes: dict[str, str | int] = field(default_factory=dict)
    status: int = STATUS_UNSET
    started_ns: int = field(default_factory=time.time_ns)
    ended_ns: int = 0

    def finish(self) -> None:
        """Notes the end."""
        self.ended_ns = time.time_ns()


class SpanSink(Protocol):
    """Where finished spans go. Must not block and must not raise."""

    def accept(self, span: Span) -> None:
        """Takes one span."""
        ...


class NullSink:
    """Tracing is off."""

    def accept(self, span: Span) -> None:
        """Forgets the span."""


class Tracer:
    """Starts spans and hands the sampled ones to a sink when they end."""

    def __init__(self, sink: SpanSink) -> None:
        self._sink = sink

    @contextmanager
    def server_span(self, name: str, traceparent: str | None) -> Iterator[Span]:
        """The span of an incoming request."""
        caller = parse_traceparent(traceparent)
        if caller is None:
            context, parent_id = SpanContext(os.urandom(16).hex(), os.urandom(8).hex()), None
        else:
            context, parent_id = caller.child(), caller.span_id
        with self._recorded(Span(name, context, parent_id, KIND_SERVER)) as span:
            yield span

    @contextmanager
    def child_span(self, parent: Span, name: str) -> Iterator[Span]:
        """A step within another span."""
        span = Span(name, parent.context.child(), parent.context.span_id)
        with self._recorded(span):
            yield span

    @contextmanager
    def _recorded(self, span: Span) -> Iterator[Span]:
        try:
            yield span
        except Exception as error:
            span.status = STATUS_ERROR
            span.attributes["exception.type"] = type(error).__name__
            raise
        finally:
            span.finish()
            if span.context.sampled:
                self._sink.accept(span)


class OtlpExporter:
    """Sends spans in batches to `ENDPOINT/v1/traces` from a thread of its own."""

    def __init__(
        self, endpoint: str, resource: dict[str, str], dropped: Callable[[int], None]
    ) -> None:
        self._url = urlsplit(endpoint.rstrip("/") + "/v1/traces")
        self._resource = resource
        self._dropped = dropped
        self._queue: queue.Queue[Span | None] = queue.Queue(QUEUE_SPANS)
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def accept(self, span: Span) -> None:
        """Queues a span; drops it when the queue is full."""
        try:
            self._queue.put_nowait(span)
        except queue.Full:
            self._dropped(1)

    def close(self, timeout: float) -> None:
        """Sends what is queued, for at most `timeout` seconds."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._next_batch()
            if batch:
                self._send(batch)

    def _next_batch(self) -> tuple[list[Span], bool]:
        """Waits for a span, then gathers what arrives shortly after; False after `close`."""
        batch: list[Span] = []
        span = self._queue.get()
        deadline = time.monotonic() + BATCH_SECONDS
        while span is not None:
            batch.append(span)
            if len(batch) == BATCH_SPANS:
                return batch, True
            try:
                span = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return batch, True
        return batch, False

    def _send(self, batch: list[Span]) -> None:
        body = json.dumps(encode(batch, self._resource)).encode()
        secure = self._url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        host = self._url.hostname or ""
        connection = kind(host, self._url.port, timeout=SEND_TIMEOUT_SECONDS)
        try:
            connection.request("POST", self._url.path, body, {"Content-Type": "application/json"})
            if connection.getresponse().status >= 300:
                self._dropped(len(batch))
        except (OSError, http.client.HTTPException):
            self._dropped(len(batch))
        finally:
            connection.close()


def encode(spans: list[Span], resource: dict[str, str]) -> dict[str, Any]:
    """An OTLP `ExportTraceServiceRequest` in its JSON form."""
    scope = {"scope": {"name": "shop"}, "spans": [_encode_span(span) for span in spans]}
    return {
        "resourceSpans": [{"resource": {"attributes": _pairs(resource)}, "scopeSpans": [scope]}]
    }


def _encode_span(span: Span) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "traceId": span.context.trace_id,
        "spanId": span.context.span_id,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.started_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": _pairs(span.attributes),
        "status": {"code": span.status},
    }
    if span.parent_id is not None:
        encoded["parentSpanId"] = span.parent_id
    return encoded


def _pairs(attributes: Mapping[str, str | int]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: str | int) -> dict[str, str]:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
