"""Installs the wheels pinned in requirements.txt into a folder, without pip or network.

    python3 tools/install.py [--requirements FILE] [--wheels DIR] [--target DIR]

Understands the subset of the requirements format this project uses: comments, `--find-links DIR`,
`--no-index`, and `name==version --hash=sha256:…`. Everything else is refused. Where pip exists,
`pip install --require-hashes -r requirements.txt --target DIR` does the same.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)\s+--hash=sha256:([0-9a-f]{64})")
_IGNORED_OPTION = re.compile(r"--no-index|--find-links\s+\S+")


class InstallError(Exception):
    """A requirement cannot be installed; the message says which and why."""


@dataclass(frozen=True)
class Pin:
    """One exact requirement."""

    name: str
    version: str
    sha256: str

    @property
    def wheel_name(self) -> str:
        """The file name of its wheel."""
        return f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}-py3-none-any.whl"


def parse_requirements(text: str) -> list[Pin]:
    """The pins of a requirements file."""
    pins = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line or _IGNORED_OPTION.fullmatch(line):
            continue
        match = _PIN.fullmatch(line)
        if match is None:
            raise InstallError(
                f"line {number}: expected name==version --hash=sha256:…, found {line!r}"
            )
        pins.append(Pin(*match.groups()))
    return pins


def install(pins: list[Pin], wheels: Path, target: Path) -> None:
    """Verifies every wheel, then unpacks all of them into a fresh `target`."""
    verified = [_verified_wheel(pin, wheels) for pin in pins]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for wheel in verified:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


def _verified_wheel(pin: Pin, wheels: Path) -> Path:
    wheel = wheels / pin.wheel_name
    if not wheel.is_file():
        raise InstallError(f"{wheel} is missing: run tools/build_wheel.py first")
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if actual != pin.sha256:
        raise InstallError(
            f"{wheel.name} has sha256 {actual}, but requirements.txt pins {pin.sha256}"
        )
    return wheel


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Install pinned wheels, offline.")
    parser.add_argument("--requirements", type=Path, default=ROOT / "requirements.txt")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist")
    parser.add_argument("--target", type=Path, default=ROOT / ".deps")
    options = parser.parse_args()
    try:
        pins = parse_requirements(options.requirements.read_text(encoding="utf-8"))
        install(pins, options.wheels, options.target)
    except (InstallError, OSError) as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    print(
        f"installed {', '.join(f'{pin.name} {pin.version}' for pin in pins)} into {options.target}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
