"""What an operator may ask of a gRPC server's connections, whatever engine carries them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. They are read again when they change; connections that are open go on.

    `certificate` holds the server's certificate and, after it, its chain; `key` its private key, without a passphrase.
    With `client_ca` a client must show a certificate that one of those in this file has signed (mTLS), with
    `client_name` one that is also for this DNS name, IP address or URI (its subject alternative names).
    The native engine looks at the files every `check_every` seconds, grpcio before each handshake.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    check_every: float = 5.0
    client_name: str = ""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Times are seconds; 0 turns off what it belongs to.

    `max_connection_age` drains a connection after that time, give or take a tenth: the peer is told (GOAWAY), calls
    that are open go on, then it is closed. So calls spread anew when there are more servers than before. Calls that are
    still open `max_connection_age_grace` after that are cut.
    `keepalive_time` without a byte from the peer leads to a PING, `keepalive_timeout` without an answer to the end.
    `max_concurrent_streams` are open at once on one connection; more are refused, and safe to send again.
    """

    tls: Tls | None = None
    max_connection_age: float = 0.0
    max_connection_age_grace: float = 0.0
    keepalive_time: float = 300.0
    keepalive_timeout: float = 20.0
    max_concurrent_streams: int = 4_096

    def __post_init__(self) -> None:
        """Raises `ValueError` for what no server could do."""
        if (
            min(self.max_connection_age, self.max_connection_age_grace, self.keepalive_time) < 0
            or self.keepalive_timeout <= 0
        ):
            raise ValueError("times of a server are not negative, and keepalive_timeout is more than 0")
        if self.max_concurrent_streams < 1:
            raise ValueError("max_concurrent_streams is 1 or more")
