"""Tracing: trace context, span trees, OTLP encoding, and a collector that is away."""

import socket
import threading
import unittest

from shop.tracing import (
    QUEUE_SPANS,
    STATUS_ERROR,
    OtlpExporter,
    Span,
    SpanContext,
    Tracer,
    encode,
    parse_traceparent,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


class TraceparentTest(unittest.TestCase):
    def test_reads(self):
        self.assertEqual(parse_traceparent(f"00-{TRACE}-{SPAN}-01"), SpanContext(TRACE, SPAN, True))
        self.assertEqual(
            parse_traceparent(f"00-{TRACE}-{SPAN}-00"), SpanContext(TRACE, SPAN, False)
        )
        self.assertEqual(parse_traceparent(f"cc-{TRACE}-{SPAN}-01-new"), SpanContext(TRACE, SPAN))

    def test_ignores_what_is_invalid(self):
        for header in (
            None,
            "",
            "00",
            f"00-{TRACE.upper()}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"ff-{TRACE}-{SPAN}-01",
            f"00-{TRACE}-{SPAN}-01-more",
        ):
            with self.subTest(header):
                self.assertIsNone(parse_traceparent(header))

    def test_writes_what_it_reads(self):
        for header in (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"):
            self.assertEqual(parse_traceparent(header).traceparent(), header)


class ListSink:
    def __init__(self):
        self.spans = []

    def accept(self, span):
        self.spans.append(span)


class TracerTest(unittest.TestCase):
    def setUp(self):
        self.sink = ListSink()
        self.tracer = Tracer(self.sink)

    def test_continues_the_trace_of_the_caller(self):
        with self.tracer.server_span("GET /", f"00-{TRACE}-{SPAN}-01") as span:
            with self.tracer.child_span(span, "step"):
                pass
        child, server = self.sink.spans
        self.assertEqual((server.context.trace_id, server.parent_id), (TRACE, SPAN))
        self.assertEqual((child.context.trace_id, child.parent_id), (TRACE, server.context.span_id))
        self.assertLessEqual(server.started_ns, child.started_ns)
        self.assertLessEqual(child.ended_ns, server.ended_ns)

    def test_starts_a_trace_of_its_own(self):
        for _ in range(2):
            with self.tracer.server_span("GET /", None):
                pass
        first, second = self.sink.spans
        self.assertIsNone(first.parent_id)
        self.assertNotEqual(first.context.trace_id, second.context.trace_id)

    def test_an_unsampled_trace_is_not_exported(self):
        with self.tracer.server_span("GET /", f"00-{TRACE}-{SPAN}-00"):
            pass
        self.assertEqual(self.sink.spans, [])

    def test_an_exception_marks_the_span(self):
        with self.assertRaises(KeyError), self.tracer.server_span("GET /", None):
            raise KeyError("x")
        self.assertEqual(self.sink.spans[0].status, STATUS_ERROR)
        self.assertEqual(self.sink.spans[0].attributes["exception.type"], "KeyError")


class ExporterTest(unittest.TestCase):
    def test_encodes(self):
        span = Span(
            "GET /", SpanContext(TRACE, SPAN), None, attributes={"n": 1}, started_ns=5, ended_ns=6
        )
        resource = encode([span], {"service.name": "shop"})["resourceSpans"][0]
        name = {"key": "service.name", "value": {"stringValue": "shop"}}
        self.assertEqual(resource["resource"]["attributes"], [name])
        encoded = resource["scopeSpans"][0]["spans"][0]
        self.assertEqual((encoded["traceId"], encoded["spanId"]), (TRACE, SPAN))
        self.assertEqual((encoded["startTimeUnixNano"], encoded["endTimeUnixNano"]), ("5", "6"))
        self.assertEqual(encoded["attributes"], [{"key": "n", "value": {"intValue": "1"}}])
        self.assertNotIn("parentSpanId", encoded)

    def test_a_refusing_collector_costs_spans_and_nothing_else(self):
        lost, all_lost = [], threading.Event()

        def dropped(count):
            lost.append(count)
            if sum(lost) == 3:
                all_lost.set()

        exporter = OtlpExporter(f"http://127.0.0.1:{_unused_port()}", {}, dropped)
        for _ in range(3):
            exporter.accept(Span("s", SpanContext(TRACE, SPAN)))
        self.assertTrue(all_lost.wait(10))
        exporter.close(5)

    def test_a_silent_collector_never_blocks_the_caller(self):
        lost = []
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            exporter = OtlpExporter(endpoint, {}, lost.append)
            for _ in range(2 * QUEUE_SPANS):
                exporter.accept(Span("s", SpanContext(TRACE, SPAN)))
        self.assertGreater(sum(lost), 0)
        exporter.close(10)


def _unused_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    unittest.main()
