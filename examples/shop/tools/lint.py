"""A small linter over the syntax tree, for machines where only Python is installed.

    python3 tools/lint.py [PATH…]

Rules: syntax, unused-import, bare-except, mutable-default, missing-docstring (public names outside
tests), line-length, trailing-space. One finding per line; exit code 1 if there is any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKED = ("shop", "tests", "tools", "faults", "vendor")
MAX_LINE = 100
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, order=True)
class Finding:
    """One thing to change."""

    line: int
    rule: str
    message: str


def check_source(source: str, needs_docstrings: bool = True) -> list[Finding]:
    """All findings of one file."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return [Finding(error.lineno or 1, "syntax", error.msg)]
    findings = [*_lines(source), *_unused_imports(tree), *_handlers(tree), *_defaults(tree)]
    if needs_docstrings:
        findings += _docstrings(tree)
    return sorted(findings)


def _lines(source: str) -> Iterator[Finding]:
    for number, line in enumerate(source.splitlines(), start=1):
        if len(line) > MAX_LINE:
            yield Finding(number, "line-length", f"{len(line)} characters, at most {MAX_LINE}")
        if line != line.rstrip():
            yield Finding(number, "trailing-space", "white space at the end of the line")


def _unused_imports(tree: ast.Module) -> Iterator[Finding]:
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | _exported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                if name not in used:
                    yield Finding(node.lineno, "unused-import", f"{name} is never used")


def _exported(tree: ast.Module) -> set[str]:
    """The names listed in `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple)):
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
                return {str(e.value) for e in node.value.elts if isinstance(e, ast.Constant)}
    return set()


def _handlers(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield Finding(node.lineno, "bare-except", "name the exceptions that are expected")


def _defaults(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            for default in [*node.args.defaults, *node.args.kw_defaults]:
                if isinstance(default, (ast.List, ast.Dict, ast.Set)):
                    message = f"{node.name} shares one default object between all calls"
                    yield Finding(default.lineno, "mutable-default", message)


def _docstrings(tree: ast.Module) -> Iterator[Finding]:
    if ast.get_docstring(tree) is None and tree.body:
        yield Finding(1, "missing-docstring", "the module says nothing about itself")
    for node in _public_definitions(tree):
        if ast.get_docstring(node) is None:
            yield Finding(
                node.lineno, "missing-docstring", f"{node.name} says nothing about itself"
            )


def _public_definitions(
    scope: ast.Module | ast.ClassDef,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in scope.body:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from _public_definitions(node)


def _python_files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main(arguments: list[str]) -> int:
    """Command line."""
    paths = [Path(a) for a in arguments] or [ROOT / name for name in CHECKED]
    files = list(_python_files(paths))
    count = 0
    for path in files:
        is_test = "tests" in path.resolve().parts
        for finding in check_source(path.read_text(encoding="utf-8"), not is_test):
            count += 1
            print(f"{path}:{finding.line}: {finding.rule}: {finding.message}")
    print(f"{len(files)} files, {count} findings", file=sys.stderr)
    return 1 if count or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
