"""Prices: each rule at its edges, their order, and what holds for every basket."""

import random
import unittest

from shop_money import Money

from shop.cart import Cart
from shop.pricing import PricingError, quote
from tests.unit.domain.samples import MUG, PENCIL, TEAPOT, basket

CODE = "WELCOME"
SEED = 7


class PricingTest(unittest.TestCase):
    def test_table(self):
        self.check(basket((MUG, 1)), None, "8.50", [], "4.90", "13.40")
        self.check(basket((PENCIL, 9)), None, "8.10", [], "4.90", "13.00")
        self.check(basket((PENCIL, 10)), None, "9.00", ["0.90"], "4.90", "13.00")
        self.check(
            basket((MUG, 10), (PENCIL, 10)), None, "94.00", ["8.50", "0.90"], "0.00", "84.60"
        )
        self.check(basket((MUG, 1)), CODE, "8.50", ["1.28"], "4.90", "12.12")
        self.check(basket((MUG, 10)), CODE, "85.00", ["8.50", "11.48"], "0.00", "65.02")

    def test_shipping_is_free_from_fifty_after_discounts(self):
        dear = basket((TEAPOT, 1), (MUG, 2), (PENCIL, 1))
        self.check(dear, None, "49.90", [], "4.90", "54.80")
        self.check(dear.add(PENCIL, 1), None, "50.80", [], "0.00", "50.80")
        self.check(dear.add(PENCIL, 1), CODE, "50.80", ["7.62"], "4.90", "48.08")

    def test_refuses_an_empty_basket_and_a_wrong_code(self):
        for cart, code, valid in (
            (Cart(), None, None),
            (basket((MUG, 1)), "wrong", CODE),
            (basket((MUG, 1)), "", CODE),
            (basket((MUG, 1)), CODE, None),
            (basket((MUG, 1)), "\ud800", CODE),
        ):
            with self.subTest(code=code, valid=valid), self.assertRaises(PricingError):
                quote(cart, code, valid)

    def test_every_basket_adds_up_and_a_code_never_costs_more(self):
        chance = random.Random(SEED)
        for _ in range(500):
            count = chance.randint(1, 3)
            products = chance.sample([MUG, PENCIL, TEAPOT], count)
            cart = basket(*((product, chance.randint(1, 20)) for product in products))
            plain, reduced = quote(cart, None, CODE), quote(cart, CODE, CODE)
            for priced in (plain, reduced):
                off = sum(discount.amount.cents for discount in priced.discounts)
                self.assertEqual(
                    priced.total.cents, priced.subtotal.cents - off + priced.shipping.cents
                )
                self.assertGreater(priced.total.cents, 0)
            self.assertLess(reduced.total - reduced.shipping, plain.total - plain.shipping)

    def check(self, cart, code, subtotal, discounts, shipping, total):
        with self.subTest(cart=cart, code=code):
            priced = quote(cart, code, CODE)
            self.assertEqual(priced.subtotal, Money.parse(subtotal))
            self.assertEqual([str(discount.amount) for discount in priced.discounts], discounts)
            self.assertEqual(str(priced.shipping), shipping)
            self.assertEqual(str(priced.total), total)


if __name__ == "__main__":
    unittest.main()
