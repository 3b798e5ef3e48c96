"""Routing: patterns, placeholders, HEAD, wrong methods."""

import unittest

from shop.routes import Match, Router


class RouterTest(unittest.TestCase):
    def setUp(self):
        self.router = Router()
        self.router.add("GET", "/cart/{session}")("show")
        self.router.add("POST", "/cart/{session}/items")("add")

    def test_finds(self):
        shown = Match("/cart/{session}", {"session": "ann"}, "show")
        self.assertEqual(self.router.find("GET", "/cart/ann"), shown)
        self.assertEqual(self.router.find("HEAD", "/cart/ann"), shown)
        self.assertEqual(self.router.find("POST", "/cart/ann/items").target, "add")

    def test_a_placeholder_is_one_segment(self):
        for path in ("/cart/", "/cart/a/b", "/cart/a/", "/xcart/a"):
            self.assertEqual(self.router.find("GET", path), Match("unknown"))

    def test_a_wrong_method_names_the_right_ones(self):
        self.assertEqual(
            self.router.find("DELETE", "/cart/ann"), Match("/cart/{session}", allowed=("GET",))
        )


if __name__ == "__main__":
    unittest.main()
