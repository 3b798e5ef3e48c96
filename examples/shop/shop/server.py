"""Sockets and threads: receives requests, has a pool of workers answer them, and stops gracefully.

One loop thread owns every connection that waits for bytes and collects them into whole requests. A
bounded pool of workers answers them and gives each connection back. So idle or slow clients cost no
thread, and the loop knows at any time which connections still have something in flight.

    connection:  waiting (loop) -> complete request -> answering (worker) -> waiting | closed

Draining: stop accepting, answer what is in flight and what still arrives on open connections with
`Connection: close`, close connections idle for `IDLE_LINGER_SECONDS` (those with a request half
received are not idle), and return from `serve` once none is left or the grace period is over.
"""

from __future__ import annotations

import json
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from shop.http1 import ProtocolError, Request, Response, encode_response, parse_request

Handler = Callable[[Request], Response]

BACKLOG = 512
MAX_WAITING_REQUESTS = 512
SEND_TIMEOUT_SECONDS = 10.0
IDLE_TIMEOUT_SECONDS = 75.0
IDLE_LINGER_SECONDS = 1.0
TICK_SECONDS = 0.25

_BUSY = ProtocolError(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded: try again later")


class Connection:
    """A client's socket and the bytes received but not yet used."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.last_active = time.monotonic()

    def receive(self) -> bool:
        """Adds what has arrived to the buffer; False when the client is gone."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.buffer += data
        self.last_active = time.monotonic()
        return bool(data)

    def send(self, data: bytes) -> bool:
        """Sends everything; False when the client is gone or does not read."""
        try:
            self.sock.settimeout(SEND_TIMEOUT_SECONDS)
            self.sock.sendall(data)
            self.sock.setblocking(False)
        except OSError:
            return False
        self.last_active = time.monotonic()
        return True


class Server:
    """An HTTP/1.1 server around one handler."""

    def __init__(self, handler: Handler, host: str, port: int, workers: int) -> None:
        self._handler = handler
        self._workers = workers
        self._listener = _listen(host, port)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_out, selectors.EVENT_READ, self._drain_wakeups)
        self._waiting: set[Connection] = set()
        self._answering = 0
        self._requests: queue.Queue[tuple[Connection, Request] | None] = queue.Queue()
        self._answered: queue.SimpleQueue[tuple[Connection, bool]] = queue.SimpleQueue()
        self._draining = threading.Event()
        self._next_sweep = 0.0
        self.port: int = self._listener.getsockname()[1]

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Begins the graceful stop. May be called from a signal handler or any thread."""
        self._draining.set()
        self._wake()

    def serve(self, grace_seconds: float) -> bool:
        """Serves until drained; True if every request in flight could be finished."""
        threads = [
            threading.Thread(target=self._work, name=f"worker-{n}", daemon=True)
            for n in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        while not self.draining:
            self._turn()
            self._close_inactive(self._waiting, IDLE_TIMEOUT_SECONDS)
        self._stop_accepting()
        clean = self._finish(time.monotonic() + grace_seconds)
        for _ in threads:
            self._requests.put(None)
        self._close_all()
        return clean

    def _finish(self, deadline: float) -> bool:
        self._next_sweep = time.monotonic() + IDLE_LINGER_SECONDS
        while self._answering or self._waiting:
            if time.monotonic() >= deadline:
                return False
            self._turn()
            idle = {connection for connection in self._waiting if not connection.buffer}
            self._close_inactive(idle, IDLE_LINGER_SECONDS)
        return True

    def _turn(self) -> None:
        """Waits for events once and reacts to all of them."""
        for key, _ in self._selector.select(TICK_SECONDS):
            if isinstance(key.data, Connection):
                self._on_readable(key.data)
            else:
                key.data()
        while not self._answered.empty():
            self._on_answered(*self._answered.get())

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wait_for(Connection(sock))

    def _stop_accepting(self) -> None:
        self._accept()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _wait_for(self, connection: Connection) -> None:
        self._waiting.add(connection)
        self._selector.register(connection.sock, selectors.EVENT_READ, connection)

    def _on_readable(self, connection: Connection) -> None:
        if connection.receive():
            self._dispatch(connection)
        else:
            self._close(connection)

    def _on_answered(self, connection: Connection, usable: bool) -> None:
        self._answering -= 1
        if not usable:
            connection.sock.close()
            return
        self._wait_for(connection)
        self._dispatch(connection)

    def _dispatch(self, connection: Connection) -> None:
        """Hands a complete request to the workers; leaves the connection waiting otherwise."""
        try:
            request = parse_request(connection.buffer)
        except ProtocolError as error:
            self._refuse(connection, error)
            return
        if request is None:
            return
        if self._requests.qsize() >= MAX_WAITING_REQUESTS:
            self._refuse(connection, _BUSY)
            return
        self._forget(connection)
        self._answering += 1
        self._requests.put((connection, request))

    def _refuse(self, connection: Connection, error: ProtocolError) -> None:
        response = Response(error.status, json.dumps({"error": str(error)}).encode() + b"\n")
        try:
            connection.sock.send(encode_response(response, keep_alive=False))
        except OSError:
            pass  # The client is gone or does not read; the connection ends either way.
        self._close(connection)

    def _work(self) -> None:
        while (job := self._requests.get()) is not None:
            connection, request = job
            response = self._handler(request)
            keep_alive = request.keep_alive and not self.draining
            head_only = request.method == "HEAD"
            sent = connection.send(encode_response(response, keep_alive, head_only))
            self._answered.put((connection, sent and keep_alive))
            self._wake()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except OSError:
            pass  # The pipe is full: the loop is about to wake anyway. Or it has ended.

    def _drain_wakeups(self) -> None:
        self._wake_out.recv(4096)

    def _close_inactive(self, candidates: set[Connection], seconds: float) -> None:
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + TICK_SECONDS
        limit = now - seconds
        for connection in [c for c in candidates if c.last_active < limit]:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._forget(connection)
        connection.sock.close()

    def _forget(self, connection: Connection) -> None:
        self._waiting.discard(connection)
        self._selector.unregister(connection.sock)

    def _close_all(self) -> None:
        for connection in list(self._waiting):
            self._close(connection)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener
