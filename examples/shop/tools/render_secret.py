"""Writes the production Secret from the environment, so that its value is in no repository.

DISCOUNT_CODE=… python3 tools/render_secret.py > deploy/production/10-secret.yaml
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def secret(namespace: str, code: str) -> dict[str, Any]:
    """The manifest. JSON is YAML too, and needs no care with quotes."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "shop", "namespace": namespace},
        "type": "Opaque",
        "stringData": {"discount-code": code},
    }


def main() -> int:
    """Command line."""
    code = os.environ.get("DISCOUNT_CODE", "")
    if not code:
        message = "render_secret: DISCOUNT_CODE is empty: set the pipeline secret of that name"
        print(message, file=sys.stderr)
        return 1
    json.dump(secret("shop", code), sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
