"""TLS and mTLS on both engines: who is refused, files that change, files that cannot be used."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from sidecar.errors import ConfigError
from sidecar.options import ServerOptions, Tls
from sidecar.server import Engine, GrpcServer
from sidecar.tls import TlsFiles, trusting
from tests.sidecar.certificates import Authority
from tests.sidecar.contract import Client, Seen, code_of, contract, serving, until

NAMED = (("grpc.ssl_target_name_override", "localhost"),)  # a socket's path is no name
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def status(address: str, secure: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """How a call of a new client ends."""
    # A channel of its own connection: grpcio shares connections between channels that look the same.
    options = [("grpc.use_local_subchannel_pool", 1), *NAMED]
    made = (
        grpc.aio.secure_channel(address, secure, options=options)
        if secure
        else grpc.aio.insecure_channel(address, options=options)
    )
    async with made as channel:
        return await code_of(Client(channel).unary("hello", timeout=10))


async def test_who_is_refused(seen: Seen, engine: Engine, tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.sign("client")
    stranger, stranger_key = Authority("stranger").sign("client")
    credentials = grpc.ssl_channel_credentials
    options = ServerOptions(tls=authority.server_files(tmp_path, client_ca=authority))
    async with serving(seen, engine, "127.0.0.1:0", options) as server:
        assert await status(server.address, credentials(authority.pem, key, certificate)) == grpc.StatusCode.OK
        assert await status(server.address, credentials(authority.pem, stranger_key, stranger)) == UNAVAILABLE
        assert await status(server.address, credentials(authority.pem)) == UNAVAILABLE
        assert await status(server.address, None) == UNAVAILABLE
        assert await status(server.address, credentials(Authority("other").pem, key, certificate)) == UNAVAILABLE
        assert await status(server.address, credentials(authority.pem, key, certificate)) == grpc.StatusCode.OK


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_new_files_count_for_new_connections(
    seen: Seen, engine: Engine, tmp_path: Path, authority: Authority, where: str
) -> None:
    """Certificate and client CA are both replaced: old ones are refused, open connections go on."""
    certificate, key = authority.sign("client")
    old = grpc.ssl_channel_credentials(authority.pem, key, certificate)
    options = ServerOptions(tls=authority.server_files(tmp_path, client_ca=authority))
    listen = "127.0.0.1:0" if where == "tcp" else f"unix://{tmp_path}/s.sock"
    async with (
        serving(seen, engine, listen, options) as server,
        grpc.aio.secure_channel(server.address, old, options=NAMED) as channel,
    ):
        client = Client(channel)
        running = client.unary("wait")
        await client.unary("connected")
        fresh = Authority("fresh")
        fresh.server_files(tmp_path, client_ca=fresh)
        certificate, key = fresh.sign("client")
        new = grpc.ssl_channel_credentials(fresh.pem, key, certificate)
        async with asyncio.timeout(10):
            while await status(server.address, new) is not grpc.StatusCode.OK:
                await asyncio.sleep(0.05)
        assert await status(server.address, old) == UNAVAILABLE
        assert (await client.unary("still here")).value == "STILL HERE"
        seen.gate.set()
        assert (await running).value == "wait"


async def test_new_files_that_cannot_be_used_change_nothing(
    seen: Seen, engine: Engine, tmp_path: Path, authority: Authority
) -> None:
    tls = authority.server_files(tmp_path)
    trusted = grpc.ssl_channel_credentials(authority.pem)
    with capture_logs() as logs:
        async with serving(seen, engine, "127.0.0.1:0", ServerOptions(tls=tls)) as server:
            tls.key.write_text("half a file")
            async with asyncio.timeout(10):
                while not [line for line in logs if line["event"] == "tls_files_rejected"]:
                    assert await status(server.address, trusted) == grpc.StatusCode.OK
            assert await status(server.address, trusted) == grpc.StatusCode.OK
    rejected = [line for line in logs if line["event"] == "tls_files_rejected"]
    assert [line["file"] for line in rejected] == [str(tls.key)]


def no_certificate(tls: Tls) -> None:
    tls.certificate.unlink()


def no_pem(tls: Tls) -> None:
    tls.certificate.write_text("certificate")


def a_broken_certificate(tls: Tls) -> None:
    tls.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def another_key(tls: Tls) -> None:
    tls.key.write_bytes(Authority().sign()[1])


def an_encrypted_key(tls: Tls) -> None:
    tls.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")


def a_broken_ca(tls: Tls) -> None:
    assert tls.client_ca
    tls.client_ca.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("spoil", "file", "says"),
    [
        (no_certificate, "server.pem", r"cannot be read: No such file.*name a PEM file"),
        (no_pem, "server.pem", r"holds no certificate.*name a PEM file"),
        (a_broken_certificate, "server.pem", r"cannot be used.*write a PEM certificate"),
        (another_key, "server.key", r"the key is not that of .*server.pem \(write both of one pair\)"),
        (an_encrypted_key, "server.key", r"the private key is encrypted \(write it without a passphrase\)"),
        (a_broken_ca, "clients.pem", r"holds a certificate that cannot be read \(write it as PEM\)"),
    ],
)
async def test_files_that_cannot_be_used(
    engine: Engine, tmp_path: Path, authority: Authority, spoil: object, file: str, says: str
) -> None:
    tls = authority.server_files(tmp_path, client_ca=authority)
    spoil(tls)  # type: ignore[operator]
    server = GrpcServer([contract(Seen())], listen="127.0.0.1:0", engine=engine, options=ServerOptions(tls=tls))
    with pytest.raises(ConfigError, match=f"{tmp_path}/{file}: {says}"):
        await server.start()


def test_a_key_is_never_shown(tmp_path: Path, authority: Authority) -> None:
    identity = TlsFiles(authority.server_files(tmp_path)).read()
    assert b"PRIVATE KEY" in identity.key
    assert "PRIVATE" not in repr(identity)


async def shake(address: str, authority: Authority, **settings: object) -> str | None:
    """The protocol that a handshake of Python's own client agrees on. Raises what the handshake raises."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # its certificates have no authority key identifier
    for name, value in settings.items():
        if name == "alpn":
            context.set_alpn_protocols(value)  # type: ignore[arg-type]
        else:
            setattr(context, name, value)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    agreed: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    if agreed is None:
        assert await reader.read() == b""  # cut at once (RFC 9113, section 3.2)
    writer.transport.abort()
    return agreed


async def test_a_client_trusts_what_it_is_given(seen: Seen, tmp_path: Path, authority: Authority) -> None:
    """An authority made by hand, and a certificate itself that is no authority's own: on every Python, and no more."""
    tls = authority.server_files(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "else.pem").write_bytes(Authority("else").pem)
    async with serving(seen, "native", "127.0.0.1:0", ServerOptions(tls=tls)) as server:
        host, _, port = server.address.rpartition(":")

        async def met(ca: Path) -> None:
            _, writer = await asyncio.open_connection(host, int(port), ssl=trusting(ca))
            writer.transport.abort()

        await met(tmp_path / "ca.pem")
        await met(tls.certificate)
        with pytest.raises(ssl.SSLCertVerificationError):
            await met(tmp_path / "else.pem")


def test_nothing_older_than_tls_1_2_and_no_forbidden_suite(tmp_path: Path, authority: Authority) -> None:
    context = TlsFiles(authority.server_files(tmp_path)).read().context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    older = [suite["name"] for suite in context.get_ciphers() if suite["protocol"] != "TLSv1.3"]
    assert older
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in older)


async def test_the_native_engine_asks_for_h2(seen: Seen, tmp_path: Path, authority: Authority) -> None:
    options = ServerOptions(tls=authority.server_files(tmp_path))
    async with serving(seen, "native", "127.0.0.1:0", options) as server:
        assert await shake(server.address, authority, alpn=["h2", "http/1.1"]) == "h2"
        assert await shake(server.address, authority, alpn=["h2"], maximum_version=ssl.TLSVersion.TLSv1_2) == "h2"
        assert await shake(server.address, authority) is None
        await until(lambda: not server._engine._connections)  # type: ignore[union-attr]


async def test_a_grpcio_keepalive_is_answered(seen: Seen, engine: Engine, tmp_path: Path, authority: Authority) -> None:
    """A server that asks a silent client keeps a connection that answers."""
    options = replace(ServerOptions(tls=authority.server_files(tmp_path)), keepalive_time=0.05, keepalive_timeout=5.0)
    async with (
        serving(seen, engine, "127.0.0.1:0", options) as server,
        grpc.aio.secure_channel(server.address, grpc.ssl_channel_credentials(authority.pem)) as channel,
    ):
        running = Client(channel).unary("wait")
        changed = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        await Client(channel).unary("connected")
        await asyncio.wait([changed], timeout=0.3)
        seen.gate.set()
        assert (await running).value == "wait"


async def test_a_certificate_for_somebody_else(
    seen: Seen, engine: Engine, tmp_path: Path, authority: Authority
) -> None:
    """Signed by the right authority is not enough when a name is wanted."""
    credentials = grpc.ssl_channel_credentials
    tls = replace(authority.server_files(tmp_path, client_ca=authority), client_name="envoy.test")
    for listen in ("127.0.0.1:0", f"unix://{tmp_path}/s.sock"):
        async with serving(seen, engine, listen, ServerOptions(tls=tls)) as server:
            certificate, key = authority.sign("envoy.test")
            assert await status(server.address, credentials(authority.pem, key, certificate)) == grpc.StatusCode.OK
            certificate, key = authority.sign("other.test")
            refused = await status(server.address, credentials(authority.pem, key, certificate))
            assert refused == (UNAVAILABLE if engine == "native" else grpc.StatusCode.UNAUTHENTICATED)
