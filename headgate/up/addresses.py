"""The addresses that `headgate up` needs for itself: free, or soon given back by the gateway that ran here before."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

from headgate.asking import NoAnswerError, RefusedError, admin_url, ask
from headgate.settings import split_address
from sidecar.errors import ConfigError, Problem

_GIVEN_BACK_SECONDS = 2.0
_POLL_SECONDS = 0.05
_ANSWER_SECONDS = 3.0  # longer than a gateway waits for a worker of its own that hangs


def check_free(name: str, address: str) -> None:
    """Raise `ConfigError` when the address cannot be bound: somebody else has it, or it is not of this machine."""
    error = _refusal(address)
    if error is not None:
        raise _cannot_bind(name, address, error) from error


def until_free(name: str, address: str, announce: Callable[[str], None]) -> None:
    """Return when the address is free. Raises `ConfigError` when somebody keeps it, or it cannot be bound at all.

    A gateway that was just killed or told to stop is waited for as long as its admin port says that it drains (then its
    `drain_timeout` bounds that); anybody else has two seconds to go.
    """
    deadline = time.monotonic() + _GIVEN_BACK_SECONDS
    told = ""
    while (error := _refusal(address)) is not None:
        now = time.monotonic()
        # Asked from the second time on: an answer may take a while, and the user knows by then what is waited for.
        drains = name == "admin" and error.errno == errno.EADDRINUSE and told != "" and _drains(address)
        if drains:
            deadline = time.monotonic() + _GIVEN_BACK_SECONDS
        elif error.errno != errno.EADDRINUSE or now >= deadline:
            raise _cannot_bind(name, address, error) from error
        whose = "a gateway that drains" if drains else "somebody"
        if told != whose:
            announce(f"waiting: {whose} has {address} (--{name})")
            told = whose
        time.sleep(_POLL_SECONDS)


def _refusal(address: str) -> OSError | None:
    """Why the address cannot be bound; None when it can."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _cannot_bind(name: str, address: str, error: OSError) -> ConfigError:
    mend = f"free it, or choose another with --{name} HOST:PORT"
    return ConfigError([Problem(name, "", f"cannot bind {address}: {error.strerror}", mend)])


def _drains(address: str) -> bool:
    """Whether a gateway's admin port answers there and says that it drains."""
    try:
        status = ask(admin_url(address, "/status"), patience=_ANSWER_SECONDS)
    except (RefusedError, NoAnswerError):
        return False
    return status.get("draining") is True
