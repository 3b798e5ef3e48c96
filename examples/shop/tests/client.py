"""A tiny HTTP client and `expect`, shared by the tests that talk to a running shop."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10.0


class CheckFailed(Exception):
    """The shop did not do what was expected; the message says what and how."""


@dataclass(frozen=True)
class Reply:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise CheckFailed(
                f"status {self.status}, body is no JSON: {self.body[:200]!r}"
            ) from error


class ShopClient:
    """Sends each request on a connection of its own, with the Host header if one is given."""

    def __init__(self, url: str, host: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} must be a URL such as http://127.0.0.1:8080")
        self._address = (parts.hostname, parts.port or 80)
        self._headers = {"Host": host} if host else {}

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        """GET."""
        return self.request("GET", path, None, headers)

    def post(self, path: str, document: Any = None) -> Reply:
        """POST of a JSON document, or of nothing."""
        body = None if document is None else json.dumps(document).encode()
        return self.request("POST", path, body)

    def request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None = None
    ) -> Reply:
        """Any request."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, names, response.read())
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()


def expect(actual: object, wanted: object, what: str) -> None:
    """Fails with a message that names what was looked at."""
    if actual != wanted:
        raise CheckFailed(f"{what}: expected {wanted!r}, got {actual!r}")
