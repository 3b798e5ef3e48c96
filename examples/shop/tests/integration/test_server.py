"""The server on the wire: keep-alive, pipelining, broken clients, graceful stop, telemetry."""

import http.client
import json
import socket
import tempfile
import threading
import unittest
from pathlib import Path

from shop.config import BUNDLED_CATALOG
from tests.integration.running import DEADLINE_SECONDS, Collector, RunningShop, wait_for


class ServerTest(unittest.TestCase):
    def start(self, **env):
        shop = RunningShop(**env)
        self.addCleanup(shop.close)
        return shop

    def connect(self, shop):
        sock = socket.create_connection(("127.0.0.1", shop.port), DEADLINE_SECONDS)
        self.addCleanup(sock.close)
        return sock

    def test_one_connection_serves_many_requests(self):
        shop = self.start()
        connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=DEADLINE_SECONDS)
        self.addCleanup(connection.close)
        sockets = set()
        for _ in range(20):
            connection.request("GET", "/healthz")
            self.assertEqual(connection.getresponse().read(), b'{"status": "ok"}\n')
            sockets.add(connection.sock)
        self.assertEqual(len(sockets), 1)

    def test_pipelined_and_piecemeal_requests(self):
        sock = self.connect(self.start())
        sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 2 + b"GET /heal")
        sock.sendall(b"thz HTTP/1.1\r\nConnection: close\r\n\r\n")
        self.assertEqual(read_all(sock).count(b"HTTP/1.1 200 OK"), 3)

    def test_head_has_no_body(self):
        sock = self.connect(self.start())
        sock.sendall(b"HEAD /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
        self.assertTrue(read_all(sock).endswith(b"\r\n\r\n"))

    def test_broken_requests_end_their_connection_only(self):
        shop = self.start()
        for data, status in ((b"HELLO\r\n\r\n", b"400"), (b"x" * 20_000, b"431")):
            sock = self.connect(shop)
            sock.sendall(data)
            self.assertIn(b"HTTP/1.1 " + status, read_all(sock))
        self.assertEqual(shop.client.get("/healthz").status, 200)

    def test_idle_connections_take_no_worker(self):
        shop = self.start(WORKERS="1")
        for _ in range(50):
            self.connect(shop)
        self.assertEqual(shop.client.get("/healthz").status, 200)

    def test_parallel_customers_lose_nothing(self):
        shop = self.start()
        shop.wait_until_ready()
        body = {"product": "pencil", "quantity": 1}

        def fill():
            for _ in range(10):
                shop.client.post("/cart/shared/items", body)

        threads = [threading.Thread(target=fill) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        items = shop.client.get("/cart/shared").json()["items"]
        self.assertEqual(items[0]["quantity"], 80)

    def test_sigterm_finishes_requests_in_flight_and_on_open_connections(self):
        shop = self.start()
        shop.wait_until_ready()
        slow, half_sent = self.connect(shop), self.connect(shop)
        slow.sendall(b"GET /work?ms=1500 HTTP/1.1\r\n\r\n")
        half_sent.sendall(b"GET /readyz HT")
        wait_for(lambda: in_progress(shop) == 2, "the slow request to be under way")
        shop.terminate()
        wait_for(lambda: refuses_connections(shop.port), "the listener to close")
        half_sent.sendall(b"TP/1.1\r\n\r\n")
        late = read_all(half_sent)
        self.assertIn(b"HTTP/1.1 503", late)
        self.assertIn(b"Connection: close", late)
        self.assertIn(b"HTTP/1.1 200 OK", read_all(slow))
        self.assertEqual(shop.wait_for_exit(), 0)
        self.assertTrue(shop.wait_for_log("stopped")["clean"])

    def test_sigterm_does_not_wait_for_idle_connections(self):
        shop = self.start(DRAIN_SECONDS="600")
        sock = self.connect(shop)
        sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        self.assertIn(b"200 OK", sock.recv(4096))
        shop.terminate()
        self.assertEqual(shop.wait_for_exit(), 0)

    def test_sigterm_gives_up_when_the_grace_period_ends(self):
        shop = self.start(DRAIN_SECONDS="1")
        for _ in range(4):
            self.connect(shop).sendall(b"GET /work?ms=2000 HTTP/1.1\r\n\r\n")
        wait_for(lambda: in_progress(shop) == 5, "the slow requests to be under way")
        shop.terminate()
        self.assertEqual(shop.wait_for_exit(), 1)
        self.assertFalse(shop.wait_for_log("stopped")["clean"])

    def test_not_ready_until_the_catalogue_is_usable(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "catalog.json")
            shop = self.start(SHOP_CATALOG=str(path))
            shop.wait_for_log("configuration is not usable")
            self.assertEqual(shop.client.get("/readyz").status, 503)
            self.assertEqual(shop.client.get("/healthz").status, 200)
            path.write_text(BUNDLED_CATALOG.read_text())
            shop.wait_until_ready()

    def test_spans_reach_the_collector_and_are_flushed_at_the_end(self):
        collector = Collector()
        self.addCleanup(collector.close)
        shop = self.start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        shop.wait_until_ready()
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        body = json.dumps({"items": [{"product": "mug"}]}).encode()
        header = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        reply = shop.client.request("POST", "/checkout/ann", body, header)
        self.assertEqual(reply.status, 201)
        shop.terminate()
        self.assertEqual(shop.wait_for_exit(), 0)
        spans = [collector.spans.get_nowait() for _ in range(collector.spans.qsize())]
        names = [span["name"] for span in spans if span["traceId"] == trace]
        self.assertEqual(names, ["price order", "POST /checkout/{session}"])


def read_all(sock):
    data = bytearray()
    while chunk := sock.recv(4096):
        data += chunk
    return bytes(data)


def in_progress(shop):
    """Requests under way, the asking one included."""
    for line in shop.client.get("/metrics").text().splitlines():
        if line.startswith("shop_http_requests_in_progress "):
            return int(line.split()[1])
    return None


def refuses_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


if __name__ == "__main__":
    unittest.main()
