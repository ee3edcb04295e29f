"""The ports fail as they say."""

from __future__ import annotations

import socket
import ssl

import pytest

from tests.faults.ports import RefusingPort, SilentPort, untrusted


def test_a_refusing_port_refuses_and_is_taken() -> None:
    with RefusingPort() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port.port), timeout=5)
    with RefusingPort() as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port.port))


def test_a_silent_port_takes_everything_and_says_nothing() -> None:
    with SilentPort() as port, socket.create_connection(("127.0.0.1", port.port), timeout=0.2) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_full_port_takes_no_connection() -> None:
    with SilentPort(full=True) as port, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port.port), timeout=0.3)


def test_nobody_trusts_the_certificate() -> None:
    with untrusted() as provider, socket.create_connection(("127.0.0.1", provider.provider.port), timeout=5) as plain:
        assert provider.base_url.startswith("https://")
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
        assert len(provider.requests) == 0
