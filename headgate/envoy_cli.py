"""An Envoy that `headgate up` does not start itself: its files, its process, and its end (`envoy.start: false`)."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from headgate.envoy_admin import EnvoyAdmin
from headgate.render.layout import Layout
from headgate.render.secrets import check_files, credentials
from headgate.settings import load_settings
from headgate.terminal import fail
from headgate.up.drain import drain as drain_envoy
from headgate.up.envoy import EnvoyStart
from headgate.up.files import keep_copy, render, write_all
from sidecar.errors import ConfigError, HeadgateError, Problem
from sidecar.reload import fingerprint

_out = Console()
_PATIENCE = 60.0  # seconds for the files to appear
_POLL_SECONDS = 0.1

RunDirOption = Annotated[
    Path | None, typer.Option(envvar="HEADGATE_RUN_DIR", help="folder with Envoy's files and its admin socket")
]


def render_files(
    config: Annotated[Path, typer.Option("-c", "--config", help="headgate.yaml")],
    run_dir: RunDirOption = None,
) -> None:
    """Check a configuration and write the files that an Envoy starts with into the run folder.

    For an Envoy that starts before `headgate up` does (in a pod: an init container). Providers' keys stand in these
    files; only this user can read them.
    """
    try:
        settings, file = load_settings(config, os.environ)
        layout = Layout(_folder(run_dir or (Path(settings.run_dir) if settings.run_dir else None)))
        check_files(settings, file)
        rendered = render(settings, layout, credentials(settings, file), fingerprint(config))
        layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_all(rendered, layout)
        keep_copy(layout.envoy_start, EnvoyStart.of(settings).text())
    except HeadgateError as error:
        fail(error)
    except OSError as error:
        fail(HeadgateError(f"{error.filename}: {error.strerror}: see --run-dir"))
    _out.print(f"{config}: ok; Envoy's files are in {layout.folder}", highlight=False, soft_wrap=True)


def envoy(run_dir: RunDirOption = None) -> None:
    """Become the Envoy that takes everything from the run folder's files (with `envoy.start: false`).

    This process is replaced by Envoy. It waits up to a minute for the files, and never reads the configuration, which
    may be broken by the time of a restart.
    """
    try:
        layout = Layout(_folder(run_dir))
        _await(layout.bootstrap)
        _await(layout.envoy_start)
        command = EnvoyStart.read(layout.envoy_start).command(layout)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except HeadgateError as error:
        fail(error)
    except OSError as error:
        fail(HeadgateError(f"Envoy cannot be started: {error.strerror}: see `envoy.binary`"))


def drain(
    run_dir: RunDirOption = None,
    delay: Annotated[float | None, typer.Option(help="seconds before requests are turned away")] = None,
    timeout: Annotated[float | None, typer.Option(help="seconds that open requests may finish in")] = None,
) -> None:
    """Take the run folder's Envoy out of service: returns when no request is open, 1 when some still were.

    A pod's preStop hook: Kubernetes stops Envoy only when this has returned. Without options it waits as long as
    `drain_delay` and `drain_timeout` say.
    """
    try:
        layout = Layout(_folder(run_dir))
        if not layout.envoy_start.is_file():
            mend = "name the folder that Envoy was started with (--run-dir)"
            raise HeadgateError(f"{layout.folder} is no run folder of an Envoy ({layout.envoy_start.name}): {mend}")
        start = EnvoyStart.read(layout.envoy_start)
        left = asyncio.run(
            _drain(
                layout,
                start.drain_delay if delay is None else delay,
                start.drain_timeout if timeout is None else timeout,
            )
        )
    except HeadgateError as error:
        fail(error)
    if left is None:
        _out.print(f"no Envoy answers at {layout.envoy_admin}", highlight=False, soft_wrap=True)
    elif left:
        fail(HeadgateError(f"{left} request(s) were still open when the time was over: see --timeout"))


async def _drain(layout: Layout, delay: float, timeout: float) -> int | None:  # noqa: ASYNC109
    async with EnvoyAdmin(layout.envoy_admin) as admin:
        return await drain_envoy(admin, delay=delay, timeout=timeout, hurry=asyncio.Event())


def _folder(run_dir: Path | None) -> Path:
    if run_dir is None:
        raise ConfigError([Problem("--run-dir", "", "no folder is named", "name it, or set HEADGATE_RUN_DIR")])
    return run_dir.absolute()


def _await(path: Path) -> None:
    """Wait for a file that another process is about to write."""
    deadline = time.monotonic() + _PATIENCE
    if not path.is_file():
        _out.print(f"waiting for {path}, at most {_PATIENCE:g} seconds", highlight=False, soft_wrap=True)
    while not path.is_file():
        if time.monotonic() > deadline:
            mend = "run `headgate render files` or `headgate up` with the same folder"
            raise HeadgateError(f"{path} did not appear within {_PATIENCE:g} seconds: {mend}")
        time.sleep(_POLL_SECONDS)
