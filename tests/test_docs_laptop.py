"""docs/install/laptop.md as it stands: from a checkout, and from a wheel in an environment of its own, without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.gateway import free_port
from tests.page import ROOT, Page, programs, run
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer
from tests.redis_server import free_port as free_redis_port

PAGE = Page.read("laptop.md")
PACKAGES = ("headgate", "extproc", "ratelimit", "sidecar")
UNTIL_READY = "until curl -sf http://127.0.0.1:10001/readyz; do sleep 0.2; done\n"


def copy_checkout(folder: Path) -> Path:
    """What `git clone` would give, as far as the product needs it."""
    folder.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "README.md", "pyproject.toml", "requirements.lock", "requirements-build.lock"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def only_dependencies(folder: Path) -> Path:
    """Everything that the lock names, as this environment has it, and no Headgate."""
    folder.mkdir()
    for one in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"_?_?(headgate|editable|pip\b|pip-|distutils)|.*\.pth$", one.name):
            (folder / one.name).symlink_to(one)
    return folder


def moved(text: str, provider: ProviderThread | None = None, redis: int = 0) -> str:
    """The page's ports and provider as they are here."""
    if provider is not None:
        text = text.replace("preset: openai", f'dialect: openai, base_url: "{provider.base_url}"')
    text = re.sub(r"^headgate status$", "headgate status --admin 127.0.0.1:10001", text, flags=re.MULTILINE)
    for port in (10000, 10001):
        text = text.replace(str(port), str(PORTS[port]))
    return text.replace("6379", str(redis))


PORTS = {port: free_port() for port in (10000, 10001)}


@pytest.fixture(autouse=True)
def _fresh_ports() -> None:
    """What was free when the file was read, minutes ago, may have been taken since."""
    PORTS.update({port: free_port() for port in PORTS})


def test_from_a_checkout(tmp_path: Path) -> None:
    """The environment is there already; that `make` makes one is seen whenever anybody begins."""
    checkout = copy_checkout(tmp_path / "checkout")
    programs(tmp_path / "bin", {})
    (checkout / ".venv").mkdir()
    # The demonstration's own addresses may be somebody's.
    addresses = f"HEADGATE_LISTEN=127.0.0.1:{PORTS[10000]} HEADGATE_ADMIN=127.0.0.1:{PORTS[10001]}"
    programs(
        checkout / ".venv" / "bin", {"headgate": f"env {addresses} {sys.executable} -m headgate", "python": "false"}
    )
    (checkout / ".venv" / ".run-installed").touch()
    up, curl = PAGE.section("From a checkout").blocks("sh")
    script = f"cd checkout\n{up.strip()} &\n{UNTIL_READY}{curl}"
    done = run(moved(script), tmp_path, {**os.environ, "PYTHONPATH": str(checkout)})
    assert done.returncode == 0, done.stderr
    assert "data: [DONE]" in done.stdout.splitlines()  # the gateway, ready, may print its own last lines behind it


def test_from_a_wheel(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    work = tmp_path / "work"
    work.mkdir()
    programs(tmp_path / "bin", {"python3": sys.executable})
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(only_dependencies(tmp_path / "dependencies")),
        "PIP_NO_INDEX": "1",  # nothing may be asked for
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say yes
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    install, *rest = [block for block in PAGE.blocks("sh") if block not in PAGE.section("From a checkout").blocks("sh")]
    port = free_redis_port()
    with ProviderThread() as provider, RedisServer(tmp_path, port=port) as redis:
        (work / "headgate.yaml").write_text(moved(PAGE.configuration(), provider))
        (work / "ask.py").write_text(moved(PAGE.blocks("python")[0]))
        ask_redis = 'curl -sf http://127.0.0.1:10000/v1/models -H "Authorization: Bearer $GATEWAY_KEY"\npython ask.py\n'
        where = "python -c 'import headgate, sys; print(headgate.__file__, sys.prefix)' > where\n"
        script = moved(
            "\n".join(
                ["cd checkout", install, f"cd ..; mv {checkout} {tmp_path}/gone", f"cd {work}", where, *rest, ask_redis]
            ),
            redis=port,
        )
        done = run(script, tmp_path, environment, 110)
        assert done.returncode == 0, done.stderr + done.stdout
        module, prefix = (work / "where").read_text().split()
        assert prefix == str(tmp_path / "headgate")
        assert module.startswith(prefix)
        assert done.stdout.count("which makes up every word") >= 1
        assert {one.header("authorization") for one in provider.requests} == {"Bearer sk-your-key"}
        assert "gpt-4o-mini" in done.stdout  # headgate status
        assert "limits: {requests: 60/min" in (work / "headgate.yaml").read_text()
        assert redis.client().keys("*team-a*")  # what is limited is counted there
    installed = str(tmp_path / "headgate" / "bin")
    left = [one.info["cmdline"] for one in psutil.process_iter(["cmdline"]) if installed in str(one.info["cmdline"])]
    assert not left


def test_the_wheel_holds_every_file_of_the_product(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "-w", str(tmp_path), str(checkout)], check=True)
    (wheel,) = tmp_path.glob("headgate-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    files = (path.relative_to(checkout) for name in PACKAGES for path in (checkout / name).rglob("*") if path.is_file())
    assert held == {str(path) for path in files}
