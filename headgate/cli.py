"""The `headgate` command."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets as random_secrets
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from extproc.settings import NAME
from headgate import __version__
from headgate.app import Sidecar
from headgate.app import serve as serve_sidecar
from headgate.cache_cli import cache_app
from headgate.demo import DEMO_KEY, DEMO_PREFIX, curl_line, free_port, until_listening, write_demo
from headgate.envoy_cli import drain, envoy, render_files
from headgate.import_cli import import_app
from headgate.ratelimit_cli import ratelimit_app
from headgate.render.layout import Layout
from headgate.render.secrets import check_files, credentials
from headgate.render_cli import layout_of, render_app
from headgate.settings import Settings, load_settings, open_services, pinned
from headgate.settling import Only, check_only
from headgate.status_cli import print_status
from headgate.terminal import fail
from headgate.up.addresses import until_free
from headgate.up.child import Child
from headgate.up.files import keep_copy
from headgate.up.folder import remove_orphans
from headgate.up.supervisor import Configuration, Supervisor, read
from headgate.workers import Workers
from sidecar import logs
from sidecar.configfile import ConfigFile
from sidecar.errors import ConfigError, HeadgateError, Problem
from sidecar.reload import fingerprint

app = typer.Typer(
    name="headgate",
    help="The LLM policy layer for Envoy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(render_app, name="render")
app.add_typer(ratelimit_app, name="ratelimit")
app.add_typer(cache_app, name="cache")
app.command("envoy")(envoy)
app.command("drain")(drain)
render_app.command("files")(render_files)
app.add_typer(import_app, name="import")

_out = Console()
_err = Console(stderr=True)

ConfigOption = Annotated[Path | None, typer.Option("-c", "--config", help="headgate.yaml")]
RequiredConfig = Annotated[Path, typer.Option("-c", "--config", help="headgate.yaml")]
ListenOption = Annotated[str | None, typer.Option(help="address of the gateway (host:port)")]
AdminOption = Annotated[str | None, typer.Option(help="address of the admin port (host:port)")]
StoreOption = Annotated[
    str | None, typer.Option(help="memory://, redis://…, rediss://…, unix://…, redis+sentinel://…, redis+cluster://…")
]
RunDirOption = Annotated[str | None, typer.Option(help="folder for sockets and Envoy's files")]


def _flags(**given: str | None) -> None:
    """Flags win over the environment, here and in every child: they become variables."""
    for name, value in given.items():
        if value is not None:
            os.environ[f"HEADGATE_{name.upper()}"] = value


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ConfigError(
            [Problem("run_dir", "", f"{folder} belongs to another user", "choose another with --run-dir")]
        )


@app.command()
def up(
    config: ConfigOption = None,
    listen: ListenOption = None,
    admin: AdminOption = None,
    store: StoreOption = None,
) -> None:
    """Run the gateway on this machine: Envoy in front, the sidecar behind it, both watched.

    Without a configuration it runs a demonstration with a fake provider and a demo key.
    """
    _flags(listen=listen, admin=admin, store=store)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until the supervisor takes it
    try:
        remove_orphans()
        with contextlib.ExitStack() as stack:
            fake_port = 0
            if config is None:
                fake_port = free_port()
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=DEMO_PREFIX))
                config = write_demo(Path(folder), fake_port)
            with _out.status("reading the configuration"):
                configuration = read(config, os.environ)
                logs.configure(configuration.settings.log.level, configuration.settings.log.format)
                # Another container's Envoy may have its address already, and should.
                # The admin port is given back last of all.
                for name in ("admin", "listen") if configuration.settings.envoy.start else ("admin",):
                    until_free(name, getattr(configuration.settings, name), _waits)
            _step(f"configuration {config} checked ({configuration.version})")
            asyncio.run(_up(configuration, fake_port))
    except HeadgateError as error:
        fail(error)
    except OSError as error:
        fail(HeadgateError(f"{error.filename or 'the system'}: {error.strerror}: see `run_dir` and `envoy.binary`"))


def _step(text: str) -> None:
    _out.print(f"[green]✓[/green] {escape(text)}", highlight=False, soft_wrap=True)


def _waits(text: str) -> None:
    _out.print(f"[yellow]·[/yellow] {escape(text)}", highlight=False, soft_wrap=True)


async def _up(configuration: Configuration, fake_port: int) -> None:
    fake: Child | None = None
    if fake_port:
        command = [sys.executable, "-m", "headgate", "fake-provider", "--port", str(fake_port)]
        fake = Child("fake-provider", command)
        _step(f"starting the fake provider on port {fake_port}")
        await fake.start()
    try:
        if fake is not None:
            await until_listening(fake_port)
        supervisor = Supervisor(configuration, _step)
        await supervisor.run(lambda: _ready(configuration.settings, demo=fake is not None))
    finally:
        if fake is not None:
            await fake.stop(2.0)
    _step("stopped")


def _ready(settings: Settings, *, demo: bool) -> None:
    scheme = "https" if settings.tls else "http"
    gateway = f"{scheme}://{settings.listen}"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("gateway", gateway)
    table.add_row("admin", f"http://{settings.admin}  (/healthz /readyz /metrics /status)")
    table.add_row("store", settings.store.partition("://")[0])
    table.add_row("models", ", ".join(settings.models) or "none")
    _out.print()
    if demo:
        _out.print("[bold yellow]DEMONSTRATION[/bold yellow]: a fake provider answers, and everybody knows the key.")
    _out.print(table)
    model = next(iter(settings.models), "MODEL")
    _out.print("\nTry it:\n")
    # Not wrapped and not marked up: the line must work as pasted.
    print(f"  {curl_line(gateway, model, DEMO_KEY if demo else 'YOUR_KEY')}\n", flush=True)
    _out.print("Ctrl-C stops it: open requests finish first.", style="dim")


@app.command()
def serve(
    config: RequiredConfig,
    only: Annotated[str | None, typer.Option(help="extproc or ratelimit: start one service alone")] = None,
    admin: AdminOption = None,
    store: StoreOption = None,
    run_dir: RunDirOption = None,
    managed: Annotated[bool, typer.Option("--managed", hidden=True)] = False,
    worker: Annotated[int | None, typer.Option("--worker", hidden=True)] = None,
) -> None:
    """Run the sidecar only: ext_proc, rate limit and admin, for an Envoy that somebody else runs."""
    _flags(admin=admin, store=store, run_dir=run_dir)
    if only not in (None, "extproc", "ratelimit"):
        fail(ConfigError([Problem("--only", "", f"there is no service '{only}'", "write extproc or ratelimit")]))
    chosen: Only | None = "extproc" if only == "extproc" else "ratelimit" if only == "ratelimit" else None
    try:
        settings, file, version = _settings_to_serve(config, managed, worker)
        logs.configure(settings.log.level, settings.log.format)
        layout = layout_of(settings)
        _private_folder(layout.folder)
        check_only(chosen, settings)
        if settings.workers > 1 and worker is None:
            if not managed:
                keep_copy(layout.started, file.text)
                os.environ["HEADGATE_RUN_DIR"] = str(layout.folder)
            again = [sys.executable, "-m", "headgate", *sys.argv[1:]]
            asyncio.run(Workers(settings, layout, lambda number: [*again, "--worker", str(number)]).run())
        else:
            uvloop.run(_serve(config, settings, layout, chosen, managed, version, worker))
    except HeadgateError as error:
        fail(error)


def _settings_to_serve(config: Path, managed: bool, worker: int | None) -> tuple[Settings, ConfigFile, str]:
    """The settings of the file, the file, and its version.

    A process that is started again must fit what runs around it. What cannot change while running is taken from the
    copy of the configuration that everything was started with. And under the supervisor, a file that is broken by now
    gives way to the last good one: an outage of one file must not become an outage of everything.
    """
    version = fingerprint(config)
    layout = Layout(Path(os.environ.get("HEADGATE_RUN_DIR", "")))
    try:
        settings, file = load_settings(config, os.environ)
    except ConfigError as error:
        if not managed or not layout.last_good.is_file():
            raise
        for problem in error.problems:
            _err.print(f"last good configuration is used: {problem}", markup=False, highlight=False, soft_wrap=True)
        settings, file = load_settings(layout.last_good, os.environ, folder=config.parent)
        version = fingerprint(layout.last_good)
    if (managed or worker is not None) and layout.started.is_file():
        settings, _ = pinned(settings, load_settings(layout.started, os.environ, folder=config.parent)[0])
    return settings, file, version


async def _serve(
    path: Path,
    settings: Settings,
    layout: Layout,
    only: Only | None,
    managed: bool,
    version: str,
    worker: int | None,
) -> None:
    sidecar = Sidecar(
        path,
        settings,
        layout,
        only=only,
        watch=not managed,
        manages_envoy=managed,
        version=version,
        worker=worker,
    )
    await serve_sidecar(sidecar)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="headgate.yaml")]) -> None:
    """Check a configuration: exit 0 when it can be used, else 1 with file, line, key and mend."""
    try:
        settings, read_file = load_settings(file, os.environ)
        check_files(settings, read_file)
        credentials(settings, read_file)
    except HeadgateError as error:
        fail(error)
    counts = f"{len(settings.providers)} providers, {len(settings.models)} models, {len(settings.keys)} keys"
    _out.print(f"{file}: ok ({counts})", highlight=False)
    for name in open_services(settings):
        warning = f"services.{name} is open to whoever reaches it: set services.tls.client_ca, or a network policy"
        _err.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)


@app.command()
def status(
    admin: Annotated[str, typer.Option(help="admin address of a running gateway (host:port)")] = "127.0.0.1:10001",
    as_json: Annotated[bool, typer.Option("--json", help="as the admin port says it")] = False,
) -> None:
    """Show the targets of a running gateway: state, share, cool-down, and why."""
    try:
        print_status(_out, admin, as_json=as_json)
    except HeadgateError as error:
        fail(error)


@app.command("fake-provider")
def fake_provider(
    host: str = "127.0.0.1",
    port: int = 9101,
    behaviour: Annotated[str, typer.Option(help="defaults for every answer, as in the x-fake header")] = "",
    record: Annotated[bool, typer.Option(help="keep what it receives (GET /__fake/requests)")] = True,
    name: Annotated[str, typer.Option(help="what its answers say in x-fake-provider")] = "fake",
) -> None:
    """Run the fake provider: a test and demonstration tool that makes up its answers."""
    from headgate.fake_provider.behaviour import Behaviour
    from headgate.fake_provider.server import run

    try:
        parsed = Behaviour.parse(behaviour)
        _err.print(f"fake provider (makes up its answers) on http://{host}:{port}/v1", highlight=False)
        run(host=host, port=port, name=name, behaviour=parsed, record=record)
    except ValueError as error:
        fail(HeadgateError(f"--behaviour: {error}"))
    except OSError as error:
        fail(HeadgateError(f"cannot bind {host}:{port}: {error.strerror}"))


@app.command("new-key")
def new_key(name: Annotated[str, typer.Argument(help="who it is for")]) -> None:
    """Make a gateway key: prints it once, and the entry for `keys:` that holds only its hash."""
    if not NAME.fullmatch(name):
        fail(
            ConfigError([Problem("NAME", "", f"'{name}' is not a name", "letters, digits, '.', '_', '-'; at most 64")])
        )
    key = f"sk-hg-{random_secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    _err.print("The key (shown only now):", style="bold")
    print(key)
    _err.print("The entry for headgate.yaml:", style="bold")
    print(f'  - {{name: {name}, sha256: "{digest}", models: ["*"]}}')


@app.command()
def version() -> None:
    """Print the version."""
    print(f"headgate {__version__}")
