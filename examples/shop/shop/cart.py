"""Baskets: an immutable value, and the store that keeps one per session in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from shop_money import Money

from shop.catalog import Product

MAX_QUANTITY = 99
MAX_LINES = 50


class CartError(ValueError):
    """The change would make a basket that the shop does not accept."""


@dataclass(frozen=True)
class Line:
    """A product and how many of it."""

    product: Product
    quantity: int

    @property
    def total(self) -> Money:
        """Price of the line before discounts."""
        return self.product.price * self.quantity


@dataclass(frozen=True)
class Cart:
    """What one customer is about to buy; one line per product."""

    lines: tuple[Line, ...] = ()

    def add(self, product: Product, quantity: int) -> Cart:
        """This cart with `quantity` more of `product`."""
        if quantity < 1:
            raise CartError("quantity must be at least 1")
        merged = {line.product.id: line for line in self.lines}
        known = merged.get(product.id)
        total = quantity + (known.quantity if known else 0)
        if total > MAX_QUANTITY:
            raise CartError(f"at most {MAX_QUANTITY} of one product")
        merged[product.id] = Line(product, total)
        if len(merged) > MAX_LINES:
            raise CartError(f"at most {MAX_LINES} different products")
        return Cart(tuple(merged.values()))


class CartStore:
    """Carts by session. Holds the `capacity` most recently changed ones, so memory is bounded."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._carts: OrderedDict[str, Cart] = OrderedDict()

    def get(self, session: str) -> Cart:
        """The session's cart; empty if it has none."""
        with self._lock:
            return self._carts.get(session, Cart())

    def add(self, session: str, product: Product, quantity: int) -> Cart:
        """Adds to the session's cart and returns what it then holds."""
        with self._lock:
            cart = self._carts.get(session, Cart()).add(product, quantity)
            self._carts[session] = cart
            self._carts.move_to_end(session)
            if len(self._carts) > self._capacity:
                self._carts.popitem(last=False)
            return cart

    def remove(self, session: str, cart: Cart) -> bool:
        """Removes `cart` if the session still holds exactly it: it is bought at most once."""
        with self._lock:
            if self._carts.get(session) is not cart:
                return False
            del self._carts[session]
            return True
