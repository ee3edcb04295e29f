"""Redis URLs: what they say, checked without touching a network or a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from sidecar.addresses import ip_address

_PORT = 6379
_SENTINEL_PORT = 26379
_MEND = "write redis://host:6379/0 or unix:///path"
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Topology(Enum):
    """How the servers of a URL belong together."""

    SINGLE = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis": (Topology.SINGLE, False),
    "rediss": (Topology.SINGLE, True),
    "unix": (Topology.SINGLE, False),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}
SCHEMES = tuple(f"{name}://" for name in _SCHEMES)


class Address(NamedTuple):
    """Where a server listens: host and port, or the path of a unix socket with port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are. An empty user is the `default` one; without a password nothing is sent."""

    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How a `rediss` connection is made; the names are redis-py's. Empty paths: the system's authorities, no
    certificate of our own."""

    ca_certs: str = ""
    certfile: str = ""
    keyfile: str = ""
    password: str = field(default="", repr=False)
    cert_reqs: str = "required"  # or "optional", "none"
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL means. `addresses` are the server's one, the sentinels' or some of the cluster's nodes.

    `timeout` and `connect_timeout` are in seconds, None where the URL names none.
    """

    topology: Topology
    addresses: tuple[Address, ...]
    service: str = ""
    credentials: Credentials = Credentials()
    sentinel_credentials: Credentials = Credentials()
    database: int = 0
    tls: TlsOptions | None = None
    client_name: str = "headgate"
    timeout: float | None = None
    connect_timeout: float | None = None


def parse(url: str) -> Target:
    """Read a Redis URL.

    Raises `ValueError` with `what is wrong | what to write`; it never holds more of the URL than its scheme,
    because any part may hold a piece of a password that was not percent-encoded.
    """
    # By hand: newer Pythons, and mended older ones, refuse to split several hosts of which one is an IPv6 address.
    url = url.strip()
    if not url.isprintable():
        raise _wrong("it holds control characters")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(f"not a Redis URL: its scheme is unknown | use one of {', '.join(SCHEMES)}")
    topology, secure = _SCHEMES[scheme]
    if "#" in rest:
        raise _wrong("'#' is written %23")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    user_info, _, hosts = authority.rpartition("@")
    username, _, password = user_info.partition(":")
    options = _Options(query)
    path = unquote(slash + path)
    service = ""
    addresses: tuple[Address, ...]
    if scheme == "unix":
        if not path.strip("/") or hosts:
            raise ValueError("a unix socket needs a path | write unix:///run/redis.sock")
        addresses, path = (Address(path, 0),), ""
    else:
        addresses = _addresses(hosts, _SENTINEL_PORT if topology is Topology.SENTINEL else _PORT)
    if topology is Topology.SENTINEL:
        service, _, path = path.removeprefix("/").partition("/")
        if not service:
            raise ValueError("Sentinel needs a service | write redis+sentinel://host:26379,host:26379/service/0")
    elif topology is Topology.SINGLE and len(addresses) > 1:
        raise _wrong("several hosts are redis+sentinel:// or redis+cluster://")
    target = Target(
        topology,
        addresses,
        service,
        Credentials(
            unquote(username) or options.text("username"),
            unquote(password) or options.text("password"),
        ),
        Credentials(options.text("sentinel_username"), options.text("sentinel_password")),
        options.number("db", path.strip("/") or "0"),
        options.tls() if secure else None,
        options.text("client_name", "headgate"),
        options.seconds("socket_timeout"),
        options.seconds("socket_connect_timeout"),
    )
    options.end()
    if target.database and topology is Topology.CLUSTER:
        raise ValueError("a cluster has only database 0 | leave the number out")
    if target.credentials.username and not target.credentials.password:
        raise _wrong("a user needs a password")
    return target


def _wrong(what: str) -> ValueError:
    return ValueError(f"not a Redis URL: {what} | {_MEND}")


def _addresses(hosts: str, default_port: int) -> tuple[Address, ...]:
    return tuple(_address(one, default_port) for one in hosts.split(","))


def _address(text: str, default_port: int) -> Address:
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not isinstance(ip_address(host), IPv6Address):
            raise _wrong("what stands in brackets is an IPv6 address")
    elif not {":", "[", "]"}.isdisjoint(host):
        raise _wrong("an IPv6 address stands in brackets, ':' and '@' in a password are %3A and %40")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
        raise _wrong("the port is not a number up to 65535")
    return Address(unquote(host) or "localhost", int(port))


class _Options:
    """The query of a URL. What nobody asked for is an error in the end."""

    def __init__(self, query: str) -> None:
        self._values = dict(parse_qsl(query, keep_blank_values=True))

    def text(self, name: str, default: str = "") -> str:
        return self._values.pop(name, default)

    def number(self, name: str, default: str) -> int:
        value = self.text(name, default)
        if not (value.isascii() and value.isdigit()):
            raise _wrong("the database is not a number")
        return int(value)

    def seconds(self, name: str) -> float | None:
        value = self.text(name)
        if not value:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= 60:
            raise _wrong(f"{name} is seconds, up to 60")
        return seconds

    def tls(self) -> TlsOptions:
        requirement = self.text("ssl_cert_reqs", "required")
        if requirement not in ("required", "optional", "none"):
            raise _wrong("ssl_cert_reqs is required, optional or none")
        check = self.text("ssl_check_hostname", "true").lower()
        if check not in _TRUE + _FALSE:
            raise _wrong("ssl_check_hostname is true or false")
        return TlsOptions(
            self.text("ssl_ca_certs"),
            self.text("ssl_certfile"),
            self.text("ssl_keyfile"),
            self.text("ssl_password"),
            requirement,
            check in _TRUE,
        )

    def end(self) -> None:
        if any(name.startswith("ssl_") for name in self._values):
            raise _wrong(
                "ssl_ parameters belong to rediss://, and there are ca_certs, certfile, keyfile, password, ..."
            )
        if self._values:
            raise _wrong("it has a parameter that is not known")
