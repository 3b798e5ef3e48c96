"""Finds the handler of a request: method and path pattern to function."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Match(Generic[T]):
    """What was found for a path; `target` is None where only other methods exist."""

    route: str
    params: dict[str, str] = field(default_factory=dict)
    target: T | None = None
    allowed: tuple[str, ...] = ()


class Router(Generic[T]):
    """A list of routes such as `/cart/{session}`; a placeholder matches one path segment."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, str, re.Pattern[str], T]] = []

    def add(self, method: str, route: str) -> Callable[[T], T]:
        """Decorator that registers a handler."""
        pattern = re.compile(_PLACEHOLDER.sub(r"(?P<\1>[^/]+)", route))

        def register(target: T) -> T:
            self._routes.append((method, route, pattern, target))
            return target

        return register

    def find(self, method: str, path: str) -> Match[T]:
        """The match of a request. HEAD is served by the handler of GET."""
        wanted = "GET" if method == "HEAD" else method
        allowed, known_route = [], "unknown"
        for candidate, route, pattern, target in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            if candidate == wanted:
                return Match(route, found.groupdict(), target)
            allowed.append(candidate)
            known_route = route
        return Match(known_route, allowed=tuple(allowed))
