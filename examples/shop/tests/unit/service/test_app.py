"""The application without sockets: statuses, JSON, logs, metrics and spans of a request."""

import io
import json
import unittest

from shop.app import App
from shop.catalog import Catalog
from shop.config import BUNDLED_CATALOG
from shop.http1 import Request
from shop.logs import Log
from shop.metrics import ShopMetrics
from shop.service import Shop
from shop.tracing import STATUS_ERROR, Tracer
from tests.unit.service.test_tracing import ListSink

ITEMS = "/cart/ann/items"
CHECKOUT = "/checkout/ann"


class AppTest(unittest.TestCase):
    def setUp(self):
        self.output = io.StringIO()
        self.sink = ListSink()
        self.metrics = ShopMetrics("1.2")
        self.app = App("1.2", self.metrics, Tracer(self.sink), Log(self.output))
        self.app.shop = Shop(Catalog.from_json(BUNDLED_CATALOG.read_text()), "WELCOME")

    def send(self, method, path, document=None, **headers):
        body = b"" if document is None else json.dumps(document).encode()
        return self.app.handle(Request(method, path, headers=headers, body=body))

    def log_lines(self):
        return [json.loads(line) for line in self.output.getvalue().splitlines()]

    def test_statuses(self):
        mug = {"product": "mug", "quantity": 1}
        for method, path, document, status in (
            ("GET", "/", None, 200),
            ("GET", "/products", None, 200),
            ("GET", "/products/mug", None, 200),
            ("GET", "/products/boat", None, 404),
            ("GET", "/nowhere", None, 404),
            ("DELETE", "/products", None, 405),
            ("POST", ITEMS, mug, 201),
            ("POST", ITEMS, [mug], 400),
            ("POST", ITEMS, {"product": 1}, 400),
            ("POST", ITEMS, {"product": "mug", "quantity": "2"}, 400),
            ("POST", ITEMS, {"product": "mug", "quantity": True}, 400),
            ("POST", ITEMS, {"product": "mug", "quantity": 100}, 422),
            ("POST", ITEMS, {"product": "\ud800"}, 404),
            ("POST", ITEMS, None, 400),
            ("POST", "/cart/a%20b/items", mug, 400),
            ("POST", CHECKOUT, {"code": 1}, 400),
            ("POST", CHECKOUT, {"code": "wrong"}, 422),
            ("POST", CHECKOUT, {"items": "mug"}, 400),
            ("POST", CHECKOUT, {"items": [1]}, 400),
            ("POST", CHECKOUT, {"items": []}, 422),
            ("POST", CHECKOUT, {"items": [mug], "code": "WELCOME"}, 201),
            ("POST", CHECKOUT, None, 201),
            ("POST", CHECKOUT, None, 422),
        ):
            with self.subTest(method=method, path=path, document=document):
                self.assertEqual(self.send(method, path, document).status, status)

    def test_broken_json_is_refused(self):
        for body in (b"{", b"\xff", b"[" * 60_000):
            request = Request("POST", ITEMS, body=body)
            self.assertEqual(self.app.handle(request).status, 400)

    def test_work_is_bounded(self):
        for ms, status in (("1", 200), ("2001", 400), ("-1", 400), ("x", 400), ("", 400)):
            with self.subTest(ms):
                self.assertEqual(
                    self.app.handle(Request("GET", "/work", {"ms": ms})).status, status
                )

    def test_readiness_follows_configuration_and_draining(self):
        shop, self.app.shop = self.app.shop, None
        self.assertEqual(self.send("GET", "/readyz").status, 503)
        self.assertEqual(self.send("GET", "/products").status, 503)
        self.assertEqual(self.send("GET", "/healthz").status, 200)
        self.app.shop = shop
        self.assertEqual(self.send("GET", "/readyz").status, 200)
        self.app.is_draining = lambda: True
        self.assertEqual(self.send("GET", "/readyz").status, 503)
        self.assertEqual(self.send("GET", "/products").status, 200)

    def test_an_unexpected_error_is_a_500_that_log_and_span_explain(self):
        self.app.shop = object()
        response = self.send("GET", "/products")
        self.assertEqual(response.status, 500)
        self.assertEqual(json.loads(response.body), {"error": "internal error"})
        failure, request = self.log_lines()
        self.assertIn("AttributeError", failure["error"])
        self.assertIn("app.py:", failure["where"])
        self.assertEqual(failure["trace_id"], request["trace_id"])
        self.assertEqual(self.sink.spans[0].status, STATUS_ERROR)

    def test_the_trace_id_links_response_log_and_span(self):
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        response = self.send("GET", "/products", traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        self.assertEqual(response.headers["X-Trace-Id"], trace)
        self.assertEqual(self.log_lines()[0]["trace_id"], trace)
        self.assertEqual(self.sink.spans[0].context.trace_id, trace)
        self.assertEqual(response.headers["X-Shop-Version"], "1.2")

    def test_requests_are_counted_by_route_not_by_path(self):
        self.send("GET", "/products/mug")
        self.send("GET", "/products/boat")
        self.send("BREW", "/coffee")
        page = self.send("GET", "/metrics").body.decode()
        route = 'method="GET",route="/products/{id}"'
        self.assertIn(f'shop_http_requests_total{{{route},status="200"}} 1', page)
        self.assertIn(f'shop_http_requests_total{{{route},status="404"}} 1', page)
        self.assertIn('{method="other",route="unknown",status="404"} 1', page)
        self.assertIn("shop_http_requests_in_progress 1", page)

    def test_orders_are_business_metrics(self):
        self.send("POST", CHECKOUT, {"items": [{"product": "mug"}]})
        page = self.send("GET", "/metrics").body.decode()
        self.assertIn('shop_orders_total{currency="EUR"} 1', page)
        self.assertIn('shop_revenue_cents_total{currency="EUR"} 1340', page)

    def test_health_checks_are_not_logged(self):
        self.send("GET", "/healthz")
        self.assertEqual(self.log_lines(), [])


if __name__ == "__main__":
    unittest.main()
