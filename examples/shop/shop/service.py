"""The shop's use cases, free of HTTP: look at products, fill a cart, buy."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from shop.cart import Cart, CartStore
from shop.catalog import Catalog, Product
from shop.pricing import Quote, quote


class UnknownProduct(LookupError):
    """No product of that id is for sale."""


class CartChanged(RuntimeError):
    """The cart was changed or bought by another request in the meantime."""


@dataclass(frozen=True)
class Order:
    """A purchase."""

    id: str
    cart: Cart
    quote: Quote


class Shop:
    """One shop with its catalogue, its current discount code and its customers' carts."""

    def __init__(self, catalog: Catalog, discount_code: str | None = None) -> None:
        self.catalog = catalog
        self._discount_code = discount_code
        self._carts = CartStore()

    def product(self, product_id: str) -> Product:
        """The product of that id."""
        product = self.catalog.find(product_id)
        if product is None:
            raise UnknownProduct(f"no product {product_id!r}")
        return product

    def cart(self, session: str) -> Cart:
        """What the session would buy now."""
        return self._carts.get(session)

    def add_item(self, session: str, product_id: str, quantity: int) -> Cart:
        """Puts a product into the session's cart."""
        return self._carts.add(session, self.product(product_id), quantity)

    def buy_cart(self, session: str, code: str | None) -> Order:
        """Buys the session's cart and empties it; a refused purchase leaves it as it was."""
        cart = self.cart(session)
        order = self._order(cart, code)
        if not self._carts.remove(session, cart):
            raise CartChanged("the cart has changed: look at it again")
        return order

    def buy_now(self, items: list[tuple[str, int]], code: str | None) -> Order:
        """Buys the listed products at once, without a cart."""
        cart = Cart()
        for product_id, quantity in items:
            cart = cart.add(self.product(product_id), quantity)
        return self._order(cart, code)

    def _order(self, cart: Cart, code: str | None) -> Order:
        return Order(uuid.uuid4().hex, cart, quote(cart, code, self._discount_code))
