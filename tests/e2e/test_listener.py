"""The gateway's own listener: TLS, HTTP/2, keys of https providers, TCP to the sidecar."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.gateway import Gateway, chat, free_port, key_entry, post
from tests.provider_thread import ProviderThread


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}.crt", folder / f"{name}.key"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


@pytest.fixture
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as running:
        yield running


def config(provider: ProviderThread, **changes: object) -> dict[str, object]:
    return {
        "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
        "models": {"gpt-4o": {"provider": "fake"}},
        "keys": [key_entry("team-a", limits={"requests": "1000/year"})],
        **changes,
    }


def h2_chat(connection: socket.socket) -> tuple[int, bytes]:
    """One chat completion over HTTP/2."""
    client = h2.connection.H2Connection(config=h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    body = json.dumps(chat()).encode()
    client.send_headers(
        1,
        [
            (":method", "POST"), (":path", "/v1/chat/completions"), (":scheme", "https"), (":authority", "localhost"),
            ("authorization", "Bearer sk-team-a"), ("content-length", str(len(body))),
        ],
    )  # fmt: skip
    client.send_data(1, body, end_stream=True)
    connection.sendall(client.data_to_send())
    status, answer = 0, b""
    while True:
        for event in client.receive_data(connection.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived):
                status = int(dict(event.headers)[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                answer += event.data
            elif isinstance(event, h2.events.StreamEnded):
                return status, answer


def test_http_2_without_tls(provider: ProviderThread) -> None:
    with Gateway(config(provider)) as gateway:
        host, _, port = gateway.listen.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            status, body = h2_chat(connection)
        assert status == 200
        assert json.loads(body)["object"] == "chat.completion"


def test_tls_with_both_protocols(provider: ProviderThread, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    with Gateway(config(provider, tls={"cert": str(cert), "key": str(key)})) as gateway:
        context = ssl.create_default_context(cafile=str(cert))
        context.set_alpn_protocols(["h2"])
        host, _, port = gateway.listen.partition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            assert secure.selected_alpn_protocol() == "h2"
            assert h2_chat(secure)[0] == 200
        context = ssl.create_default_context(cafile=str(cert))
        context.set_alpn_protocols(["http/1.1"])
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-team-a\r\n\r\n")
            assert secure.recv(65536).startswith(b"HTTP/1.1 200")


def test_tls_to_the_provider_is_checked(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with ProviderThread(tls=context) as provider:
        base = provider.base_url
        providers = {
            "right": {"dialect": "openai", "base_url": base, "tls": {"ca": str(cert), "sni": "localhost"}},
            "stranger": {"dialect": "openai", "base_url": base, "tls": {"sni": "localhost"}},
            "other-name": {"dialect": "openai", "base_url": base, "tls": {"ca": str(cert), "sni": "example.org"}},
            "by-address": {"dialect": "openai", "base_url": base, "tls": {"ca": str(cert)}},
        }
        models = {name: {"provider": name} for name in providers}
        with Gateway({"providers": providers, "models": models, "keys": [key_entry("team-a")]}) as gateway:
            assert post(gateway.listen, chat("right")).status == 200
            for name in ("stranger", "other-name", "by-address"):
                answer = post(gateway.listen, chat(name))
                assert answer.status == 503
                assert answer.error["code"] == "provider_unreachable"


def test_the_services_over_tcp(provider: ProviderThread) -> None:
    services = {"extproc": f"127.0.0.1:{free_port()}", "ratelimit": f"127.0.0.1:{free_port()}"}
    with Gateway(config(provider, services=services)) as gateway:
        answer = post(gateway.listen, chat())
        assert answer.status == 200
        assert answer.header("x-ratelimit-limit-requests") == "1000"


@pytest.mark.parametrize("enforce", ["envoy", "in_process"])
def test_answers_tell_our_own_time_when_asked_to(enforce: str) -> None:
    with ProviderThread() as provider:
        config = {
            "overhead_header": True,
            "limits": {"enforce": enforce},
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a", limits={"requests": "1/year"})],
        }
        with Gateway(config) as gateway:
            answers = [
                post(gateway.listen, chat()),
                post(gateway.listen, chat()),
                post(gateway.listen, chat(), key="no"),
            ]
            assert [answer.status for answer in answers] == [200, 429, 401]
            for answer in answers:
                assert 1 <= int(answer.header("x-headgate-overhead-us") or 0) < 100_000
            gateway.wait_for(lambda: gateway.metric("headgate_overhead_seconds_count") == 3)
            logged = [line["overhead_us"] for line in gateway.log_lines("request")]
            assert [int(answer.header("x-headgate-overhead-us") or 0) for answer in answers] == logged


@pytest.mark.parametrize("engine", ["native", "grpcio"])
@pytest.mark.parametrize("mutual", [False, True])
def test_envoy_and_our_services_may_speak_tls(tmp_path: Path, engine: str, mutual: bool) -> None:
    cert, key = make_certificate(tmp_path, "services.test")
    (tmp_path / "client").mkdir()
    client_cert, client_key = make_certificate(tmp_path / "client", "envoy.test")
    tls = {"cert": str(cert), "key": str(key), "name": "services.test"}
    if mutual:
        tls |= {"client_ca": str(client_cert), "client_cert": str(client_cert), "client_key": str(client_key)}
    services = {name: f"127.0.0.1:{free_port()}" for name in ("extproc", "ratelimit")}
    with ProviderThread() as provider:
        config = {
            "engine": engine,
            "services": {**services, "tls": tls, "max_connection_age": 1.0},
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a", limits={"requests": "100000/year"})],
            "limits": {"on_error": "deny"},
        }
        with Gateway(config) as gateway:
            until = time.monotonic() + 3  # long enough for connections to grow old
            statuses = []
            while time.monotonic() < until:
                statuses.append(post(gateway.listen, chat()).status)
            assert set(statuses) == {200}
            assert gateway.envoy_stat("cluster.headgate_extproc.ssl.handshake") > 1
            with socket.create_connection(tuple(services["extproc"].split(":")), timeout=5) as plain:  # type: ignore[arg-type]
                plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
                assert b"\0\0\0\4" not in plain.recv(100)


def test_a_renewed_certificate_of_our_services_is_taken_on_both_sides(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "services.test")
    services = {
        "extproc": f"127.0.0.1:{free_port()}",
        "tls": {"cert": str(cert), "key": str(key), "name": "services.test"},
    }
    with (
        ProviderThread() as provider,
        Gateway(
            config(provider, services={**services, "max_connection_age": 1.0}, keys=[key_entry("team-a")])
        ) as gateway,
    ):
        assert post(gateway.listen, chat()).status == 200
        (tmp_path / "new").mkdir()
        for old, new in zip((key, cert), reversed(make_certificate(tmp_path / "new", "services.test")), strict=True):
            new.replace(old)
        gateway.wait_for(lambda: gateway.log_lines("tls_files_taken"))
        until = time.monotonic() + 4  # every connection is made anew by then
        while time.monotonic() < until:
            status = post(gateway.listen, chat()).status
        assert status == 200
