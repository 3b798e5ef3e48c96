"""The shop over HTTP: routes, validation, JSON, and what is measured about each request."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from shop.cart import Cart, CartError
from shop.catalog import Product
from shop.http1 import Request, Response
from shop.logs import Log
from shop.metrics import ShopMetrics
from shop.pricing import PricingError
from shop.routes import Match, Router
from shop.service import CartChanged, Order, Shop, UnknownProduct
from shop.tracing import STATUS_ERROR, Span, Tracer

MAX_WORK_MS = 2000
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_QUIET_ROUTES = ("/healthz", "/readyz", "/metrics")
_KNOWN_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class HttpError(Exception):
    """A request that is answered with this status and message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Call:
    """A routed request on its way through a handler."""

    request: Request
    params: dict[str, str]
    span: Span


Endpoint = Callable[["App", Call], Response]
ROUTER: Router[Endpoint] = Router()


class App:
    """Answers requests. `shop` stays None until the configuration is loaded."""

    def __init__(self, version: str, metrics: ShopMetrics, tracer: Tracer, log: Log) -> None:
        self.shop: Shop | None = None
        self.is_draining: Callable[[], bool] = lambda: False
        self._version = version
        self._metrics = metrics
        self._tracer = tracer
        self._log = log

    def handle(self, request: Request) -> Response:
        """Answers one request; never raises."""
        started = time.perf_counter()
        match = ROUTER.find(request.method, request.path)
        self._metrics.in_progress.add(1)
        try:
            name = f"{request.method} {match.route}"
            with self._tracer.server_span(name, request.headers.get("traceparent")) as span:
                response = self._answer(request, match, span)
                self._describe(span, request, match.route, response)
        finally:
            self._metrics.in_progress.add(-1)
        self._record(request, match.route, response, span, time.perf_counter() - started)
        headers = {"X-Shop-Version": self._version, "X-Trace-Id": span.context.trace_id}
        return Response(
            response.status, response.body, response.content_type, {**response.headers, **headers}
        )

    @ROUTER.add("GET", "/")
    def home(self, call: Call) -> Response:
        """A small page for people."""
        rows = "".join(
            f"<tr><td>{html.escape(p.name)}</td><td>{p.price} {p.price.currency}</td></tr>"
            for p in self._open_shop().catalog
        )
        page = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>Harbour shop</title>"
            f"<h1>Harbour shop</h1><table>{rows}</table>"
            f"<p>Version {html.escape(self._version)}</p></html>\n"
        )
        return Response(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")

    @ROUTER.add("GET", "/products")
    def products(self, call: Call) -> Response:
        """All products."""
        return _json({"products": [_product_view(p) for p in self._open_shop().catalog]})

    @ROUTER.add("GET", "/products/{id}")
    def product(self, call: Call) -> Response:
        """One product."""
        return _json(_product_view(self._open_shop().product(call.params["id"])))

    @ROUTER.add("GET", "/cart/{session}")
    def cart(self, call: Call) -> Response:
        """What the cart holds."""
        return _json(_cart_view(self._open_shop().cart(_session(call))))

    @ROUTER.add("POST", "/cart/{session}/items")
    def add_item(self, call: Call) -> Response:
        """Puts `{"product", "quantity"}` into the cart."""
        product, quantity = _item(_body(call.request), "body")
        cart = self._open_shop().add_item(_session(call), product, quantity)
        return _json(_cart_view(cart), HTTPStatus.CREATED)

    @ROUTER.add("POST", "/checkout/{session}")
    def checkout(self, call: Call) -> Response:
        """Buys the cart, or the `items` of the body at once; `code` is a discount code."""
        shop, session = self._open_shop(), _session(call)
        body = _body(call.request) if call.request.body else {}
        code = _optional_text(body, "code")
        with self._tracer.child_span(call.span, "price order"):
            if "items" in body:
                order = shop.buy_now(_items(body["items"]), code)
            else:
                order = shop.buy_cart(session, code)
        total = order.quote.total
        self._metrics.orders.add(total.currency)
        self._metrics.revenue.add(total.currency, amount=total.cents)
        return _json(_order_view(order), HTTPStatus.CREATED)

    @ROUTER.add("GET", "/healthz")
    def healthz(self, call: Call) -> Response:
        """Liveness: the process answers."""
        return _json({"status": "ok"})

    @ROUTER.add("GET", "/readyz")
    def readyz(self, call: Call) -> Response:
        """Readiness: the configuration is loaded and the process is not stopping."""
        if self.is_draining():
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        self._open_shop()
        return _json({"status": "ready"})

    @ROUTER.add("GET", "/metrics")
    def metrics(self, call: Call) -> Response:
        """For a Prometheus scraper."""
        text = self._metrics.expose().encode()
        return Response(HTTPStatus.OK, text, "text/plain; version=0.0.4; charset=utf-8")

    @ROUTER.add("GET", "/work")
    def work(self, call: Call) -> Response:
        """Burns `ms` milliseconds of processor time."""
        text = call.request.query.get("ms", "10")
        if not (text.isascii() and text.isdigit()) or int(text[:9]) > MAX_WORK_MS:
            raise HttpError(
                HTTPStatus.BAD_REQUEST, f'"ms" must be a number from 0 to {MAX_WORK_MS}'
            )
        until = time.thread_time() + int(text) / 1000
        while time.thread_time() < until:
            pass
        return _json({"worked_ms": int(text)})

    def _open_shop(self) -> Shop:
        if self.shop is None:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "configuration is not loaded yet")
        return self.shop

    def _answer(self, request: Request, match: Match[Endpoint], span: Span) -> Response:
        """Calls the endpoint and turns every failure into the response it deserves."""
        try:
            if match.target is None:
                return _no_endpoint(match)
            return match.target(self, Call(request, match.params, span))
        except HttpError as error:
            return _error(error.status, str(error))
        except UnknownProduct as error:
            return _error(HTTPStatus.NOT_FOUND, str(error))
        except CartChanged as error:
            return _error(HTTPStatus.CONFLICT, str(error))
        except (CartError, PricingError) as error:
            return _error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except Exception as error:  # The last resort: one broken request must not end a worker.
            span.attributes["exception.type"] = type(error).__name__
            self._log.error(
                "request failed",
                error=repr(error),
                where=_raised_at(error),
                trace_id=span.context.trace_id,
                span_id=span.context.span_id,
            )
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")

    def _describe(self, span: Span, request: Request, route: str, response: Response) -> None:
        span.attributes["http.request.method"] = request.method
        span.attributes["http.route"] = route
        span.attributes["url.path"] = request.path
        span.attributes["http.response.status_code"] = response.status.value
        if response.status >= 500:
            span.status = STATUS_ERROR

    def _record(
        self, request: Request, route: str, response: Response, span: Span, seconds: float
    ) -> None:
        method = request.method if request.method in _KNOWN_METHODS else "other"
        self._metrics.requests.add(method, route, str(response.status.value))
        self._metrics.latency.observe(seconds, route)
        if route in _QUIET_ROUTES and response.status < 400:
            return
        self._log.info(
            "request",
            method=request.method,
            path=request.path,
            status=response.status.value,
            duration_ms=round(seconds * 1000, 3),
            trace_id=span.context.trace_id,
            span_id=span.context.span_id,
        )


def _json(document: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(status, json.dumps(document).encode() + b"\n")


def _error(status: HTTPStatus, message: str) -> Response:
    return _json({"error": message}, status)


def _no_endpoint(match: Match[Endpoint]) -> Response:
    if not match.allowed:
        return _error(HTTPStatus.NOT_FOUND, "no such page")
    allow = ", ".join(match.allowed)
    body = _error(HTTPStatus.METHOD_NOT_ALLOWED, f"allowed here: {allow}").body
    return Response(HTTPStatus.METHOD_NOT_ALLOWED, body, headers={"Allow": allow})


def _session(call: Call) -> str:
    session = call.params["session"]
    if _SESSION.fullmatch(session) is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"session must match {_SESSION.pattern}")
    return session


def _body(request: Request) -> dict[str, Any]:
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "body is no JSON") from error
    if not isinstance(document, dict):
        raise HttpError(HTTPStatus.BAD_REQUEST, "body must be a JSON object")
    return document


def _item(document: Any, where: str) -> tuple[str, int]:
    if not isinstance(document, dict):
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{where} must be an object")
    product, quantity = document.get("product"), document.get("quantity", 1)
    if not isinstance(product, str):
        raise HttpError(HTTPStatus.BAD_REQUEST, f'{where}: "product" must be a text')
    if not isinstance(quantity, int) or isinstance(quantity, bool):
        raise HttpError(HTTPStatus.BAD_REQUEST, f'{where}: "quantity" must be a whole number')
    return product, quantity


def _items(document: Any) -> list[tuple[str, int]]:
    if not isinstance(document, list):
        raise HttpError(HTTPStatus.BAD_REQUEST, '"items" must be a list')
    return [_item(entry, f"items[{index}]") for index, entry in enumerate(document)]


def _optional_text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise HttpError(HTTPStatus.BAD_REQUEST, f'"{name}" must be a text')
    return value


def _product_view(product: Product) -> dict[str, str]:
    return {
        "id": product.id,
        "name": product.name,
        "category": product.category,
        "price": str(product.price),
        "currency": product.price.currency,
    }


def _cart_view(cart: Cart) -> dict[str, Any]:
    lines = [
        {"product": line.product.id, "quantity": line.quantity, "total": str(line.total)}
        for line in cart.lines
    ]
    return {"items": lines}


def _order_view(order: Order) -> dict[str, Any]:
    quote = order.quote
    return {
        "order": order.id,
        **_cart_view(order.cart),
        "subtotal": str(quote.subtotal),
        "discounts": [{"reason": d.reason, "amount": str(d.amount)} for d in quote.discounts],
        "shipping": str(quote.shipping),
        "total": str(quote.total),
        "currency": quote.total.currency,
    }


def _raised_at(error: BaseException) -> str:
    """File and line of the innermost frame, enough to find the fault from a log line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
