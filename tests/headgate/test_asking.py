"""What the commands make of whoever answers where a gateway should."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from headgate.asking import NoAnswerError, RefusedError, admin_url, ask
from headgate.cli import app
from headgate.up.addresses import until_free
from sidecar.errors import ConfigError
from tests.gateway import free_port


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """Somebody who gives these answers, one per connection, the last one ever again, until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        left = list(answers)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as peer:
                        peer.recv(65_536)
                        peer.sendall(left.pop(0) if len(left) > 1 else left[0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body)


FOREIGN = (
    b"{}",
    b'{"config": null, "version": 1, "models": [1], "counters": 1, "before": 1}',
    b'{"config": "x", "counters": [1], "before": [1]}',
    b'{"config": {}, "version": 1, "targets": {"m": [{"provider": 1}]}, "counters": [{}], "before": [{}]}',
    b'{"store": "x", "models": {"m": {}}, "counters": [{"limit": 1}], "before": [{"limit": 1}], "steps": [1]}',
)
DRAINS, SERVES = (
    http(b'{"draining": %s, "version": "1", "config": {}, "targets": {}}' % one) for one in (b"true", b"false")
)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"-ERR unknown command\r\n", NoAnswerError, "does not speak HTTP"),
        (b"", NoAnswerError, "Remote end closed connection without response"),
        (http(b"<html>"), NoAnswerError, "is not JSON"),
        (http(b"[1]"), NoAnswerError, "is not a gateway"),
        (http(b"\xff"), NoAnswerError, "is not JSON"),
        (http(b"[" * 100_000), NoAnswerError, "is not JSON"),
        (http(b"{}", b"404 Not Found"), RefusedError, "HTTP 404 Not Found"),
        (http(b'{"error": "no"}', b"503 Busy"), RefusedError, "^no$"),
        (
            http(b'{"error": {"message": "no key", "code": "x"}}', b"401 No"),
            RefusedError,
            "^no key .is this the port for requests",
        ),
        (http(b'{"a": 1}')[:-3], NoAnswerError, "IncompleteRead"),
    ],
)
def test_whatever_answers_there_is_said(answer: bytes, error: type[Exception], words: str) -> None:
    with answering(answer) as address, pytest.raises(error, match=words):
        ask(admin_url(address, "/status"), patience=5)


@pytest.mark.parametrize(
    ("admin", "words"),
    [
        ("unix:///run/admin.sock", "write host:port"),
        ("file:///etc/passwd", "write host:port"),
        ("localhost:abc", "nonnumeric port: 'abc'"),
        ("[::1:9901", "Invalid IPv6 URL"),
        ("http://", "write host:port"),
        ("HTTP://127.0.0.1:1", "Connection refused"),
        ("a b:1", "control characters"),
    ],
)
def test_what_is_no_address_is_said(admin: str, words: str) -> None:
    with pytest.raises(NoAnswerError, match=words):
        ask(admin_url(admin, "/status"), patience=5)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering(SERVES) as address:
        assert ask(admin_url(address, "/status"), patience=5)["draining"] is False


@pytest.mark.parametrize("written", ["{}", "http://{}", "http://{}/"])
def test_the_admin_port_may_be_a_url(written: str) -> None:
    with answering(SERVES) as address:
        found = CliRunner().invoke(app, ["status", "--json", "--admin", written.format(address)])
    assert found.exit_code == 0
    assert '"draining": false' in found.output


@pytest.mark.parametrize("command", [["status"], ["cache", "stats"], ["cache", "purge", "--all"]])
@pytest.mark.parametrize("answer", [b"-ERR unknown command\r\n", *map(http, FOREIGN)])
def test_a_command_that_asks_somebody_else_says_so(command: list[str], answer: bytes) -> None:
    with answering(answer) as address:
        found = CliRunner().invoke(app, [*command, "--admin", address])
    assert (found.exit_code, found.exc_info and found.exc_info[0]) == (1, SystemExit)
    assert f"no gateway answers at http://{address}/" in found.output


@pytest.mark.parametrize("command", ["explain", "inspect", "credit", "reset"])
@pytest.mark.parametrize("answer", [b"-ERR unknown command\r\n", *map(http, FOREIGN)])
def test_an_operator_that_asks_somebody_else_is_told_so(command: str, answer: bytes) -> None:
    more = ["--hits", "1"] if command == "credit" else []
    with answering(answer) as address:
        asked = ["ratelimit", command, "user=a", "--domain", "d", *more, "--url", address]
        found = CliRunner().invoke(app, asked)
    assert (found.exit_code, found.exc_info and found.exc_info[0]) == (1, SystemExit)
    assert f"{address}: cannot be asked: what answers" in found.output


def test_brackets_are_shown_as_they_are() -> None:
    cache = http(b'{"store": "memory", "[bold]a": "[/bold]"}')
    with answering(cache) as address:
        found = CliRunner().invoke(app, ["cache", "stats", "--admin", address])
    assert "[bold]a  [/bold]" in found.output


def test_a_gateway_that_drains_is_waited_for() -> None:
    said: list[str] = []
    ended: list[float] = []
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(answering(DRAINS))

        def end() -> None:
            time.sleep(2.6)  # longer than others are waited for
            ended.append(time.monotonic())
            stack.close()

        thread = threading.Thread(target=end)
        thread.start()
        until_free("admin", address, said.append)
        assert time.monotonic() > ended[0]
        thread.join()
    assert said == [
        f"waiting: somebody has {address} (--admin)",
        f"waiting: a gateway that drains has {address} (--admin)",
    ]


def test_an_address_is_waited_for_a_moment() -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        address = "{}:{}".format(*taken.getsockname())
        threading.Timer(0.3, taken.close).start()
        until_free("listen", address, said.append)
    assert said == [f"waiting: somebody has {address} (--listen)"]


def test_a_gateway_that_serves_keeps_its_address() -> None:
    with (
        answering(SERVES) as address,
        pytest.raises(ConfigError, match=f"cannot bind {address}: Address already in use"),
    ):
        until_free("admin", address, lambda _: None)


@pytest.mark.parametrize("address", ["203.0.113.1:8080", "nosuch.invalid:80", "[::1:9901"])
def test_what_is_no_address_of_ours_is_not_waited_for(address: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot bind {re.escape(address)}"):
        until_free("admin", address, pytest.fail)


def test_only_the_admin_port_is_asked_whether_it_drains() -> None:
    with answering(DRAINS) as address, pytest.raises(ConfigError, match="already in use"):
        until_free("listen", address, lambda _: None)


def test_a_free_address_is_not_talked_about() -> None:
    until_free("admin", f"127.0.0.1:{free_port()}", pytest.fail)
