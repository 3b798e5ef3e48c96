"""An open-loop load generator: requests start on schedule, however slow the answers are.

    python3 tools/load.py URL [--host HOST] [--rps 50] [--seconds 10] [--mix browse=3,checkout=6]

Latency counts from the moment a request was due, so a server that stalls cannot hide behind a
client that waits for it. The report is one JSON document on standard output; a progress line per
second goes to standard error. Operations: browse, product, checkout (a basket bought at once),
work (`--work-ms`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10.0
OPERATIONS = ("browse", "product", "checkout", "work")
OFFICE_SHARE = 0.15


@dataclass(frozen=True)
class Call:
    """One request to send, and when it is due."""

    due: float
    operation: str
    method: str
    path: str
    body: bytes | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a call: `status` is an HTTP status or the kind of the connection's failure."""

    operation: str
    status: str
    version: str
    seconds: float

    @property
    def failed(self) -> bool:
        """No answer, or one that blames the server."""
        return not self.status.isdigit() or self.status >= "500"


@dataclass
class Results:
    """Outcomes so far; shared by all senders."""

    outcomes: list[Outcome] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: Outcome) -> None:
        """Takes one outcome."""
        with self.lock:
            self.outcomes.append(outcome)

    def snapshot(self) -> list[Outcome]:
        """A copy for reporting."""
        with self.lock:
            return list(self.outcomes)


class Customer:
    """Invents plausible calls for the products that the shop offers."""

    def __init__(self, products: list[str], mix: dict[str, int], work_ms: int, seed: int) -> None:
        self._products = products
        self._operations, self._weights = list(mix), list(mix.values())
        self._work_ms = work_ms
        self._random = random.Random(seed)

    def calls(self, rps: float, seconds: float, start: float) -> Iterator[Call]:
        """Calls at evenly spaced times, `rps` per second."""
        for number in range(round(rps * seconds)):
            operation = self._random.choices(self._operations, self._weights)[0]
            yield self._call(start + number / rps, operation)

    def _call(self, due: float, operation: str) -> Call:
        if operation == "checkout":
            path = f"/checkout/load-{self._random.getrandbits(32):08x}"
            return Call(due, operation, "POST", path, self._basket())
        if operation == "product":
            return Call(due, operation, "GET", f"/products/{self._random.choice(self._products)}")
        if operation == "work":
            return Call(due, operation, "GET", f"/work?ms={self._work_ms}")
        return Call(due, operation, "GET", "/products")

    def _basket(self) -> bytes:
        """Mostly a few things for one person, sometimes an order for a whole office."""
        office = self._random.random() < OFFICE_SHARE
        lines, quantities = ((6, 10), (60, 99)) if office else ((1, 3), (1, 5))
        count = min(self._random.randint(*lines), len(self._products))
        items = [
            {"product": product, "quantity": self._random.randint(*quantities)}
            for product in self._random.sample(self._products, count)
        ]
        return json.dumps({"items": items}).encode()


class Sender(threading.Thread):
    """Sends calls over one kept-alive connection."""

    def __init__(
        self, url: str, host: str | None, calls: queue.SimpleQueue[Call | None], results: Results
    ) -> None:
        super().__init__(daemon=True)
        self._client = Client(url, host)
        self._calls = calls
        self._results = results

    def run(self) -> None:
        """Sends until the queue ends."""
        while (call := self._calls.get()) is not None:
            status, version = self._client.send(call.method, call.path, call.body)
            seconds = time.monotonic() - call.due
            self._results.add(Outcome(call.operation, status, version, seconds))


class Client:
    """One kept-alive connection to the shop."""

    def __init__(self, url: str, host: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise SystemExit(f"load: {url!r} must be a URL such as http://127.0.0.1:8080")
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=TIMEOUT_SECONDS
        )
        self._headers = {"Host": host} if host else {}
        self._reused = False
        self.body = b""

    def send(self, method: str, path: str, body: bytes | None = None) -> tuple[str, str]:
        """Status and version of the answer, or the kind of failure and `none`.

        A GET on a kept-alive connection that the server has closed meanwhile is sent once more on a
        new one, as every browser does. Nothing else is repeated.
        """
        may_repeat = self._reused and method == "GET"
        try:
            return self._exchange(method, path, body)
        except (ConnectionError, http.client.BadStatusLine) as error:
            self._close()
            return self.send(method, path, body) if may_repeat else (type(error).__name__, "none")
        except (OSError, http.client.HTTPException) as error:
            self._close()
            return type(error).__name__, "none"

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[str, str]:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        self.body = response.read()
        self._reused = not response.will_close
        return str(response.status), response.headers.get("X-Shop-Version", "none")

    def _close(self) -> None:
        self._connection.close()
        self._reused = False


def run(
    url: str, host: str | None, customer: Customer, rps: float, seconds: float, senders: int
) -> list[Outcome]:
    """Generates the load and returns every outcome."""
    calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
    results = Results()
    threads = [Sender(url, host, calls, results) for _ in range(senders)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    next_report, reported = start + 1, 0
    for call in customer.calls(rps, seconds, start):
        time.sleep(max(0.0, call.due - time.monotonic()))
        calls.put(call)
        if call.due >= next_report:
            outcomes = results.snapshot()
            _progress(next_report - start, outcomes[reported:])
            next_report, reported = next_report + 1, len(outcomes)
    for _ in threads:
        calls.put(None)
    for thread in threads:
        thread.join()
    return results.snapshot()


def report(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """The summary of a run."""
    versions = sorted({outcome.version for outcome in outcomes})
    return {
        "seconds": round(seconds, 3),
        **_summary(outcomes),
        "rps": round(len(outcomes) / seconds, 1) if seconds else 0,
        "versions": {v: _summary([o for o in outcomes if o.version == v]) for v in versions},
        "operations": {
            name: _summary([o for o in outcomes if o.operation == name])
            for name in OPERATIONS
            if any(o.operation == name for o in outcomes)
        },
    }


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def _summary(outcomes: list[Outcome]) -> dict[str, Any]:
    ordered = sorted(outcome.seconds for outcome in outcomes)
    marks = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {
        "requests": len(outcomes),
        "failed": sum(outcome.failed for outcome in outcomes),
        "statuses": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        "latency_ms": {
            name: round(percentile(ordered, mark) * 1000, 2) for name, mark in marks.items()
        }
        if ordered
        else {},
    }


def _progress(second: float, outcomes: list[Outcome]) -> None:
    summary = _summary(outcomes)
    p99 = summary["latency_ms"].get("p99", 0)
    line = f"{second:4.0f} s  {len(outcomes):5} answers  {summary['failed']:4} failed  p99 {p99} ms"
    print(line, file=sys.stderr, flush=True)


def _offered_products(url: str, host: str | None) -> list[str]:
    client = Client(url, host)
    status, _ = client.send("GET", "/products")
    if status != "200":
        raise SystemExit(f"load: GET {url}/products answered {status}, expected 200")
    return [product["id"] for product in json.loads(client.body)["products"]]


def _mix(text: str) -> dict[str, int]:
    mix = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        if name not in OPERATIONS or not weight.isdecimal():
            raise argparse.ArgumentTypeError(
                f"{part!r}: write NAME=WEIGHT with NAME one of {', '.join(OPERATIONS)}"
            )
        mix[name] = int(weight)
    if not any(mix.values()):
        raise argparse.ArgumentTypeError("at least one weight must be above 0")
    return mix


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Open-loop load for the shop.")
    parser.add_argument("url", help="base URL, for example http://127.0.0.1:8080")
    parser.add_argument("--host", help="Host header, as the Ingress expects it")
    parser.add_argument("--rps", type=float, default=50, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10, help="duration")
    parser.add_argument("--mix", type=_mix, default="browse=3,product=1,checkout=6")
    parser.add_argument("--work-ms", type=int, default=20, help="processor time of one `work` call")
    parser.add_argument("--senders", type=int, default=64, help="most requests under way at once")
    parser.add_argument("--seed", type=int, default=1, help="the same seed sends the same calls")
    options = parser.parse_args()
    if options.rps <= 0 or options.seconds <= 0 or options.senders < 1:
        parser.error("--rps, --seconds and --senders must be positive")
    return options


def main() -> None:
    """Command line."""
    options = _options()
    needs_products = options.mix.get("product") or options.mix.get("checkout")
    products = _offered_products(options.url, options.host) if needs_products else []
    customer = Customer(products, options.mix, options.work_ms, options.seed)
    started = time.monotonic()
    outcomes = run(
        options.url, options.host, customer, options.rps, options.seconds, options.senders
    )
    print(json.dumps(report(outcomes, time.monotonic() - started), indent=2))


if __name__ == "__main__":
    main()
