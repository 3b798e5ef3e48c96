"""Counters, gauges and histograms, written in the Prometheus text format."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from typing import Protocol

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
Labels = tuple[str, ...]


class Metric(Protocol):
    """Anything that can write its samples."""

    name: str
    kind: str
    help: str

    def samples(self) -> Iterator[str]:
        """Lines of the exposition, without the header."""
        ...


class Counter:
    """A number that only grows, per combination of label values."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help = name, help
        self._labels = labels
        self._lock = threading.Lock()
        self._values: dict[Labels, int] = {} if labels else {(): 0}

    def add(self, *values: str, amount: int = 1) -> None:
        """Adds to the series of these label values."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def samples(self) -> Iterator[str]:
        """One line per series."""
        with self._lock:
            snapshot = sorted(self._values.items())
        for values, number in snapshot:
            yield f"{self.name}{_braces(self._labels, values)} {number}"


class Gauge:
    """A number that goes up and down."""

    kind = "gauge"

    def __init__(self, name: str, help: str) -> None:
        self.name, self.help = name, help
        self._lock = threading.Lock()
        self._value = 0

    def add(self, amount: int) -> None:
        """Moves the value."""
        with self._lock:
            self._value += amount

    def samples(self) -> Iterator[str]:
        """One line."""
        yield f"{self.name} {self._value}"


class Info:
    """A constant 1 whose labels carry facts about the process."""

    kind = "gauge"

    def __init__(self, name: str, help: str, facts: dict[str, str]) -> None:
        self.name, self.help = name, help
        self._facts = facts

    def samples(self) -> Iterator[str]:
        """One line."""
        yield f"{self.name}{_braces(tuple(self._facts), tuple(self._facts.values()))} 1"


class Histogram:
    """A distribution in cumulative buckets, per combination of label values."""

    kind = "histogram"

    def __init__(
        self, name: str, help: str, labels: Labels, bounds: tuple[float, ...] = LATENCY_BUCKETS
    ) -> None:
        self.name, self.help = name, help
        self._labels, self._bounds = labels, bounds
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *values: str) -> None:
        """Records one value in the series of these label values."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            counts = self._counts.setdefault(values, [0] * (len(self._bounds) + 1))
            counts[bucket] += 1
            self._sums[values] = self._sums.get(values, 0.0) + value

    def samples(self) -> Iterator[str]:
        """Buckets, sum and count of every series."""
        with self._lock:
            snapshot = sorted((key, list(counts)) for key, counts in self._counts.items())
            sums = dict(self._sums)
        for values, counts in snapshot:
            cumulative = 0
            for bound, count in zip((*self._bounds, float("inf")), counts):
                cumulative += count
                edge = "+Inf" if bound == float("inf") else f"{bound:g}"
                labels = _braces((*self._labels, "le"), (*values, edge))
                yield f"{self.name}_bucket{labels} {cumulative}"
            labels = _braces(self._labels, values)
            yield f"{self.name}_sum{labels} {sums[values]:.6f}"
            yield f"{self.name}_count{labels} {cumulative}"


class ShopMetrics:
    """Every metric of the shop."""

    def __init__(self, version: str) -> None:
        self.requests = Counter(
            "shop_http_requests_total", "Requests answered.", ("method", "route", "status")
        )
        self.latency = Histogram(
            "shop_http_request_duration_seconds", "Time to answer a request.", ("route",)
        )
        self.in_progress = Gauge("shop_http_requests_in_progress", "Requests being answered.")
        self.orders = Counter("shop_orders_total", "Orders placed.", ("currency",))
        self.revenue = Counter("shop_revenue_cents_total", "Value of all orders.", ("currency",))
        self.spans_dropped = Counter("shop_spans_dropped_total", "Spans that were not exported.")
        self.build = Info("shop_build_info", "The running version.", {"version": version})

    def expose(self) -> str:
        """The whole page for a scraper."""
        metrics: list[Metric] = list(vars(self).values())
        lines = []
        for metric in metrics:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.samples()
        return "\n".join([*lines, ""])


def _braces(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{n}="{_escape(v)}"' for n, v in zip(names, values)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
