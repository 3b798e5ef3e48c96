"""What a basket costs. Pure: the same basket and code always give the same quote.

Rules, applied in this order:

1. Bulk: a line of 10 or more of one product is 10 % cheaper.
2. Code: a valid discount code takes 15 % off what is left.
3. Shipping costs 4.90, nothing from 50.00 on (after discounts).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from shop_money import Money

from shop.cart import Cart, Line

BULK_QUANTITY = 10
BULK_PERCENT = 10
CODE_PERCENT = 15
SHIPPING_CENTS = 490
FREE_SHIPPING_CENTS = 5000


class PricingError(ValueError):
    """The basket cannot be priced as asked."""


@dataclass(frozen=True)
class Discount:
    """An amount taken off, and why."""

    reason: str
    amount: Money


@dataclass(frozen=True)
class Quote:
    """The price of a basket in its parts."""

    subtotal: Money
    discounts: tuple[Discount, ...]
    shipping: Money
    total: Money


def quote(cart: Cart, code: str | None, valid_code: str | None) -> Quote:
    """Prices a non-empty basket; `valid_code` is the shop's current discount code, if any."""
    if not cart.lines:
        raise PricingError("the cart is empty")
    subtotal = total_of([line.total for line in cart.lines])
    discounts = bulk_discounts(cart.lines)
    goods = subtotal - total_of([d.amount for d in discounts], subtotal.currency)
    if code is not None:
        discount = code_discount(goods, code, valid_code)
        discounts.append(discount)
        goods = goods - discount.amount
    shipping = shipping_for(goods)
    return Quote(subtotal, tuple(discounts), shipping, goods + shipping)


def bulk_discounts(lines: tuple[Line, ...]) -> list[Discount]:
    """Rule 1: one discount per line that is large enough."""
    return [
        Discount(f"{BULK_PERCENT} % bulk: {line.product.id}", line.total.percent(BULK_PERCENT))
        for line in lines
        if line.quantity >= BULK_QUANTITY
    ]


def code_discount(goods: Money, code: str, valid_code: str | None) -> Discount:
    """Rule 2; refuses a code that is not the current one."""
    if valid_code is None or not hmac.compare_digest(_bytes(code), _bytes(valid_code)):
        raise PricingError("unknown discount code")
    return Discount(f"{CODE_PERCENT} % code", goods.percent(CODE_PERCENT))


def shipping_for(goods: Money) -> Money:
    """Rule 3."""
    free = goods.cents >= FREE_SHIPPING_CENTS
    return Money(0 if free else SHIPPING_CENTS, goods.currency)


def total_of(amounts: list[Money], currency: str = "") -> Money:
    """Sum of amounts; `currency` is needed only where the list may be empty."""
    start = Money(0, currency or amounts[0].currency)
    return sum(amounts, start)


def _bytes(text: str) -> bytes:
    """UTF-8; JSON may smuggle in halves of surrogate pairs, which are just wrong codes."""
    return text.encode("utf-8", "surrogatepass")
