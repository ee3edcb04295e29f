"""What the commands make of whoever answers where a gateway should."""

from __future__ import annotations

import contextlib
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


DRAINS, SERVES = http(b'{"draining": true}'), http(b'{"draining": false}')


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"-ERR unknown command\r\n", NoAnswerError, "does not speak HTTP"),
        (b"", NoAnswerError, "RemoteDisconnected"),
        (http(b"<html>"), NoAnswerError, "Expecting value"),
        (http(b"[1]"), NoAnswerError, "neither a gateway"),
        (http(b"\xff"), NoAnswerError, "codec can't decode"),
        (http(b"{}", b"404 Not Found"), RefusedError, "HTTP 404 Not Found"),
        (http(b'{"error": "no"}', b"503 Busy"), RefusedError, "^no$"),
        (http(b'{"a": 1}')[:-3], NoAnswerError, "IncompleteRead"),
    ],
)
def test_whatever_answers_there_is_said(answer: bytes, error: type[Exception], words: str) -> None:
    with answering(answer) as address, pytest.raises(error, match=words):
        ask(admin_url(address, "/status"), patience=5)


@pytest.mark.parametrize("admin", ["unix:///run/admin.sock", "file:///etc/passwd"])
def test_only_http_is_spoken(admin: str) -> None:
    with pytest.raises(NoAnswerError, match="write host:port"):
        ask(admin_url(admin, "/status"), patience=5)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with answering(SERVES) as address:
        assert ask(admin_url(address, "/status"), patience=5) == {"draining": False}


@pytest.mark.parametrize("written", ["{}", "http://{}", "http://{}/"])
def test_the_admin_port_may_be_a_url(written: str) -> None:
    with answering(SERVES) as address:
        found = CliRunner().invoke(app, ["status", "--json", "--admin", written.format(address)])
    assert found.exit_code == 0
    assert '"draining": false' in found.output


@pytest.mark.parametrize("command", [["status"], ["cache", "stats"], ["cache", "purge", "--all"]])
def test_a_command_that_asks_somebody_else_says_so(command: list[str]) -> None:
    with answering(b"-ERR unknown command\r\n") as address:
        found = CliRunner().invoke(app, [*command, "--admin", address])
    assert found.exit_code == 1
    assert f"no gateway answers at http://{address}/" in found.output


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
    assert said == [f"waiting: a gateway that drains has {address} (--admin)"]


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


def test_a_free_address_is_not_talked_about() -> None:
    until_free("admin", f"127.0.0.1:{free_port()}", pytest.fail)
