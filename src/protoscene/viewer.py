"""The report page on loopback, for whoever knows its address: a server of one page.

The address holds a token, so that neither another user of the machine nor a web page that is open
in the same browser can read the scene. Nothing is looked up on disk: there is one page, in memory.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs, urlsplit

from protoscene.report import Page

TOKEN_BYTES = 24
MAX_HEAD_BYTES = 16_384
"""Of a request; a browser sends about one thousand."""
MAX_CONNECTIONS = 16
CONNECTION_SECONDS = 20.0
"""All the time that a connection has, however slowly it speaks or listens."""
POLL_SECONDS = 0.25


class Viewer(ThreadingMixIn, TCPServer):
    """Serves ``page`` at ``url`` on 127.0.0.1 and a free port, from construction to exit.

    A context manager; :meth:`serve` answers. Only GET and HEAD of that very address are answered
    with the page; a foreign Host or Origin and a wrong token are 403, another path 404.
    """

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS
    timeout = POLL_SECONDS

    def __init__(self, page: Page) -> None:
        self.page = page
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self.deadlines: dict[socket.socket, float] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def hosts(self) -> tuple[str, str]:
        """By which names a browser may ask; any other is a name that was made to point here."""
        port = self.server_address[1]
        return f"127.0.0.1:{port}", f"localhost:{port}"

    @property
    def url(self) -> str:
        return f"http://{self.hosts[0]}/?token={self.token}"

    def serve(self, check: Callable[[], None]) -> None:
        """Answers until ``check``, called several times a second, raises."""
        while True:
            check()
            self._end_late()
            self.handle_request()

    def _end_late(self) -> None:
        now = time.monotonic()
        for connection, deadline in tuple(self.deadlines.items()):
            if now > deadline:
                with contextlib.suppress(OSError):  # closed by its own thread meanwhile
                    connection.shutdown(socket.SHUT_RDWR)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self.deadlines) < MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self.deadlines[request] = time.monotonic() + CONNECTION_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whatever broke off ends its own connection and is nobody else's business."""


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, and the connection is closed."""

    server: Viewer
    timeout = CONNECTION_SECONDS
    default_request_version = "HTTP/1.0"  # not 0.9, whose answers have no head
    request_version, requestline, command = default_request_version, "", ""

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = self.connection.recv(4096)
            if not received:
                return
            head += received
            if len(head) > MAX_HEAD_BYTES:
                self._say(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if self.parse_request():
            self._say(*self._outcome())

    def _outcome(self) -> tuple[HTTPStatus, bool]:
        """The status, and whether the page comes with it."""
        if self.command not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, False
        hosts = self.headers.get_all("Host", [])
        origins = self.headers.get_all("Origin", [])
        known = {f"http://{host}" for host in self.server.hosts}
        if len(hosts) != 1 or hosts[0] not in self.server.hosts or not known.issuperset(origins):
            return HTTPStatus.FORBIDDEN, False
        address = urlsplit(self.path)
        tokens = parse_qs(address.query).get("token", [])
        if len(tokens) != 1 or not _same(tokens[0], self.server.token):
            return HTTPStatus.FORBIDDEN, False
        if self.path != f"/?{address.query}":
            return HTTPStatus.NOT_FOUND, False
        return HTTPStatus.OK, True

    def _say(self, status: HTTPStatus, with_page: bool = False) -> None:
        page = self.server.page
        body = page.html.encode() if with_page else f"{status.value} {status.phrase}\n".encode()
        policy = page.policy if with_page else "default-src 'none'"
        self.send_response(status)
        for name, value in {
            "Content-Type": f"text/{'html' if with_page else 'plain'}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Connection": "close",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of a request that cannot be parsed: nothing of it is repeated."""
        self._say(HTTPStatus(code))

    def version_string(self) -> str:
        return "protoscene"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the terminal is for what the user asked."""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())
