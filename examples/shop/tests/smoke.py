"""Smoke test of a deployed shop: is the new version up, ready, configured and answering?

    python3 tests/smoke.py URL [--host HOST] [--version VERSION] [--wait SECONDS]

Changes nothing. Exits 0, or 1 with the first check that failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.client import CheckFailed, ShopClient, expect

RETRY_SECONDS = 0.2


def is_alive(shop: ShopClient) -> None:
    """The process answers."""
    expect(shop.get("/healthz").status, 200, "GET /healthz")


def is_ready(shop: ShopClient) -> None:
    """It has loaded its configuration."""
    expect(shop.get("/readyz").status, 200, "GET /readyz")


def has_products(shop: ShopClient) -> None:
    """It sells something, and each product has a page of its own."""
    listing = shop.get("/products")
    expect(listing.status, 200, "GET /products")
    products = listing.json()["products"]
    expect(bool(products), True, "GET /products lists something")
    product = shop.get(f"/products/{products[0]['id']}")
    expect(product.json(), products[0], f"GET /products/{products[0]['id']}")


def has_home_page(shop: ShopClient) -> None:
    """People see a page."""
    page = shop.get("/")
    expect(page.status, 200, "GET /")
    expect("text/html" in page.headers.get("content-type", ""), True, "GET / is HTML")


def is_measured(shop: ShopClient) -> None:
    """A scraper finds the metrics."""
    page = shop.get("/metrics")
    expect(page.status, 200, "GET /metrics")
    expect("shop_http_requests_total" in page.text(), True, "GET /metrics counts requests")


CHECKS: tuple[Callable[[ShopClient], None], ...] = (
    is_alive,
    is_ready,
    has_products,
    has_home_page,
    is_measured,
)


def wait_for_version(shop: ShopClient, version: str | None, seconds: float) -> None:
    """Waits until the URL answers, from that version if one is named."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = shop.get("/healthz").headers.get("x-shop-version", "none")
            if version is None or found == version:
                return
            problem = f"version {found} answers, expected {version}"
        except OSError as error:
            problem = str(error)
        if time.monotonic() >= deadline:
            raise CheckFailed(f"after {seconds:g} s: {problem}")
        time.sleep(RETRY_SECONDS)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Smoke test of a deployed shop.")
    parser.add_argument("url", help="base URL, for example http://127.0.0.1:8080")
    parser.add_argument("--host", help="Host header, as the Ingress expects it")
    parser.add_argument("--version", help="the version that must answer")
    parser.add_argument("--wait", type=float, default=30, help="seconds to wait for it")
    options = parser.parse_args()
    shop = ShopClient(options.url, options.host)
    try:
        wait_for_version(shop, options.version, options.wait)
        for check in CHECKS:
            check(shop)
            print(f"ok    {check.__name__}")
    except (CheckFailed, OSError, ValueError) as error:
        print(f"smoke test of {options.url} failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
