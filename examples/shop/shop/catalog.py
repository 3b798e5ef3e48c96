"""What is for sale. Pure: knows no files, no HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shop_money import Money, MoneyError

_PRODUCT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_FIELDS = ("id", "name", "category", "price")


class CatalogError(ValueError):
    """The catalogue is not usable; the message says which entry is wrong and how."""


@dataclass(frozen=True)
class Product:
    """One article."""

    id: str
    name: str
    category: str
    price: Money


class Catalog:
    """All products, in the order of the file, found by id."""

    def __init__(self, products: list[Product]) -> None:
        self._by_id = {product.id: product for product in products}

    @classmethod
    def from_json(cls, text: str) -> Catalog:
        """Reads `{"currency": "EUR", "products": [{"id", "name", "category", "price"}, …]}`."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise CatalogError(f"catalogue is no JSON: {error}") from error
        if not isinstance(document, dict) or not isinstance(document.get("products"), list):
            raise CatalogError('catalogue must be an object with a list "products"')
        currency = document.get("currency", "EUR")
        if not isinstance(currency, str):
            raise CatalogError('"currency" must be a text such as "EUR"')
        products = [
            _product(entry, f"products[{index}]", currency)
            for index, entry in enumerate(document["products"])
        ]
        if not products:
            raise CatalogError("catalogue has no products")
        catalog = cls(products)
        if len(catalog) != len(products):
            raise CatalogError("catalogue has two products of the same id")
        return catalog

    def find(self, product_id: str) -> Product | None:
        """The product of that id, if it is for sale."""
        return self._by_id.get(product_id)

    def __iter__(self) -> Iterator[Product]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)


def _product(entry: Any, where: str, currency: str) -> Product:
    if not isinstance(entry, dict):
        raise CatalogError(f"{where} must be an object")
    fields = {}
    for name in _FIELDS:
        value = entry.get(name)
        if not isinstance(value, str) or not value:
            raise CatalogError(f'{where}: "{name}" must be a non-empty text')
        fields[name] = value
    if _PRODUCT_ID.fullmatch(fields["id"]) is None:
        raise CatalogError(f"{where}: id {fields['id']!r} must match {_PRODUCT_ID.pattern}")
    try:
        price = Money.parse(fields["price"], currency)
    except MoneyError as error:
        raise CatalogError(f"{where}: {error}") from error
    return Product(fields["id"], fields["name"], fields["category"], price)
