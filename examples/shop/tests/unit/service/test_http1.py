"""HTTP messages: complete, partial, pipelined and broken ones."""

import unittest
from http import HTTPStatus

from shop.http1 import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    ProtocolError,
    Request,
    Response,
    encode_response,
    parse_request,
)

POST = b"POST /cart/ann?dry=1&dry=2 HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody"


class ParseTest(unittest.TestCase):
    def test_reads_a_whole_request(self):
        request = parse_request(bytearray(POST))
        headers = {"host": "shop", "content-length": "4"}
        self.assertEqual(
            request, Request("POST", "/cart/ann", {"dry": "1"}, headers, b"body", True)
        )

    def test_waits_for_every_missing_byte(self):
        for length in range(len(POST)):
            buffer = bytearray(POST[:length])
            self.assertIsNone(parse_request(buffer))
            self.assertEqual(len(buffer), length)

    def test_takes_pipelined_requests_one_by_one(self):
        buffer = bytearray(POST + b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(parse_request(buffer).method, "POST")
        self.assertEqual(parse_request(buffer).method, "GET")
        self.assertEqual(buffer, b"")

    def test_keep_alive(self):
        for version, connection, wanted in (
            ("1.1", "", True),
            ("1.1", "Connection: close\r\n", False),
            ("1.0", "", False),
            ("1.0", "Connection: Keep-Alive\r\n", True),
        ):
            with self.subTest(version=version, connection=connection):
                text = f"GET / HTTP/{version}\r\n{connection}\r\n"
                self.assertEqual(parse_request(bytearray(text.encode())).keep_alive, wanted)

    def test_refuses(self):
        large = MAX_BODY_BYTES + 1
        self.refuses(b"HELLO\r\n\r\n", HTTPStatus.BAD_REQUEST)
        self.refuses(b"GET / HTTP/2.0\r\n\r\n", HTTPStatus.BAD_REQUEST)
        self.refuses(b"GET //[ HTTP/1.1\r\n\r\n", HTTPStatus.BAD_REQUEST)
        self.refuses(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", HTTPStatus.BAD_REQUEST)
        self.refuses(b"GET / HTTP/1.1\r\nName : x\r\n\r\n", HTTPStatus.BAD_REQUEST)
        self.refuses(self.with_header("Content-Length: -1"), HTTPStatus.BAD_REQUEST)
        self.refuses(
            self.with_header("Content-Length: 1\r\nContent-Length: 2"), HTTPStatus.BAD_REQUEST
        )
        self.refuses(self.with_header("Transfer-Encoding: chunked"), HTTPStatus.LENGTH_REQUIRED)
        self.refuses(
            self.with_header(f"Content-Length: {large}"), HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        )
        self.refuses(b"x" * MAX_HEAD_BYTES, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def with_header(self, header):
        return f"POST / HTTP/1.1\r\n{header}\r\n\r\n".encode()

    def refuses(self, data, status):
        with self.subTest(data=data[:60]), self.assertRaises(ProtocolError) as caught:
            parse_request(bytearray(data))
        self.assertEqual(caught.exception.status, status)


class EncodeTest(unittest.TestCase):
    def test_writes_length_and_connection(self):
        response = Response(HTTPStatus.OK, b"hi", "text/plain", {"X-Shop-Version": "1"})
        data = encode_response(response, keep_alive=False)
        head, _, body = data.partition(b"\r\n\r\n")
        self.assertEqual(body, b"hi")
        self.assertEqual(
            head.split(b"\r\n"),
            [
                b"HTTP/1.1 200 OK",
                b"Content-Type: text/plain",
                b"Content-Length: 2",
                b"X-Shop-Version: 1",
                b"Connection: close",
            ],
        )

    def test_head_has_the_length_but_not_the_body(self):
        data = encode_response(Response(HTTPStatus.OK, b"hi"), keep_alive=True, head_only=True)
        self.assertIn(b"Content-Length: 2", data)
        self.assertTrue(data.endswith(b"\r\n\r\n"))


if __name__ == "__main__":
    unittest.main()
