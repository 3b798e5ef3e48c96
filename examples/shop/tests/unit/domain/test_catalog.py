"""Catalogue: what is read, and how each mistake in the file is named."""

import json
import unittest

from shop_money import Money

from shop.catalog import Catalog, CatalogError
from shop.config import BUNDLED_CATALOG

MUG = {"id": "mug", "name": "Mug", "category": "kitchen", "price": "8.50"}


def catalog_text(*products, **extra):
    return json.dumps({"products": products, **extra})


class CatalogTest(unittest.TestCase):
    def test_finds_products_by_id_in_file_order(self):
        catalog = Catalog.from_json(catalog_text(MUG, {**MUG, "id": "cup"}, currency="SEK"))
        self.assertEqual([product.id for product in catalog], ["mug", "cup"])
        self.assertEqual(catalog.find("mug").price, Money(850, "SEK"))
        self.assertIsNone(catalog.find("boat"))

    def test_the_bundled_catalogue_is_valid(self):
        self.assertGreater(len(Catalog.from_json(BUNDLED_CATALOG.read_text())), 1)

    def test_names_the_mistake(self):
        self.check("{", "no JSON")
        self.check("[]", 'list "products"')
        self.check(catalog_text(), "no products")
        self.check(catalog_text(MUG, currency=1), "currency")
        self.check(catalog_text("mug"), "products[0] must be an object")
        self.check(catalog_text(MUG, {**MUG, "name": ""}), 'products[1]: "name"')
        self.check(catalog_text({**MUG, "price": 8.5}), 'products[0]: "price"')
        self.check(catalog_text({**MUG, "price": "cheap"}), "'cheap' is no amount")
        self.check(catalog_text({**MUG, "id": "A mug"}), "'A mug' must match")
        self.check(catalog_text(MUG, MUG), "same id")

    def check(self, text, wanted):
        with self.subTest(wanted), self.assertRaises(CatalogError) as caught:
            Catalog.from_json(text)
        self.assertIn(wanted, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
