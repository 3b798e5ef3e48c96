"""Exact amounts of money: whole cents of one currency, never floating point."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Money", "MoneyError"]

_DECIMAL = re.compile(r"([0-9]{1,12})(?:\.([0-9]{2}))?")


class MoneyError(ValueError):
    """A text is no amount, or two amounts of different currencies met."""


@dataclass(frozen=True)
class Money:
    """An amount in the smallest unit of its currency."""

    cents: int
    currency: str = "EUR"

    @classmethod
    def parse(cls, text: str, currency: str = "EUR") -> Money:
        """Reads an amount written as `12` or `12.50`."""
        match = _DECIMAL.fullmatch(text)
        if match is None:
            raise MoneyError(f"{text!r} is no amount of money: write it as 12 or 12.50")
        return cls(int(match.group(1)) * 100 + int(match.group(2) or 0), currency)

    def __str__(self) -> str:
        sign = "-" if self.cents < 0 else ""
        whole, rest = divmod(abs(self.cents), 100)
        return f"{sign}{whole}.{rest:02d}"

    def __add__(self, other: Money) -> Money:
        return Money(self.cents + self._same_currency(other).cents, self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.cents - self._same_currency(other).cents, self.currency)

    def __mul__(self, count: int) -> Money:
        return Money(self.cents * count, self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.cents < self._same_currency(other).cents

    def __ge__(self, other: Money) -> bool:
        return not self < other

    def percent(self, rate: int) -> Money:
        """`rate` per cent of this amount, a half cent rounded to the even neighbour."""
        whole, rest = divmod(self.cents * rate, 100)
        round_up = rest > 50 or (rest == 50 and whole % 2 == 1)
        return Money(whole + round_up, self.currency)

    def _same_currency(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise MoneyError(f"cannot combine {self.currency} with {other.currency}")
        return other
