"""The page on loopback: who may read it, who is turned away, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protoscene import viewer
from protoscene.report import Page
from protoscene.store import save_scene
from protoscene.viewer import Viewer
from report_scenes import toy_scene

SOURCE = str(Path(__file__).resolve().parent.parent / "src")
SECRET = "the scene itself"
PAGE = Page(f"<!doctype html><p>{SECRET}</p>", "default-src 'none'")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Viewer]:
    monkeypatch.setattr(viewer, "POLL_SECONDS", 0.02)
    ended = threading.Event()

    def check() -> None:
        if ended.is_set():
            raise KeyboardInterrupt

    with Viewer(PAGE) as serving:
        serving.timeout = 0.02

        def work() -> None:
            with contextlib.suppress(KeyboardInterrupt):
                serving.serve(check)

        thread = threading.Thread(target=work)
        thread.start()
        yield serving
        ended.set()
        thread.join()


def port(serving: Viewer) -> int:
    return int(serving.server_address[1])


def said(serving: Viewer, data: bytes) -> bytes:
    """All that is answered to ``data``, until the server closes the connection."""
    answer = b""
    place = ("127.0.0.1", port(serving))
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(place, timeout=10) as connection,
    ):
        connection.sendall(data)
        while received := connection.recv(65536):
            answer += received
    return answer


def asked(
    serving: Viewer, target: str | None = None, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body."""
    target = f"/?token={serving.token}" if target is None else target
    lines = {"Host": f"127.0.0.1:{port(serving)}"} | headers
    head = f"{method} {target} HTTP/1.1\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    head, _, body = said(serving, head.encode("latin-1") + b"\r\n").partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    assert SECRET.encode() not in body or " 200 " in first
    return int(first.split()[1]), dict(line.split(": ", 1) for line in rest), body


def test_who_has_the_address_gets_the_page_and_its_rules(served: Viewer) -> None:
    assert served.url == f"http://127.0.0.1:{port(served)}/?token={served.token}"
    code, headers, body = asked(served)
    assert (code, body) == (200, PAGE.html.encode())
    assert headers["Content-Security-Policy"] == f"{PAGE.policy}; frame-ancestors 'none'"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Server"] == "protoscene" and "Access-Control-Allow-Origin" not in headers
    own = [f"127.0.0.1:{port(served)}", f"localhost:{port(served)}"]
    assert [asked(served, Host=host)[0] for host in own] == [200, 200]
    assert [asked(served, Origin=f"http://{host}")[0] for host in own] == [200, 200]
    code, headers, body = asked(served, method="HEAD")
    assert (code, headers["Content-Length"], body) == (200, str(len(PAGE.html)), b"")


def test_each_server_has_a_token_of_192_bits_of_its_own() -> None:
    tokens = set()
    for _ in range(3):
        with Viewer(PAGE) as serving:
            tokens.add(serving.token)
    assert len(tokens) == 3 and {len(token) for token in tokens} == {32}


@pytest.mark.parametrize(
    "query",
    [
        "", "?", "?token", "?token=", "?TOKEN={t}", "?token={wrong}", "?token={short}",
        "?token={t}x", "?token=x{t}", "?token={t}%00", "?token={t}&token={wrong}",
        "?token={wrong}&token={t}", "?token=%FF%FE", "#token={t}", "?x={t}",
    ],
)  # fmt: skip
def test_without_the_token_there_is_nothing(served: Viewer, query: str) -> None:
    token = served.token
    wrong = ("A" if token[0] != "A" else "B") + token[1:]
    code, _, body = asked(served, "/" + query.format(t=token, wrong=wrong, short=token[:-1]))
    assert (code, body) == (403, b"403 Forbidden\n")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{p}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{p}",
     "localhost", "0.0.0.0:{p}", "[::1]:{p}", "127.0.0.1:{p}@evil.example", ""],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(served: Viewer, host: str) -> None:
    assert asked(served, Host=host.format(p=port(served)))[0] == 403


def test_a_request_names_its_host_once(served: Viewer) -> None:
    own = f"Host: 127.0.0.1:{port(served)}\r\n"
    for hosts in ("", own + own, own + "Host: evil.example\r\n"):
        request = f"GET /?token={served.token} HTTP/1.1\r\n{hosts}\r\n"
        assert said(served, request.encode()).startswith(b"HTTP/1.0 403 ")


@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", "http://evil.example:{p}", "http://127.0.0.1",
     "https://127.0.0.1:{p}", "http://127.0.0.1:{p}.evil.example", "file://", ""],
)  # fmt: skip
def test_a_foreign_page_is_refused(served: Viewer, origin: str) -> None:
    assert asked(served, Origin=origin.format(p=port(served)))[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../scene.json", "/..", "/./", "//", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/%252e%252e/etc/passwd", "/..%2f..%2fetc/passwd", "/..%5c..%5cetc", "/..\\..\\etc\\passwd",
        "/etc/passwd", "//etc/passwd", "/C:\\Windows\\win.ini", "/scene.json%00.html", "/%00",
        "/..;/etc/passwd", "/%c0%ae%c0%ae/etc/passwd", "etc/passwd", "file:///etc/passwd",
        "http://evil.example/", "*", "/index.html", "/favicon.ico",
    ],
)  # fmt: skip
def test_there_is_no_other_path(served: Viewer, path: str) -> None:
    code, _, body = asked(served, f"{path}?token={served.token}")
    if path == "//":  # http.server's own remedy: the same address as /
        assert (code, body) == (200, PAGE.html.encode())
    else:
        assert (code, body) == (404, b"404 Not Found\n")


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "EVIL"]
)
def test_nothing_but_reading(served: Viewer, method: str) -> None:
    assert asked(served, method=method)[0] == 405


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 150 + b"\r\n", 431),
        (b"GET <script>alert(1)</script> x HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 403),
    ],
)
def test_what_is_no_request_is_answered_in_our_words(
    served: Viewer, request_: bytes, code: int
) -> None:
    answer = said(served, request_)
    assert not answer or answer.startswith(b"HTTP/1.0 %d " % code)
    assert b"script>" not in answer and (answer or len(request_) > 20_000)
    assert asked(served)[0] == 200


def test_more_than_a_few_at_once_are_not_let_in(served: Viewer) -> None:
    place = ("127.0.0.1", port(served))
    idle = [socket.create_connection(place, timeout=10) for _ in range(viewer.MAX_CONNECTIONS)]
    wait_until(lambda: len(served.deadlines) == viewer.MAX_CONNECTIONS)
    assert said(served, f"GET {served.url} HTTP/1.1\r\n\r\n".encode()) == b""
    for connection in idle:
        connection.close()
    wait_until(lambda: not served.deadlines)
    assert asked(served)[0] == 200


def test_a_byte_now_and_then_does_not_keep_a_connection(
    served: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "CONNECTION_SECONDS", 0.5)
    place = ("127.0.0.1", port(served))
    with socket.create_connection(place, timeout=10) as slow, contextlib.suppress(OSError):
        ends = time.monotonic() + 10
        while True:
            slow.sendall(b"X")
            assert time.monotonic() < ends
            time.sleep(0.05)
    wait_until(lambda: not served.deadlines)


def wait_until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def listening(number: int) -> set[str]:
    """Local addresses (hex, as in /proc/net/tcp) on which any process listens at this port."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                if state == "0A" and int(local.split(":")[1], 16) == number:
                    found.add(local.split(":")[0])
    return found


def test_the_command_serves_on_loopback_until_it_is_interrupted(tmp_path: Path) -> None:
    save_scene(toy_scene(), tmp_path / "scene")
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "protoscene.cli", "view", str(tmp_path / "scene")]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        address = re.fullmatch(r"url: http://127\.0\.0\.1:(\d+)(/\?token=[\w-]{32})\n", line)
        assert address, (line, process.stderr)
        number = int(address[1])
        assert listening(number) == {"0100007F"}
        with socket.create_connection(("127.0.0.1", number), timeout=20) as connection:
            head = f"GET {address[2]} HTTP/1.1\r\nHost: 127.0.0.1:{number}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(15) == b"HTTP/1.0 200 OK"
            process.send_signal(signal.SIGINT)  # in the middle of an answer
            _, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "protoscene: report\nprotoscene: error: interrupted\n"
    assert listening(number) == set()
    assert sorted(tmp_path.rglob("*")) == before
