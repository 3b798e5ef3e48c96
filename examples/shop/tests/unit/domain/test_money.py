"""Money: exact, rounded to even, never mixed."""

import unittest

from shop_money import Money, MoneyError


class MoneyTest(unittest.TestCase):
    def test_reads_whole_and_decimal_amounts(self):
        for text, cents in (("0", 0), ("12", 1200), ("12.50", 1250), ("0.09", 9)):
            with self.subTest(text):
                self.assertEqual(Money.parse(text), Money(cents))

    def test_refuses_what_is_no_amount(self):
        for text in ("", "-1", "1.5", "1,50", "1e3", "1.500", " 1", "٣"):
            with self.subTest(text), self.assertRaises(MoneyError):
                Money.parse(text)

    def test_writes_what_it_reads(self):
        for text in ("0.00", "0.09", "12.50", "1000.00"):
            self.assertEqual(str(Money.parse(text)), text)
        self.assertEqual(str(Money(-5)), "-0.05")

    def test_percent_rounds_a_half_cent_to_even(self):
        for cents, rate, wanted in (
            (5, 10, 0),
            (15, 10, 2),
            (25, 10, 2),
            (26, 10, 3),
            (990, 15, 148),
        ):
            with self.subTest(cents=cents):
                self.assertEqual(Money(cents).percent(rate), Money(wanted))

    def test_currencies_do_not_mix(self):
        for operation in (Money.__add__, Money.__sub__, Money.__lt__):
            with self.assertRaises(MoneyError):
                operation(Money(1, "EUR"), Money(1, "SEK"))


if __name__ == "__main__":
    unittest.main()
