"""Use cases: buying from the cart and at once."""

import unittest
from unittest import mock

from shop.cart import Cart
from shop.catalog import Catalog
from shop.pricing import PricingError
from shop.service import CartChanged, Shop, UnknownProduct
from tests.unit.domain.samples import MUG, PENCIL


class ShopTest(unittest.TestCase):
    def setUp(self):
        self.shop = Shop(Catalog([MUG, PENCIL]), "WELCOME")

    def test_buying_empties_the_cart(self):
        self.shop.add_item("ann", "mug", 2)
        order = self.shop.buy_cart("ann", "WELCOME")
        self.assertEqual(order.cart.lines[0].quantity, 2)
        self.assertEqual(self.shop.cart("ann"), Cart())

    def test_a_refused_purchase_keeps_the_cart(self):
        cart = self.shop.add_item("ann", "mug", 2)
        with self.assertRaises(PricingError):
            self.shop.buy_cart("ann", "wrong")
        self.assertEqual(self.shop.cart("ann"), cart)

    def test_a_cart_that_changed_while_being_bought_is_not_bought(self):
        self.shop.add_item("ann", "mug", 1)
        stale = self.shop.cart("ann")
        self.shop.add_item("ann", "pencil", 1)
        with mock.patch.object(self.shop, "cart", return_value=stale):
            self.assertRaises(CartChanged, self.shop.buy_cart, "ann", None)

    def test_buying_at_once_needs_no_cart(self):
        order = self.shop.buy_now([("mug", 1), ("mug", 1)], None)
        self.assertEqual(order.cart.lines[0].quantity, 2)
        with self.assertRaises(UnknownProduct):
            self.shop.buy_now([("boat", 1)], None)


if __name__ == "__main__":
    unittest.main()
