"""Builds the wheel of a pure Python package without setuptools or network.

    python3 tools/build_wheel.py [SOURCE] [--out DIR]

SOURCE holds a METADATA file and one or more import packages. The wheel is stored uncompressed with
fixed dates, so the same source gives the same bytes on every machine and its hash can be pinned.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEEL_FILE = """\
Wheel-Version: 1.0
Generator: shop-build-wheel
Root-Is-Purelib: true
Tag: py3-none-any
"""
EPOCH = (1980, 1, 1, 0, 0, 0)


def build(source: Path, out: Path) -> Path:
    """Writes the wheel of the package in `source` into `out` and returns its path."""
    metadata = (source / "METADATA").read_bytes()
    headers = Parser().parsestr(metadata.decode())
    stem = f"{headers['Name'].replace('-', '_')}-{headers['Version']}"
    members = _package_files(source)
    members[f"{stem}.dist-info/METADATA"] = metadata
    members[f"{stem}.dist-info/WHEEL"] = WHEEL_FILE.encode()
    record = f"{stem}.dist-info/RECORD"
    members[record] = _record(members, record)
    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return wheel


def sha256(path: Path) -> str:
    """The hash of a file as requirements.txt writes it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _package_files(source: Path) -> dict[str, bytes]:
    packages = sorted(init.parent for init in source.glob("*/__init__.py"))
    files = [path for package in packages for path in sorted(package.rglob("*"))]
    return {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }


def _record(members: dict[str, bytes], own_name: str) -> bytes:
    lines = []
    for name, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own_name},,", ""]).encode()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build a pure Python wheel, offline.")
    parser.add_argument("source", nargs="?", type=Path, default=ROOT / "vendor" / "shop-money")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    wheel = build(options.source, options.out)
    print(f"{wheel.name} --hash=sha256:{sha256(wheel)}")


if __name__ == "__main__":
    main()
