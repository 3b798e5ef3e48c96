"""End-to-end test: one customer's whole story, through the Ingress of a deployed shop.

    python3 tests/e2e.py URL [--code CODE] [--host HOST] [--report FILE]

The discount code may also come from DISCOUNT_CODE. Needs a deployment of one replica, since carts
live in the memory of the process. Exits 0, or 1 with the step that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.client import CheckFailed, Reply, ShopClient, expect

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
BULK_QUANTITY = 10


class Story:
    """The customer, the steps in order, and what one step learns for the next."""

    def __init__(self, shop: ShopClient, code: str) -> None:
        self.shop = shop
        self.code = code
        self.session = f"e2e-{uuid.uuid4().hex[:12]}"
        self.products: list[dict[str, str]] = []

    def looks_around(self) -> None:
        """Finds something to buy."""
        self.products = self.shop.get("/products").json()["products"]
        expect(len(self.products) >= 2, True, "the shop offers two products or more")

    def is_stopped_from_nonsense(self) -> None:
        """Wrong input gets the right status, never a 500."""
        items = f"/cart/{self.session}/items"
        first = self.products[0]["id"]
        expect(self.shop.get("/products/no-such-thing").status, 404, "unknown product")
        expect(self.shop.post(items, {"product": "no-such-thing"}).status, 404, "adding it")
        expect(self.shop.post(items, {"product": first, "quantity": 0}).status, 422, "quantity 0")
        expect(self.shop.request("POST", items, b"{").status, 400, "broken JSON")
        expect(self.shop.post(f"/checkout/{self.session}").status, 422, "buying an empty cart")

    def fills_the_cart(self) -> None:
        """One of the first product, many of the second, in two portions."""
        first, second = self.products[:2]
        for product, quantity in ((first, 1), (second, BULK_QUANTITY - 1), (second, 1)):
            body = {"product": product["id"], "quantity": quantity}
            expect(self.shop.post(f"/cart/{self.session}/items", body).status, 201, "adding")
        lines = self.shop.get(f"/cart/{self.session}").json()["items"]
        wanted = [(first["id"], 1), (second["id"], BULK_QUANTITY)]
        expect([(line["product"], line["quantity"]) for line in lines], wanted, "the cart")

    def tries_a_wrong_code(self) -> None:
        """A wrong code is refused, and the cart is still there."""
        reply = self.shop.post(f"/checkout/{self.session}", {"code": f"not-{self.code}"})
        expect(reply.status, 422, "a wrong discount code")
        expect(len(self.shop.get(f"/cart/{self.session}").json()["items"]), 2, "lines left")

    def buys(self) -> None:
        """The order is priced with both discounts, and the sum of its parts is its total."""
        order = self._created(self.shop.post(f"/checkout/{self.session}", {"code": self.code}))
        prices = [Decimal(product["price"]) for product in self.products[:2]]
        expect(Decimal(order["subtotal"]), prices[0] + BULK_QUANTITY * prices[1], "subtotal")
        expect(len(order["discounts"]), 2, "discounts: bulk and code")
        off = sum(Decimal(discount["amount"]) for discount in order["discounts"])
        total = Decimal(order["subtotal"]) - off + Decimal(order["shipping"])
        expect(Decimal(order["total"]), total, "total")

    def cannot_buy_twice(self) -> None:
        """The cart is empty afterwards."""
        expect(self.shop.get(f"/cart/{self.session}").json()["items"], [], "the cart")
        expect(self.shop.post(f"/checkout/{self.session}").status, 422, "buying again")

    def buys_at_once(self) -> None:
        """A purchase without a cart."""
        body = {"items": [{"product": self.products[0]["id"], "quantity": 2}]}
        order = self._created(self.shop.post(f"/checkout/{self.session}", body))
        subtotal = 2 * Decimal(self.products[0]["price"])
        expect(Decimal(order["subtotal"]), subtotal, "subtotal")

    def can_be_traced(self) -> None:
        """The customer's trace continues in the shop."""
        header = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
        reply = self.shop.get("/products", header)
        expect(reply.headers.get("x-trace-id"), TRACE_ID, "trace id of the response")

    def steps(self) -> tuple[Callable[[], None], ...]:
        """The story in order."""
        return (
            self.looks_around,
            self.is_stopped_from_nonsense,
            self.fills_the_cart,
            self.tries_a_wrong_code,
            self.buys,
            self.cannot_buy_twice,
            self.buys_at_once,
            self.can_be_traced,
        )

    def _created(self, reply: Reply) -> Any:
        expect(reply.status, 201, f"checkout, which answered {reply.body[:200]!r}")
        return reply.json()


def tell(story: Story) -> list[dict[str, Any]]:
    """Plays the steps until one fails; returns what happened."""
    results: list[dict[str, Any]] = []
    for step in story.steps():
        started = time.monotonic()
        problem = _problem_of(step)
        results.append(
            {
                "step": step.__name__,
                "ok": problem is None,
                "problem": problem,
                "ms": round((time.monotonic() - started) * 1000, 1),
            }
        )
        print(f"{'ok    ' if problem is None else 'FAILED'} {step.__name__}")
        if problem is not None:
            break
    return results


def _problem_of(step: Callable[[], None]) -> str | None:
    try:
        step()
    except (CheckFailed, OSError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="End-to-end test of a deployed shop.")
    parser.add_argument("url", help="base URL, for example http://127.0.0.1:8080")
    parser.add_argument("--code", default=os.environ.get("DISCOUNT_CODE"), help="discount code")
    parser.add_argument("--host", help="Host header, as the Ingress expects it")
    parser.add_argument("--report", type=Path, help="file for the result of every step, as JSON")
    options = parser.parse_args()
    if not options.code:
        parser.error("give the shop's discount code by --code or in DISCOUNT_CODE")
    results = tell(Story(ShopClient(options.url, options.host), options.code))
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    problem = results[-1]["problem"]
    if problem:
        print(f"end-to-end test of {options.url} failed: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
