"""Opens connections: TCP, unix sockets and TLS, with the handshake that every Redis connection begins with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hiredis import ReplyError

from sidecar.errors import StoreError
from sidecar.redis.connection import Connection
from sidecar.redis.errors import code, store_error
from sidecar.redis.request import Command
from sidecar.redis.url import Address, Credentials, TlsOptions
from sidecar.tls import trusting

_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True, slots=True)
class Session:
    """What a connection is made with. `prelude` is sent after the handshake, its replies are not looked at.

    `timeout` (seconds) is a reply's, `connect_timeout` that of connecting and the handshake together.
    """

    credentials: Credentials = field(default_factory=Credentials)
    database: int = 0
    client_name: str = ""
    tls: ssl.SSLContext | None = None
    timeout: float = 0.1
    connect_timeout: float = 0.5
    master: bool = False  # a server that says it is no master is refused
    prelude: tuple[tuple[str | bytes, ...], ...] = field(default=(), repr=False)


def tls_context(options: TlsOptions) -> ssl.SSLContext:
    """Read the certificates. Raises `ValueError` (`what | mend`) when a file cannot be used."""
    try:
        context = trusting(options.ca_certs or None)
        if options.certfile or options.keyfile:
            context.load_cert_chain(options.certfile or options.keyfile, options.keyfile or None, options.password)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or type(error).__name__
        raise ValueError(
            f"Redis' TLS certificates cannot be used: {reason} | check ssl_ca_certs, ssl_certfile, "
            "ssl_keyfile and ssl_password"
        ) from None
    context.check_hostname = options.check_hostname and options.cert_reqs == "required"
    context.verify_mode = {
        "required": ssl.CERT_REQUIRED,
        "optional": ssl.CERT_OPTIONAL,
        "none": ssl.CERT_NONE,
    }[options.cert_reqs]
    return context


async def open_connection(address: Address, session: Session, make: Callable[[], Connection]) -> Connection:
    """A connection that is ready for requests. Raises `StoreError`; what was half made is closed."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout(session.connect_timeout):
            connection = await _connect(address, session, make)
            await _handshake(connection, session)
    except TimeoutError:
        raise _given_up(connection, StoreError(f"Redis: {address} does not answer", transient=True)) from None
    except ssl.SSLCertVerificationError as error:
        text = f"Redis: the certificate of {address} is not trusted ({error.verify_message})"
        raise _given_up(connection, StoreError(text, transient=False)) from None
    except OSError as error:
        text = f"Redis: {address} cannot be reached ({error.strerror or type(error).__name__})"
        raise _given_up(connection, StoreError(text, transient=True)) from None
    except UnicodeError:
        raise StoreError(f"Redis: {address.host!r} is no name of a host", transient=False) from None
    except (StoreError, asyncio.CancelledError):
        _given_up(connection, StoreError("Redis: not connected", transient=True))
        raise
    return connection


async def ask(address: Address, session: Session, *command: str) -> Any:
    """One reply over a connection of its own. Raises `StoreError`."""
    lost: list[StoreError] = []
    connection = await open_connection(
        address,
        session,
        lambda: Connection(
            lambda request, reply: request.answer(reply),
            lambda _, error: lost.append(error),
            lambda: None,
            session.timeout,
        ),
    )
    try:
        async with asyncio.timeout(session.connect_timeout):
            return await _call(connection, command)
    except TimeoutError:
        raise StoreError(f"Redis: {address} does not answer", transient=True) from None
    except ReplyError as reply:
        raise store_error(reply) from None
    finally:
        connection.end(StoreError("Redis: closed", transient=True))


async def _connect(address: Address, session: Session, make: Callable[[], Connection]) -> Connection:
    loop = asyncio.get_running_loop()
    if not address.port:
        _, connection = await loop.create_unix_connection(make, address.host)
        return connection
    transport, connection = await loop.create_connection(
        make, address.host, address.port, ssl=session.tls, server_hostname=address.host if session.tls else None
    )
    _keep_alive(transport.get_extra_info("socket"))
    return connection


def _keep_alive(stream: socket.socket) -> None:
    """An idle connection whose peer has gone without a word is noticed within a minute, where the system can."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        with contextlib.suppress(AttributeError, OSError):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _call(connection: Connection, command: Sequence[str | bytes]) -> Command:
    request = Command(*command)
    connection.write((request,), 0)
    return request


async def _handshake(connection: Connection, session: Session) -> None:
    """AUTH, SELECT, ROLE and CLIENT SETNAME in one round trip.

    Raises `StoreError`: for good when who we are, or where we want to count, is refused.
    """
    who, steps = session.credentials, []
    if who.password:
        steps.append(("AUTH", *((who.username,) if who.username else ()), who.password))
    if session.database:
        steps.append(("SELECT", str(session.database)))
    if session.master:
        steps.append(("ROLE",))
    steps.append(("CLIENT", "SETNAME", session.client_name))
    steps.extend(session.prelude)
    requests = [Command(*step) for step in steps]
    connection.write(requests, 0)
    replies = await asyncio.gather(*requests, return_exceptions=True)
    for step, reply in zip(steps, replies, strict=True):
        if isinstance(reply, StoreError):
            raise reply
        if isinstance(reply, ReplyError):
            refused = _refused(step, reply, session)
            if refused is not None:
                raise refused
        elif step == ("ROLE",) and (not isinstance(reply, list) or reply[:1] != [b"master"]):
            raise StoreError("Redis: the server is not the master", transient=True)


def _refused(step: Sequence[str | bytes], reply: ReplyError, session: Session) -> StoreError | None:
    """What an error reply to a step means; None when we can do without."""
    error = store_error(reply)
    word = code(reply)
    if error.transient or "max number of clients" in str(reply):
        return StoreError(str(error), transient=True)
    if step[0] == "AUTH" or word == "NOAUTH":
        # Some proxies answer with the command that they do not know: the text may hold the password.
        what = "wants a password" if not session.credentials.password else "refuses the user or the password"
        return StoreError(f"Redis {what} ({word})", transient=False)
    return error if step[0] == "SELECT" or word == "DENIED" else None


def _given_up(connection: Connection | None, error: StoreError) -> StoreError:
    if connection is not None:
        connection.end(error)
    return error
