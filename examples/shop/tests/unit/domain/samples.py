"""Products and baskets that the domain tests share."""

from __future__ import annotations

from shop_money import Money

from shop.cart import Cart
from shop.catalog import Product

MUG = Product("mug", "Enamel mug", "kitchen", Money(850))
TEAPOT = Product("teapot", "Teapot", "kitchen", Money(3200))
PENCIL = Product("pencil", "Pencil", "stationery", Money(90))


def basket(*items: tuple[Product, int]) -> Cart:
    """A cart of these products."""
    cart = Cart()
    for product, quantity in items:
        cart = cart.add(product, quantity)
    return cart
