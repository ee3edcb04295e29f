"""`headgate ratelimit`, as a user types it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headgate.cli import app
from ratelimit import __main__ as module
from ratelimit import settings
from ratelimit.__main__ import Arguments, combined
from ratelimit.client import parse_entries
from ratelimit.limiter import Limiter
from ratelimit.server import rate_limit_service
from ratelimit.settings import RuleFile
from ratelimit.sources.directory import Directory
from ratelimit.standalone.environment import HttpAddresses
from ratelimit.standalone.stores import Stores
from ratelimit.storage.memory import MemoryStore
from sidecar.errors import ConfigError
from sidecar.options import ServerOptions
from sidecar.server import GrpcServer
from tests.sidecar.certificates import Authority

RULES = "domain: mesh\ndescriptors: [{key: user, rate_limit: {unit: minute, requests_per_unit: 2, name: n}}]"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ratelimit", *arguments], env={"COLUMNS": "200"})


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[str]:
    """A service in a thread of its own; with a parameter over these TLS files."""
    options = ServerOptions(tls=getattr(request, "param", None))
    ready, over, addresses = threading.Event(), threading.Event(), [""]

    async def serve() -> None:
        rules = settings.build([RuleFile("x", RULES)])
        limiter = Limiter(MemoryStore(), lambda: 1_700_000_040.0)
        server = GrpcServer([rate_limit_service(limiter, lambda: rules)], listen="127.0.0.1:0", options=options)
        await server.start()
        addresses[0] = server.address
        ready.set()
        await asyncio.to_thread(over.wait, 60)
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield addresses[0]
    over.set()
    thread.join()


def test_client(service: str) -> None:
    arguments = ("client", "--dial-string", service, "--domain", "mesh", "--descriptors", "user=a")
    done = run(*arguments, "--descriptors", "other=x,more=y")
    assert done.exit_code == 0, done.output
    assert "2 per minute (n)" in done.output
    assert "other=x, more=y" in done.output
    assert "overall: OK" in done.output
    assert json.loads(run(*arguments, "--json", "--hits", "0").stdout)["statuses"][0]["limitRemaining"] == 1
    assert "OVER LIMIT" in run(*arguments, "--hits", "5").output


def test_client_that_is_refused(service: str) -> None:
    done = run("client", "--dial_string", service, "--domain", "", "--descriptors", "user=a")
    assert done.exit_code == 1
    assert f"{service}: UNKNOWN: rate limit domain must not be empty" in done.output
    done = run("client", "--dial-string", "127.0.0.1:1", "--domain", "mesh", "--descriptors", "user=a")
    assert done.exit_code == 1
    assert "UNAVAILABLE" in done.output
    done = run("client", "--domain", "mesh", "--descriptors", "user")
    assert "--descriptors: 'user' is no list of entries (write key=value,key=value)" in done.output


def test_client_over_tls(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.sign("client")
    for name, content in (("ca", authority.pem), ("cert", certificate), ("key", key)):
        (tmp_path / name).write_bytes(content)
    request = type("Request", (), {"param": authority.server_files(tmp_path, client_ca=authority)})
    serving = service.__wrapped__(request)  # type: ignore[attr-defined]
    address = next(serving)
    files = [
        f"--grpc-{what}-file={tmp_path / name}"
        for what, name in (("server-ca", "ca"), ("cert", "cert"), ("key", "key"))
    ]
    done = run("client", "--dial-string", address, "--domain", "mesh", "--descriptors", "user=a", *files)
    assert done.exit_code == 0, done.output
    missing = run("client", "--domain", "mesh", "--descriptors", "user=a", "--grpc-server-ca-file", "/no")
    assert "/no: cannot be read: No such file or directory (name a PEM file)" in missing.output
    next(serving, None)


@pytest.mark.parametrize(
    ("text", "entries"),
    [("a=b", (("a", "b"),)), ("a=b=c,d=", (("a", "b=c"), ("d", ""))), ("a=", (("a", ""),))],
)
def test_entries(text: str, entries: tuple[tuple[str, str], ...]) -> None:
    assert parse_entries(text) == entries


def test_check(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(RULES)
    done = run("check", str(tmp_path))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "all rate limit configs ok")
    (tmp_path / "x.yaml").write_text("foo: 1")
    done = run("check", str(tmp_path))
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].endswith("x.yaml: config error, unknown key 'foo'")


def test_serve_is_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Arguments] = []

    def run_service(arguments: Arguments) -> int:
        given.append(arguments)
        return 3

    monkeypatch.setattr(module, "run_service", run_service)
    assert run("serve").exit_code == 3
    run("serve", "--rules", "/r", "--listen", "h:1", "--store", "memory://", "--engine", "grpcio", "--grace", "1")
    assert given == [Arguments(), Arguments(Path("/r"), "h:1", "memory://", "grpcio", 1.0)]


def test_arguments_over_the_environment() -> None:
    none = HttpAddresses("", "", "")
    alone = combined(Arguments(rules=Path("/r")), {})
    assert (alone.rules, alone.listen, alone.stores, alone.http) == (
        Path("/r"),
        "127.0.0.1:8081",
        Stores("memory://"),
        none,
    )
    assert (alone.log_level, alone.log_format) == ("info", "auto")
    both = combined(
        Arguments(Path("/r"), store="unix:///s"),
        {"PORT": "1", "GRPC_PORT": "2", "LOG_LEVEL": "error", "REDIS_URL": "no url"},
    )
    assert (both.listen, both.stores, both.log_level) == ("0.0.0.0:2", Stores("unix:///s"), "error")
    assert both.http == HttpAddresses("0.0.0.0:1", "", "")
    assert combined(Arguments(rules=Path("/r")), {"REDIS_URL": "h:1"}).stores == Stores("redis://h:1/")
    bare = combined(Arguments(), {})
    assert isinstance(bare.rules, Directory)
    assert bare.stores == Stores("unix:///var/run/nutcracker/ratelimit.sock")
    assert bare.http == HttpAddresses()
    with pytest.raises(ConfigError, match="PORT"):
        combined(Arguments(), {"PORT": "x"})
