"""Settings: defaults, files, and errors that name the variable."""

import tempfile
import unittest
from pathlib import Path

from shop.config import BUNDLED_CATALOG, Config, ConfigError, load_shop
from shop.pricing import PricingError


class ConfigTest(unittest.TestCase):
    def test_defaults(self):
        config = Config.from_env({})
        self.assertEqual((config.port, config.version), (8080, "dev"))
        self.assertEqual(config.catalog_path, BUNDLED_CATALOG)
        self.assertIsNone(config.otlp_endpoint)

    def test_names_the_wrong_variable(self):
        for name, value in (
            ("PORT", "http"),
            ("PORT", "70000"),
            ("WORKERS", "0"),
            ("DRAIN_SECONDS", "-1"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ):
            with self.subTest(name=name), self.assertRaisesRegex(ConfigError, f"^{name}="):
                Config.from_env({name: value})

    def test_resource_attributes(self):
        env = {"OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=shop-1, broken,team=shop"}
        attributes = Config.from_env(env).resource_attributes
        self.assertEqual(attributes, {"k8s.pod.name": "shop-1", "team": "shop"})


class LoadTest(unittest.TestCase):
    def test_the_code_is_read_from_its_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "code")
            path.write_text("WELCOME\n")
            shop = load_shop(Config.from_env({"DISCOUNT_CODE_FILE": str(path)}))
        self.assertEqual(len(shop.buy_now([("mug", 1)], "WELCOME").quote.discounts), 1)

    def test_without_the_file_no_code_is_valid(self):
        shop = load_shop(Config.from_env({"DISCOUNT_CODE_FILE": "/nonexistent/code"}))
        with self.assertRaises(PricingError):
            shop.buy_now([("mug", 1)], "WELCOME")


if __name__ == "__main__":
    unittest.main()
