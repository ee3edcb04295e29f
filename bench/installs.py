"""The peers' own programs, each in a folder of its own that git does not see."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import UnavailableError

FOLDER = Path(__file__).parent / ".peers"
_HONO = "1.14.1"  # of @hono/node-server
_INSTALL_SECONDS = 900
_WORDS = 300  # characters shown of what an installer said last


def litellm() -> Path:
    """The environment with the newest LiteLLM proxy that installs. Raises `UnavailableError`."""
    home = _home("litellm")
    if not (home / "bin" / "litellm").is_file():
        _run([sys.executable, "-m", "venv", str(home)], FOLDER)
        _run([str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "litellm[proxy]"], home)
    return home


def litellm_version(home: Path) -> str:
    """What was installed there."""
    program = "from importlib.metadata import version; print(version('litellm'))"
    return f"LiteLLM {_run([str(home / 'bin' / 'python'), '-c', program], home).strip()}"


def portkey() -> Path:
    """The package folder of the newest Portkey gateway that installs. Raises `UnavailableError`.

    Streaming fails with a newer @hono/node-server (`TypeError: immutable`), so the newest that works is asked for:
    https://github.com/Portkey-AI/gateway/issues/1389
    """
    home = _home("portkey")
    package = home / "node_modules" / "@portkey-ai" / "gateway"
    server = home / "node_modules" / "@hono" / "node-server" / "package.json"
    if not server.is_file() or json.loads(server.read_text())["version"] != _HONO:
        if shutil.which("npm") is None:
            raise UnavailableError("needs node and npm")
        manifest = {"private": True, "dependencies": {"@portkey-ai/gateway": "latest"}}
        (home / "package.json").write_text(json.dumps({**manifest, "overrides": {"@hono/node-server": _HONO}}))
        shutil.rmtree(home / "node_modules", ignore_errors=True)
        (home / "package-lock.json").unlink(missing_ok=True)
        _run(["npm", "install", "--no-fund", "--no-audit", "--omit=dev"], home)
    return package


def portkey_version(package: Path) -> str:
    """What was installed there."""
    return f"Portkey {json.loads((package / 'package.json').read_text())['version']}, @hono/node-server {_HONO}"


RATELIMIT_VERSION = "v1.4.1-0.20260122083618-3fb702589d36"  # the newest that Go's proxy has


def envoyproxy_ratelimit() -> Path:
    """envoyproxy/ratelimit's service, built from source. Raises `UnavailableError`."""
    home = _home("ratelimit")
    binary = home / "service_cmd"
    if not binary.is_file():
        if shutil.which("go") is None:
            raise UnavailableError("needs Go")
        module = f"github.com/envoyproxy/ratelimit/src/service_cmd@{RATELIMIT_VERSION}"
        _run(["env", f"GOBIN={home}", "go", "install", module], home)
    return binary


def node_version() -> str:
    """Of the node that runs it."""
    return f"node {_run(['node', '--version'], FOLDER).strip()}"


def _home(name: str) -> Path:
    """The folder of one peer, hidden from git by a file of its own."""
    home = FOLDER / name
    home.mkdir(parents=True, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    return home


def _run(command: Sequence[str], folder: Path) -> str:
    """Run to the end, bounded in time. Raises `UnavailableError` with its last words."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]}: {error}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-_WORDS:]
        raise UnavailableError(f"{Path(command[0]).name} ended with status {done.returncode}: {words}")
    return done.stdout
