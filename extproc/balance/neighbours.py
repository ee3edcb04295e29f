"""The workers of one machine tell each other what they learn, by datagrams between unix sockets in a private folder.

They also hand on what belongs to another: Envoy sends its access log to any worker, and only the one that decided a
request counts it as in flight.

Best effort: a worker that is away, or too busy to read, misses what it is told; its own experience teaches it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from extproc.balance.board import Hear
from extproc.balance.notice import Notice
from sidecar import unix_socket

_AT_ONCE = 100  # notices or endings in one datagram: well below what a socket takes
_MOST_BYTES = 128 * 1024
_MOST_READS = 64  # datagrams, before others have their turn
_MOST_UNSENT = 64  # datagrams for one neighbour; the oldest are dropped
_RETRY_SECONDS = 0.05
_MOST_REASON = 200  # characters
_FULL = (errno.EAGAIN, errno.ENOBUFS)


class Ended(NamedTuple):
    """`requests` have ended whose first target was `cluster`, after about `seconds`."""

    cluster: str
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    requests: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


HearEnded: TypeAlias = Callable[[str, float, int], None]  # `Health.ended`


class _Message(msgspec.Struct, array_like=True):
    """One datagram."""

    notices: Sequence[Notice] = ()
    ended: Sequence[Ended] = ()


_DECODER = msgspec.json.Decoder(_Message)  # JSON, because it has no numbers that are not


class Neighbours:
    """A `Board` for worker `number` of `workers`, whose sockets are `health-N.sock` in `folder`."""

    def __init__(self, folder: Path, number: int, workers: int, hear: Hear, ended: HearEnded) -> None:
        self._path = folder / f"health-{number}.sock"
        self._number = number
        self._others = {other: str(folder / f"health-{other}.sock") for other in range(workers) if other != number}
        self._unsent: dict[int, deque[bytes]] = {other: deque(maxlen=_MOST_UNSENT) for other in self._others}
        self._hear = hear
        self._ended = ended
        self._socket: socket.socket | None = None
        self._mark: unix_socket.Mark | None = None
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen. Needs a running loop. Raises `OSError` when the folder is not private or cannot be used."""
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o022:
            raise PermissionError(errno.EPERM, "others may write to the folder of the workers' sockets", str(folder))
        self._path.unlink(missing_ok=True)  # of the worker that had this number before
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.setblocking(False)
        try:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                listening.setsockopt(socket.SOL_SOCKET, option, 2 * _MOST_BYTES)
            listening.bind(str(self._path))
            self._path.chmod(0o600)
        except OSError:
            listening.close()
            raise
        self._mark = unix_socket.mark(self._path)
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._readable)

    async def close(self) -> None:
        """Listen no more."""
        if self._retry is not None:
            self._retry.cancel()
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        unix_socket.leave(self._path, self._mark)

    def publish(self, notices: Sequence[Notice]) -> None:
        """Tell all neighbours. Never raises and never waits."""
        short = [notice._replace(reason=notice.reason[:_MOST_REASON]) for notice in notices]
        for start in range(0, len(short), _AT_ONCE):
            datagram = msgspec.json.encode(_Message(notices=short[start : start + _AT_ONCE]))
            for other in self._others:
                self._send(other, datagram)

    def ended(self, worker: int, endings: Sequence[Ended]) -> None:
        """Requests that `worker` decided have ended. Never raises and never waits."""
        if worker == self._number:
            for ending in endings:
                self._ended(*ending)
        elif worker in self._others:
            for start in range(0, len(endings), _AT_ONCE):
                self._send(worker, msgspec.json.encode(_Message(ended=endings[start : start + _AT_ONCE])))

    def _send(self, other: int, datagram: bytes) -> None:
        self._unsent[other].append(datagram)
        self._flush(other)

    def _flush(self, other: int) -> None:
        """Send what is unsent. A neighbour that is away is no error, one that is busy is tried again."""
        unsent = self._unsent[other]
        while unsent and self._socket is not None:
            try:
                self._socket.sendto(unsent[0], self._others[other])
            except OSError as error:
                if error.errno in _FULL:
                    self._try_again()
                    return
            unsent.popleft()

    def _try_again(self) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._flush_all)

    def _flush_all(self) -> None:
        self._retry = None
        for other in self._others:
            self._flush(other)

    def _readable(self) -> None:
        for _ in range(_MOST_READS):
            if self._socket is None:
                return
            try:
                datagram = self._socket.recv(_MOST_BYTES)
            except OSError:
                return  # all is read
            try:
                message = _DECODER.decode(datagram)
            except (msgspec.MsgspecError, UnicodeError):
                continue  # of another version, or cut short
            for notice in message.notices:
                self._hear(notice)
            for ending in message.ended:
                self._ended(*ending)
