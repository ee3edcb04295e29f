"""The addresses that `headgate up` needs for itself: free, or soon given back by the gateway that ran here before."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from headgate.asking import NoAnswerError, RefusedError, admin_url, ask
from headgate.settings import split_address
from sidecar.errors import ConfigError, Problem

_GIVEN_BACK_SECONDS = 2.0
_POLL_SECONDS = 0.05
_ANSWER_SECONDS = 1.0


def check_free(name: str, address: str) -> None:
    """Raise `ConfigError` when somebody else has the address."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            mend = f"free it, or choose another with --{name} HOST:PORT"
            raise ConfigError([Problem(name, "", f"cannot bind {address}: {error.strerror}", mend)]) from error


def until_free(name: str, address: str, announce: Callable[[str], None]) -> None:
    """Return when the address is free. Raises `ConfigError` when somebody keeps it.

    A gateway that was just killed or told to stop is waited for as long as it says at this address that it drains
    (its own `drain_timeout` bounds that); anybody else has two seconds to go.
    """
    deadline = time.monotonic() + _GIVEN_BACK_SECONDS
    told = ""
    while True:
        try:
            return check_free(name, address)
        except ConfigError:
            drains = _drains(address)
            now = time.monotonic()
            if drains:
                deadline = now + _GIVEN_BACK_SECONDS
            elif now >= deadline:
                raise
        text = "a gateway that drains has" if drains else "somebody has"
        if text != told:
            announce(f"waiting: {text} {address} (--{name})")
            told = text
        time.sleep(_POLL_SECONDS)


def _drains(address: str) -> bool:
    """Whether a gateway's admin port answers there and says that it drains."""
    try:
        status = ask(admin_url(address, "/status"), patience=_ANSWER_SECONDS)
    except (RefusedError, NoAnswerError):
        return False
    return status.get("draining") is True
