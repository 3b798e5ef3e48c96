"""Settings from the environment, and the files that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shop.catalog import Catalog
from shop.service import Shop

BUNDLED_CATALOG = Path(__file__).with_name("catalog.json")


class ConfigError(ValueError):
    """A setting is unusable; the message names the variable."""


@dataclass(frozen=True)
class Config:
    """All settings of the process."""

    host: str
    port: int
    workers: int
    version: str
    drain_seconds: int
    catalog_path: Path
    discount_code_path: Path | None
    otlp_endpoint: str | None
    service_name: str
    resource_attributes: dict[str, str]

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config:
        """Reads the variables listed in the README."""
        code_file = env.get("DISCOUNT_CODE_FILE")
        return cls(
            host=env.get("HOST", "0.0.0.0"),
            port=_integer(env, "PORT", 8080, 0, 65535),
            workers=_integer(env, "WORKERS", 16, 1, 256),
            version=env.get("SHOP_VERSION", "dev"),
            drain_seconds=_integer(env, "DRAIN_SECONDS", 20, 1, 600),
            catalog_path=Path(env.get("SHOP_CATALOG") or BUNDLED_CATALOG),
            discount_code_path=Path(code_file) if code_file else None,
            otlp_endpoint=_url(env, "OTEL_EXPORTER_OTLP_ENDPOINT"),
            service_name=env.get("OTEL_SERVICE_NAME") or "shop",
            resource_attributes=_attributes(env.get("OTEL_RESOURCE_ATTRIBUTES", "")),
        )


def load_shop(config: Config) -> Shop:
    """Reads the catalogue and the discount code. A missing code file means: no code is valid."""
    catalog = Catalog.from_json(config.catalog_path.read_text(encoding="utf-8"))
    return Shop(catalog, _discount_code(config.discount_code_path))


def _discount_code(path: Path | None) -> str | None:
    if path is None or not path.exists():
        return None
    return path.read_text(encoding="utf-8").strip() or None


def _integer(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ConfigError(f"{name}={text!r} must be a whole number from {low} to {high}")
    return int(text)


def _url(env: Mapping[str, str], name: str) -> str | None:
    text = env.get(name)
    if not text:
        return None
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"{name}={text!r} must be a URL such as http://127.0.0.1:4318")
    return text


def _attributes(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}
