"""envoyproxy/ratelimit's Redis variables as one URL that `open_store` takes.

`REDIS_URL` is what that service takes there: `host:port` or the path of a socket (SINGLE),
`master,host:port,host:port` (SENTINEL), `host:port,host:port` (CLUSTER), each host also as
`redis://user:password@host:port/db`. One whole URL of ours (`rediss://…`, `redis+cluster://…`, …) is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlencode, urlsplit

from ratelimit.standalone.variables import Variables
from sidecar.redis import SCHEMES, parse
from sidecar.redis.url import Topology

_SOCKET = "/var/run/nutcracker/ratelimit{}.sock"  # envoyproxy/ratelimit's default
_TOPOLOGIES = {one.name.lower(): one.name for one in Topology}
_LONGEST_TIMEOUT = 60.0  # of one round trip, in seconds


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of TLS to Redis; both Redises share them."""

    certificate: str
    key: str
    authority: str
    any_name: bool

    def parameters(self) -> dict[str, str]:
        """As parameters of the URL."""
        named = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key, "ssl_ca_certs": self.authority}
        return {
            **{name: value for name, value in named.items() if value},
            **({"ssl_check_hostname": "false"} if self.any_name else {}),
        }


def certificates(read: Variables) -> Certificates:
    """What REDIS_TLS_… names."""
    return Certificates(
        read.text("REDIS_TLS_CLIENT_CERT"),
        read.text("REDIS_TLS_CLIENT_KEY"),
        read.text("REDIS_TLS_CACERT"),
        read.flag("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION"),
    )


class _Wrong(Exception):
    """The URL cannot be used: message and mend. Never holds a part of it, for any part may be a password's."""

    def __init__(self, message: str, mend: str) -> None:
        self.message, self.mend = message, mend
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class _Server:
    """One server as REDIS_URL names it."""

    host: str
    user: str = ""
    password: str = ""
    database: str = ""


def redis_url(read: Variables, prefix: str, files: Certificates) -> str:
    """The URL of the Redis whose variables begin with `prefix` (`REDIS_` or `REDIS_PERSECOND_`).

    What is wrong becomes a problem of `read`; no problem and no warning holds a secret.
    """
    topology = Topology[read.choice(f"{prefix}TYPE", "single", _TOPOLOGIES)]
    default = _SOCKET.format("persecond" if prefix == "REDIS_PERSECOND_" else "")
    text = read.text(f"{prefix}URL", default).strip()
    kind = read.choice(f"{prefix}SOCKET_TYPE", "unix", {"unix": "unix", "tcp": "tcp", "tls": "tls"})
    kind = kind if read.given(f"{prefix}SOCKET_TYPE") else ""
    secure = read.flag(f"{prefix}TLS") or kind == "tls"
    login = _login(read.text(f"{prefix}AUTH"))
    sentinel_login = _login(read.text(f"{prefix}SENTINEL_AUTH"))
    parameters = _timeouts(read, f"{prefix}TIMEOUT")
    try:
        url = _whole(text, login) or _composed(
            topology, text, kind, secure or text.startswith("rediss://"), login, sentinel_login, parameters, files
        )
        parse(url)
    except _Wrong as wrong:
        read.wrong(f"{prefix}URL", wrong.message, wrong.mend)
        return ""
    except ValueError as error:
        message, _, mend = str(error).partition(" | ")
        read.wrong(f"{prefix}URL", message, mend)
        return ""
    return url


def _login(text: str) -> tuple[str, str]:
    """`password` or `user:password`."""
    user, separator, password = text.partition(":")
    return (user, password) if separator else ("", text)


def _timeouts(read: Variables, name: str) -> dict[str, str]:
    """Without the variable the client's own count: a decision that comes after seconds is worth nothing to Envoy."""
    seconds = read.seconds(name, 0.0)
    if not seconds:
        return {}
    if seconds > _LONGEST_TIMEOUT:
        read.warnings.append(f"{name} is more than {_LONGEST_TIMEOUT:g} s: it counts as that")
        seconds = _LONGEST_TIMEOUT
    return {"socket_timeout": f"{seconds:.6f}", "socket_connect_timeout": f"{seconds:.6f}"}


def _whole(text: str, login: tuple[str, str]) -> str:
    """The text when it is one URL of ours; empty when it has to be composed."""
    if not text.startswith(SCHEMES) or text.startswith("redis://"):
        return ""
    if text.startswith("rediss://") and "," not in text and "?" not in text:
        return ""  # certificates and login come from the other variables
    if any(login):
        raise _Wrong("the URL says who logs in, and so does the AUTH variable", "keep one of them")
    return text


def _composed(
    topology: Topology,
    text: str,
    kind: str,
    secure: bool,
    login: tuple[str, str],
    sentinel_login: tuple[str, str],
    parameters: dict[str, str],
    files: Certificates,
) -> str:
    first, *others = text.split(",")
    if topology is Topology.SINGLE:
        if others:
            raise _Wrong("it names several servers", "set the TYPE variable to SENTINEL or CLUSTER, or name one")
        if _is_socket(first, kind):
            return _unix(first, secure, login, parameters)
        servers, path = [_server(first)], ""
    elif topology is Topology.SENTINEL:
        if not others or not first.strip():
            raise _Wrong("there is no sentinel in it", "write master,host:26379,host:26379")
        servers, path = [_server(one) for one in others], quote(first.strip(), safe="") + "/"
        asked = sentinel_login if any(sentinel_login) else (servers[0].user, servers[0].password)
        parameters |= {
            name: value for name, value in zip(("sentinel_username", "sentinel_password"), asked, strict=True) if value
        }
    else:
        servers, path = [_server(one) for one in (first, *others)], ""
    own = servers[0] if topology is not Topology.SENTINEL else _Server("")
    user, password = login if any(login) else (own.user, own.password)
    if topology is Topology.SINGLE:
        path = own.database
    scheme = f"redis{'s' if secure else ''}{'+' if topology.value else ''}{topology.value}"
    if secure:
        parameters |= files.parameters()
    hosts = ",".join(server.host for server in servers)
    return f"{scheme}://{_user_info(user, password)}{hosts}/{path}{_query(parameters)}"


def _is_socket(text: str, kind: str) -> bool:
    if kind == "unix" and not text.startswith("/"):
        raise _Wrong("it is no path, and the SOCKET_TYPE variable says unix", "write /path, or SOCKET_TYPE=tcp")
    if kind in ("tcp", "tls") and text.startswith("/"):
        raise _Wrong(
            "it is a path, and the SOCKET_TYPE variable says otherwise", "write host:port, or SOCKET_TYPE=unix"
        )
    return text.startswith("/")


def _unix(path: str, secure: bool, login: tuple[str, str], parameters: dict[str, str]) -> str:
    if secure:
        raise _Wrong("there is no TLS over a unix socket", "leave the TLS variable out")
    return f"unix://{_user_info(*login)}{quote(path)}{_query(parameters)}"


def _server(text: str) -> _Server:
    text = text.strip()
    if not text:
        raise _Wrong("a server has no name", "write host:port")
    if "://" not in text:
        if "@" in text or "/" in text:
            raise _Wrong("a server is not host:port", "write host:port, and who logs in into the AUTH variable")
        return _Server(text)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise _Wrong("a server's URL cannot be read", "write redis://host:port") from None
    if parts.scheme not in ("redis", "rediss"):
        raise _Wrong("a server's URL has an unknown scheme", "write redis://host:port")
    if parts.query or parts.fragment:
        raise _Wrong("a server's URL has parameters", "write redis://user:password@host:port/db")
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    return _Server(host, unquote(user), unquote(password), parts.path.strip("/"))


def _user_info(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""


def _query(parameters: dict[str, str]) -> str:
    return f"?{urlencode(parameters)}" if parameters else ""
