"""Loads every catalogue that the manifests would deploy, with the shop's own reader.

    python3 tools/check_catalogs.py [FILE…]

A broken ConfigMap thus fails the pipeline instead of leaving new pods unready.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shop.catalog import Catalog, CatalogError

_KEY = "catalog.json: |"


def embedded_catalog(manifest: str) -> str:
    """The text of the block scalar under the key `catalog.json`."""
    lines = manifest.splitlines()
    start = next((n for n, line in enumerate(lines) if line.strip() == _KEY), None)
    if start is None:
        raise CatalogError(f"no line {_KEY!r}")
    indent = len(lines[start]) - len(lines[start].lstrip())
    block = []
    for line in lines[start + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        block.append(line)
    return textwrap.dedent("\n".join(block))


def main(arguments: list[str]) -> int:
    """Command line."""
    paths = [Path(a) for a in arguments] or sorted(ROOT.glob("deploy/*/10-configmap.yaml"))
    failures = 0
    for path in paths:
        try:
            catalog = Catalog.from_json(embedded_catalog(path.read_text(encoding="utf-8")))
        except (CatalogError, OSError) as error:
            failures += 1
            print(f"{path}: {error}", file=sys.stderr)
        else:
            print(f"{path}: {len(catalog)} products")
    return 1 if failures or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
