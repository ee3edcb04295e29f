"""Engines, and channels to servers of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from sidecar.options import ServerOptions
from sidecar.server import Engine
from tests.sidecar.certificates import Authority
from tests.sidecar.contract import ENGINES, Client, Seen, serving


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


@pytest.fixture
async def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def client(seen: Seen, engine: Engine, tmp_path: Path) -> AsyncIterator[Client]:
    """A client over a unix socket: where the way does not matter."""
    options = [("grpc.max_receive_message_length", -1)]
    async with (
        serving(seen, engine, f"unix://{tmp_path}/s.sock") as server,
        grpc.aio.insecure_channel(server.address, options=options) as channel,
    ):
        yield Client(channel)


@pytest.fixture(params=["unix", "tcp", "tls", "mtls"])
async def any_client(
    request: pytest.FixtureRequest, seen: Seen, engine: Engine, tmp_path: Path, authority: Authority
) -> AsyncIterator[Client]:
    """A client over every way there is."""
    options, secure = ServerOptions(), None
    if request.param in ("tls", "mtls"):
        mutual = request.param == "mtls"
        options = replace(options, tls=authority.server_files(tmp_path, client_ca=authority if mutual else None))
        certificate, key = authority.sign("client") if mutual else (None, None)
        secure = grpc.ssl_channel_credentials(authority.pem, key, certificate)
    listen = f"unix://{tmp_path}/s.sock" if request.param == "unix" else "127.0.0.1:0"
    async with serving(seen, engine, listen, options) as server:
        made = grpc.aio.secure_channel(server.address, secure) if secure else grpc.aio.insecure_channel(server.address)
        async with made as channel:
            yield Client(channel)
