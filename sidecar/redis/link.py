"""One Redis server, kept connected: what is asked within one loop tick goes out in one write.

    never asked -> connecting -> connected -> (lost) -> connecting at once -> down -> connecting after a pause -> ...

While it connects for the first time, or at once after a loss, requests wait for it: they were never sent. While it
is down they fail at once. A request that was sent is never sent again, whatever became of its reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from hiredis import ReplyError

from sidecar.errors import StoreError
from sidecar.redis.backoff import Backoff
from sidecar.redis.connection import Connection
from sidecar.redis.errors import again, code, store_error
from sidecar.redis.request import Command, Request
from sidecar.redis.transport import Session, open_connection
from sidecar.redis.url import Address

_log = structlog.get_logger("redis")
MAX_IN_FLIGHT = 4_096
_STEADY = 1.0  # seconds that a connection must have lived for the next attempt to be made at once
_GRACE = 0.001  # seconds after a deadline: a loop that was held up reads first what has come in time

Resolve = Callable[[], Awaitable[Address]]
Redirect = Callable[["Link", Request, ReplyError], None]


@dataclass(frozen=True, slots=True)
class LinkState:
    """How a server is connected. `since` is in unix seconds, `reconnects` counts connections after the first.

    `in_flight` are requests not yet answered; `error` is why it is not connected, empty when it is.
    """

    address: str
    connected: bool
    since: float
    reconnects: int
    in_flight: int
    error: str


class Link:
    """One server. `resolve` says where it is, before every attempt.

    At most `max_in_flight` requests are unanswered at a time. `on_redirect` gets a cluster's MOVED and ASK;
    `on_down` is called when a connection or an attempt has failed. Every `recheck` seconds `resolve` is asked again,
    and a server that has moved is followed; without it only a connection that is lost, or a READONLY, has it asked.
    """

    clustered = False

    def __init__(
        self,
        resolve: Resolve,
        session: Session,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_redirect: Redirect | None = None,
        on_down: Callable[[], None] = lambda: None,
        recheck: float | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolve = resolve
        self._session = session
        self._max = max_in_flight
        self._on_redirect = on_redirect
        self._on_down = on_down
        self._recheck = recheck
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._unsent: list[Request] = []  # of this tick
        self._held: deque[tuple[float, list[Request]]] = deque()  # until it connects or may write again
        self._held_count = 0
        self._attempt: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: StoreError | None = None  # why requests fail at once
        self._closed = False
        self._reported = False  # that it is not connected
        self._address: Address | None = None
        self._since = clock()
        self._connections = 0

    def send(self, request: Request) -> None:
        """Send `request` with all others of this loop tick. Raises `StoreError` when it is refused: not sent."""
        if self._refusal is not None:
            self._refuse()
        connection, unsent = self._connection, self._unsent
        if len(unsent) + self._held_count + (0 if connection is None else len(connection.owed)) >= self._max:
            raise StoreError(f"Redis: {self._max} requests are in flight", transient=True)
        if not unsent:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._flush)
        unsent.append(request)

    def add_prelude(self, *command: str | bytes) -> None:
        """Send `command` on every new connection, whatever Redis says to it."""
        session = self._session
        self._session = dataclasses.replace(session, prelude=(*session.prelude, command))

    async def ping(self) -> None:
        """Raise `StoreError` when the server does not answer."""
        command = Command("PING")
        self.send(command)
        try:
            await command
        except ReplyError as reply:
            raise store_error(reply) from None

    async def close(self) -> None:
        """Fail what is in flight, and let go of the connection. A closed link refuses everything."""
        error = StoreError("Redis: closed", transient=False)
        self._closed, self._refusal = True, error
        for timer in (self._retry, self._timer):
            if timer is not None:
                timer.cancel()
        if self._connection is not None:
            self._connection.end(error)
            self._connection = None
        self._fail_unsent(error)
        running = [task for task in (self._attempt, self._checking) if task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        await asyncio.sleep(0)  # the transport closes in the loop's next turn

    @property
    def state(self) -> LinkState:
        """A picture of the moment."""
        connection = self._connection
        in_flight = len(self._unsent) + self._held_count + (0 if connection is None else len(connection.owed))
        return LinkState(
            "" if self._address is None else str(self._address),
            connection is not None,
            self._since,
            max(0, self._connections - 1),
            in_flight,
            "" if self._refusal is None or connection is not None else str(self._refusal),
        )

    async def masters(self) -> tuple[Link, ...]:
        """Itself."""
        return (self,)

    @property
    def nodes(self) -> tuple[LinkState, ...]:
        """`state`, in the shape that a cluster has."""
        return (self.state,)

    @property
    def host(self) -> str:
        """The host that it was last looked for at."""
        return "" if self._address is None else self._address.host

    # requests

    def _refuse(self) -> None:
        """Fail a request at once, unless an attempt is due: then it starts, and the request waits for it."""
        assert self._refusal is not None
        # Not the loop's own time, which may stand still while the loop is held up.
        if self._retry is not None and not self._closed and time.monotonic() >= self._retry_at:
            self._retry.cancel()
            self._connect()
            return
        raise again(self._refusal)

    def _flush(self) -> None:
        if not self._unsent:
            return
        assert self._loop is not None
        requests, self._unsent = self._unsent, []
        deadline = self._loop.time() + self._session.timeout
        connection = self._connection
        if connection is not None and not connection.paused:
            connection.write(requests, deadline)
        else:
            self._held.append((deadline, requests))
            self._held_count += len(requests)
            if connection is None and self._attempt is None:
                self._backoff.delay()  # this attempt is the first
                self._connect()
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._due)

    def _release(self) -> None:
        """Send what was held."""
        while self._held and self._connection is not None and not self._connection.paused:
            deadline, requests = self._held.popleft()
            self._held_count -= len(requests)
            self._connection.write(requests, deadline)

    def _fail_unsent(self, error: StoreError) -> None:
        unsent, self._unsent = self._unsent, []
        held, self._held, self._held_count = self._held, deque(), 0
        for requests in (*(requests for _, requests in held), unsent):
            for request in requests:
                request.fail(error)

    def _reply_error(self, request: Request, reply: ReplyError) -> None:
        word = code(reply)
        if word in ("MOVED", "ASK") and self._on_redirect is not None:
            self._on_redirect(self, request, reply)
            return
        request.answer(reply)
        if word == "READONLY" and self._connection is not None:
            # It is a replica now: whoever is the master is found by connecting again.
            self._leave(self._connection, store_error(reply))

    # time

    def _due(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(_GRACE, self._expire)

    def _expire(self) -> None:
        assert self._loop is not None
        self._timer = None
        now = self._loop.time()
        while self._held and self._held[0][0] <= now:
            _, requests = self._held.popleft()
            self._held_count -= len(requests)
            error = StoreError("Redis: not sent in time", transient=True)
            for request in requests:
                request.fail(error)
            if self._connection is None and self._refusal is None:
                self._refusal = error  # who comes now need not find out again
        if self._connection is not None:
            self._connection.expire(now)
        deadlines = [] if self._connection is None else [self._connection.deadline]
        if self._held:
            deadlines.append(self._held[0][0])
        waiting = [deadline for deadline in deadlines if deadline is not None]
        if waiting:
            self._timer = self._loop.call_at(min(waiting), self._due)

    # the connection

    def _connect(self) -> None:
        assert self._loop is not None
        self._retry = None
        self._attempt = self._loop.create_task(self._try())

    async def _try(self) -> None:
        try:
            address = await self._resolve()
            self._address = address
            connection = await open_connection(
                address,
                self._session,
                lambda: Connection(self._reply_error, self._lost, self._release, self._session.timeout),
            )
        except StoreError as error:
            self._attempt = None
            self._report(error)
            self._down(error)
            return
        except Exception as error:
            # Whatever it is, it must not be the last attempt.
            _log.exception("redis_attempt_broke")
            self._attempt = None
            self._down(StoreError(f"Redis: {type(error).__name__}", transient=True))
            return
        self._attempt = None
        if self._reported:
            self._reported = False
            _log.info("redis_connected", address=str(address))
        self._connection = connection
        self._connections += 1
        self._since = self._clock()
        self._refusal = None
        self._release()
        if self._recheck is not None:
            assert self._loop is not None
            self._checking = self._loop.create_task(self._keep_checking(connection, address, self._recheck))

    async def _keep_checking(self, connection: Connection, address: Address, seconds: float) -> None:
        moved = address
        while moved == address:
            await asyncio.sleep(seconds)
            with contextlib.suppress(StoreError):  # who does not know does not say that it has moved
                moved = await self._resolve()
        if connection is self._connection:
            self._leave(connection, StoreError(f"Redis: {address} is no longer the master", transient=True))

    def _leave(self, connection: Connection, error: StoreError) -> None:
        connection.end(error)
        self._lost(connection, error)

    def _lost(self, connection: Connection, error: StoreError) -> None:
        if connection is not self._connection:
            return  # it was lost in its handshake, which says so itself
        assert self._loop is not None
        self._connection = None
        self._report(error)
        if self._checking is not None:
            self._checking.cancel()
        self._since = self._clock()
        if self._loop.time() - connection.made_at >= _STEADY:
            self._backoff.reset()
        self._down(error, wait=not connection.stalled)

    def _report(self, error: StoreError) -> None:
        """One line when it goes, and one when it is back: not one for every attempt."""
        if not self._reported:
            self._reported = True
            _log.warning("redis_lost", address="" if self._address is None else str(self._address), reason=str(error))

    def _down(self, error: StoreError, *, wait: bool = False) -> None:
        """Plan the next attempt. What was never sent may wait for one that is made at once."""
        if self._closed:
            return
        assert self._loop is not None
        delay = self._backoff.delay()
        if delay or not wait:
            self._refusal = error
            self._fail_unsent(error)
        if delay:
            self._retry, self._retry_at = self._loop.call_later(delay, self._connect), time.monotonic() + delay
        else:
            self._connect()
        self._on_down()
