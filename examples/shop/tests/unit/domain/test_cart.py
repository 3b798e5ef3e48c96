"""Carts: merging, limits, and buying at most once."""

import unittest

from shop_money import Money

from shop.cart import MAX_LINES, MAX_QUANTITY, Cart, CartError, CartStore
from shop.catalog import Product
from tests.unit.domain.samples import MUG, PENCIL, basket


class CartTest(unittest.TestCase):
    def test_adding_a_product_again_raises_its_quantity(self):
        cart = basket((MUG, 1), (PENCIL, 2), (MUG, 3))
        self.assertEqual(
            [(line.product, line.quantity) for line in cart.lines], [(MUG, 4), (PENCIL, 2)]
        )
        self.assertEqual(cart.lines[0].total, Money(3400))

    def test_adding_leaves_the_old_cart_alone(self):
        cart = basket((MUG, 1))
        cart.add(MUG, 1)
        self.assertEqual(cart, basket((MUG, 1)))

    def test_limits(self):
        for quantity in (0, -1, MAX_QUANTITY + 1):
            with self.subTest(quantity), self.assertRaises(CartError):
                Cart().add(MUG, quantity)
        with self.assertRaises(CartError):
            basket((MUG, MAX_QUANTITY), (MUG, 1))
        products = [Product(f"p{n}", "P", "kitchen", Money(1)) for n in range(MAX_LINES + 1)]
        full = basket(*((product, 1) for product in products[:-1]))
        with self.assertRaises(CartError):
            full.add(products[-1], 1)


class CartStoreTest(unittest.TestCase):
    def test_sessions_are_apart(self):
        store = CartStore()
        store.add("ann", MUG, 1)
        self.assertEqual(store.get("ann"), basket((MUG, 1)))
        self.assertEqual(store.get("ben"), Cart())

    def test_a_cart_is_removed_once_and_only_unchanged(self):
        store = CartStore()
        seen = store.add("ann", MUG, 1)
        changed = store.add("ann", PENCIL, 1)
        self.assertFalse(store.remove("ann", seen))
        self.assertTrue(store.remove("ann", changed))
        self.assertFalse(store.remove("ann", changed))
        self.assertEqual(store.get("ann"), Cart())

    def test_the_longest_unchanged_cart_goes_first(self):
        store = CartStore(capacity=2)
        for session in ("ann", "ben", "ann", "eve"):
            store.add(session, MUG, 1)
        held = [session for session in ("ann", "ben", "eve") if store.get(session).lines]
        self.assertEqual(held, ["ann", "eve"])


if __name__ == "__main__":
    unittest.main()
