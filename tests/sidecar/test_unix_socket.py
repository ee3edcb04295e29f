"""A socket left over is taken, one that somebody serves is not."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import unix_socket
from sidecar.errors import ConfigError
from sidecar.server import GrpcServer


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:  # short: a socket's path has a limit
        yield Path(folder) / "one.sock"


def test_nothing_is_there(path: Path) -> None:
    unix_socket.take(path)
    assert not path.exists()


def test_what_nobody_serves_goes(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    unix_socket.take(path)
    assert not path.exists()


def test_what_somebody_serves_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(path))
        served.listen()
        with pytest.raises(OSError, match="another process serves there"):
            unix_socket.take(path)
        assert path.exists()


async def test_a_second_server_is_told_so(path: Path) -> None:
    first, second = GrpcServer([], listen=f"unix://{path}"), GrpcServer([], listen=f"unix://{path}")
    await first.start()
    try:
        with pytest.raises(ConfigError, match="another process serves there"):
            await second.start()
        assert path.exists()
    finally:
        await first.stop(0)


def test_the_next_servers_socket_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(path))
        ours = unix_socket.mark(path)
    unix_socket.take(path)
    with socket.socket(socket.AF_UNIX) as second:
        second.bind(str(path))
        unix_socket.leave(path, ours)
        assert path.exists()
        unix_socket.leave(path, None)
        assert path.exists()
        unix_socket.leave(path, unix_socket.mark(path))
    assert not path.exists()
    unix_socket.leave(path, ours)


async def test_a_server_that_stops_leaves_the_next_ones_socket(path: Path) -> None:
    first = GrpcServer([], listen=f"unix://{path}")
    await first.start()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as second:
        second.bind(str(path))
        await first.stop(0)
        assert path.exists()
