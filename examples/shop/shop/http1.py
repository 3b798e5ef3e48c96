"""HTTP/1.1 messages: bytes to requests, responses to bytes. Pure: knows no sockets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, unquote, urlsplit

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (\S+) HTTP/1\.([01])")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")


class ProtocolError(Exception):
    """The bytes are no request this server takes. The connection cannot be used any further."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """One request, fully received."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True


@dataclass(frozen=True)
class Response:
    """One response, with its whole body."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def parse_request(buffer: bytearray) -> Request | None:
    """Takes one complete request off the front of `buffer`; None while more bytes are needed."""
    end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        if len(buffer) >= MAX_HEAD_BYTES:
            raise ProtocolError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request head too large"
            )
        return None
    request_line, _, rest = bytes(buffer[:end]).decode("latin-1").partition("\r\n")
    headers = _parse_headers(rest)
    body_start = end + 4
    body_end = body_start + _body_length(headers)
    if len(buffer) < body_end:
        return None
    request = _request(request_line, headers, bytes(buffer[body_start:body_end]))
    del buffer[:body_end]
    return request


def encode_response(response: Response, keep_alive: bool, head_only: bool = False) -> bytes:
    """The response on the wire."""
    lines = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if head_only else head + response.body


def _request(request_line: str, headers: dict[str, str], body: bytes) -> Request:
    match = _REQUEST_LINE.fullmatch(request_line)
    if match is None:
        raise ProtocolError(HTTPStatus.BAD_REQUEST, "malformed request line")
    method, target, minor = match.groups()
    try:
        url = urlsplit(target)
        query = parse_qs(url.query, keep_blank_values=True, max_num_fields=32)
    except ValueError as error:
        raise ProtocolError(HTTPStatus.BAD_REQUEST, "malformed request target") from error
    options = headers.get("connection", "").lower()
    keep_alive = "close" not in options if minor == "1" else "keep-alive" in options
    first = {name: values[0] for name, values in query.items()}
    return Request(method, unquote(url.path), first, headers, body, keep_alive)


def _parse_headers(text: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in text.split("\r\n") if text else []:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise ProtocolError(HTTPStatus.BAD_REQUEST, "malformed header")
        name, value = match.group(1).lower(), match.group(2)
        if headers.get(name, value) != value and name in ("content-length", "host"):
            raise ProtocolError(HTTPStatus.BAD_REQUEST, f"conflicting {name} headers")
        headers[name] = value
    return headers


def _body_length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise ProtocolError(HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise ProtocolError(HTTPStatus.BAD_REQUEST, "malformed Content-Length")
    length = int(text[:12])
    if length > MAX_BODY_BYTES:
        raise ProtocolError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body larger than {MAX_BODY_BYTES} bytes"
        )
    return length
