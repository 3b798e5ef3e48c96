"""Asks the shop in this container whether it is alive; the image's HEALTHCHECK runs this."""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 2.0


def main() -> int:
    """0 when `/healthz` answers 200."""
    port = int(os.environ.get("PORT") or 8080)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError as error:
        print(f"healthcheck: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
