"""Proves that each fault passes the pipeline's tests and fails under production-like load.

    python3 faults/check.py

Works on copies; needs git, and the dependencies installed by tools/install.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / ".deps"))

from tests.integration.running import RunningShop  # noqa: E402  (the paths must be set first)
from tools.check_catalogs import embedded_catalog  # noqa: E402

STAGES = (
    ["tools/lint.py"],
    ["-m", "unittest", "discover", "-s", "tests/unit/domain", "-t", "."],
    ["-m", "unittest", "discover", "-s", "tests/unit/service", "-t", "."],
    ["-m", "unittest", "discover", "-s", "tests/integration", "-t", "."],
)
LOAD = ["--rps", "20", "--seconds", "10"]


def is_healthy(load: dict[str, Any]) -> bool:
    """What the good version must show."""
    return _failed_share(load) == 0 and _p99(load) < 100


def loses_a_third(load: dict[str, Any]) -> bool:
    """What faults/errors.patch must show."""
    return 0.25 < _failed_share(load) < 0.45


def is_slow(load: dict[str, Any]) -> bool:
    """What faults/latency.patch must show."""
    return _failed_share(load) == 0 and _p99(load) > 500


def _failed_share(load: dict[str, Any]) -> float:
    return float(load["failed"]) / float(load["requests"])


def _p99(load: dict[str, Any]) -> float:
    return float(load["latency_ms"]["p99"])


EXPECTED: dict[str | None, Callable[[dict[str, Any]], bool]] = {
    None: is_healthy,
    "errors": loses_a_third,
    "latency": is_slow,
}


def check(fault: str | None, expected: Callable[[dict[str, Any]], bool]) -> bool:
    """Applies the fault to a copy, runs all stages, then the load."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "shop")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if fault:
            subprocess.run(["git", "apply", f"faults/{fault}.patch"], cwd=copy, check=True)
        for stage in STAGES:
            _run(copy, stage)
        load = _load(copy)
    ok = expected(load)
    name = fault or "good version"
    print(
        f"{'ok    ' if ok else 'FAILED'} {name}: stages passed; "
        f"{load['failed']} of {load['requests']} requests failed, p99 {_p99(load)} ms"
    )
    return ok


def _load(copy: Path) -> dict[str, Any]:
    manifest = (copy / "deploy/production/10-configmap.yaml").read_text(encoding="utf-8")
    catalog = copy / "catalog.json"
    catalog.write_text(embedded_catalog(manifest), encoding="utf-8")
    shop = RunningShop(root=copy, SHOP_CATALOG=str(catalog), PYTHONPATH=str(copy / ".deps"))
    try:
        shop.wait_until_ready()
        report: dict[str, Any] = json.loads(_run(copy, ["tools/load.py", shop.url, *LOAD]))
        return report
    finally:
        shop.close()


def _run(copy: Path, arguments: list[str]) -> str:
    """The output of a Python command in the copy; a failure ends the check."""
    environment = {**os.environ, "PYTHONPATH": str(copy / ".deps")}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def main() -> int:
    """Command line."""
    results = [check(fault, expected) for fault, expected in EXPECTED.items()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
