"""What Redis' error replies mean to us."""

from __future__ import annotations

from hiredis import ReplyError

from sidecar.errors import StoreError

# States of a server that pass by themselves. READONLY: it is no longer the master.
_TRANSIENT = frozenset(
    ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "BUSY", "NOREPLICAS")
)


def code(reply: ReplyError) -> str:
    """The first word of an error reply."""
    return str(reply).partition(" ")[0]


def store_error(reply: ReplyError) -> StoreError:
    """The error reply as ours."""
    return StoreError(f"Redis: {reply}", transient=code(reply) in _TRANSIENT)


def again(error: StoreError) -> StoreError:
    """The same error for one more waiter: an exception that is raised in many places gathers all their tracebacks."""
    return StoreError(str(error), transient=error.transient)
