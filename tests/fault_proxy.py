"""A small HTTP proxy between an S3 client and a real server, on loopback, that breaks what it is told to break.

Requests go through unchanged, with their Host and signature, so that a server which checks signatures accepts them.
`inject` arms a fault for the next requests of a method whose target contains a text; `seen` tells what came and what
was done to it. Faults of a request:

    403, 409, …    answered so by the proxy; the server never sees the request
    cut_request    the connection is closed before anything is forwarded
    torn_request   half of the body is forwarded, then both connections are closed
    lost_answer    the server does it all, the answer never arrives
    late_answer    the same, and the connection stays open until the client gives up
    old_answer     the answer's Date is that of a clock an hour behind
    cut_answer     half of the answer's body arrives, then the connection is closed
    flipped_bit    one bit of the answer's body is another one
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import http.client
import http.server
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

REFUSALS = {
    "403": "AccessDenied",
    "409": "ConditionalRequestConflict",
    "500": "InternalError",
    "503": "SlowDown",
}
TRANSIENT = ("500", "503", "cut_request", "torn_request", "lost_answer", "cut_answer")
_HOUR = datetime.timedelta(hours=1)
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}  # of one connection, or set anew


@dataclass
class Fault:
    """Armed for `left` requests more; None: for all."""

    kind: str
    method: str
    target: str
    left: int | None


class Seen(NamedTuple):
    """A request that came by, and the fault it met, or ""."""

    method: str
    target: str
    fault: str


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class FaultProxy:
    """Forwards to `server` (an endpoint URL)."""

    server: str
    endpoint: str = ""
    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, kind: str, method: str, target: str = "", times: int | None = 1) -> None:
        """Break the next `times` requests (None: every one until `clear`) of this method to a target."""
        self.faults.append(Fault(kind, method, target, times))

    def clear(self) -> None:
        self.faults.clear()
        self.seen.clear()

    def met(self) -> list[str]:
        """The faults that requests met, in order."""
        return [seen.fault for seen in self.seen if seen.fault]

    def take(self, method: str, target: str) -> str:
        """The fault of this request, or ""; counts it."""
        with self._lock:
            for fault in self.faults:
                if fault.left != 0 and fault.method == method and fault.target in target:
                    fault.left = None if fault.left is None else fault.left - 1
                    self.seen.append(Seen(method, target, fault.kind))
                    return fault.kind
            self.seen.append(Seen(method, target, ""))
            return ""


@contextlib.contextmanager
def fault_proxy(server: str, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
    """A running proxy in front of an endpoint, on an address of this machine. tls: what it answers https:// with."""
    proxy = FaultProxy(server)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server((host, 0), handler) as listener:
        proxy.endpoint = f"http{'s' * (tls is not None)}://{host}:{listener.server_port}"
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            listener.shutdown()
            thread.join()


class _Server(http.server.ThreadingHTTPServer):
    """That a client was killed, or the server has ended, is no error of the proxy."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, http.client.HTTPException, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        fault = self.proxy.take(self.command, self.path)
        if fault == "cut_request":
            self._cut()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault in REFUSALS:
            self._refuse(int(fault))
        elif fault == "torn_request":
            self._forward(body, len(body) // 2)
            self._cut()
        else:
            self._answer(self._forward(body, len(body)), fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def _forward(self, body: bytes, length: int) -> Answer:
        """Send the request with the first `length` bytes of its body; the answer, if that was all of it."""
        connection = http.client.HTTPConnection(urlsplit(self.proxy.server).netloc, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            connection.send(body[:length])
            if length < len(body):
                return Answer(0, [], b"")
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _answer(self, answer: Answer, fault: str) -> None:
        if fault == "late_answer":
            self.proxy.closing.wait(10)
        if fault in ("lost_answer", "late_answer"):
            self._cut()
            return
        body = _flipped(answer.body) if fault == "flipped_bit" else answer.body
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if fault == "old_answer" and name.lower() == "date":
                value = email.utils.format_datetime(email.utils.parsedate_to_datetime(value) - _HOUR)
            if name.lower() not in _HOP or (name.lower() == "content-length" and self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and answer.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut_answer" else body)
        if fault == "cut_answer":
            self._cut()

    def _refuse(self, status: int) -> None:
        code = REFUSALS[str(status)]
        body = f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client may have gone first
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
