"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.gateway import chat, free_port, key_entry, post
from tests.provider_thread import ProviderThread

COMMAND = [sys.executable, "-m", "headgate"]


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    merged = {**os.environ, **(environment or {})}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=merged, timeout=60, check=False)


def config(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "headgate.yaml"
    values = {
        "providers": {"p": {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "${TEST_KEY}"}},
        "models": {"gpt-4o": {"provider": "p"}},
        "keys": [key_entry("team-a")],
        **changes,
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_version_and_help() -> None:
    assert re.fullmatch(r"headgate \d+\.\d+\.\d+\n", run("version").stdout)
    assert "up" in run("--help").stdout


def test_check(tmp_path: Path) -> None:
    path = config(tmp_path)
    good = run("check", str(path), environment={"TEST_KEY": "k"})
    assert (good.returncode, good.stderr) == (0, "")
    missing = run("check", str(path))
    assert missing.returncode == 1
    assert f"{path}:" in missing.stderr
    assert "TEST_KEY is not set (set TEST_KEY, or write ${TEST_KEY:-default})" in missing.stderr
    path.write_text("models:\n  m: {provdier: x}\n")
    bad = run("check", str(path))
    assert bad.returncode == 1
    assert f"{path}:2: models.m.provdier: no such key (did you mean `provider`?)" in bad.stderr
    assert run("check", str(tmp_path / "none.yaml")).returncode == 1


def test_render_static_leaves_keys_out_unless_told(tmp_path: Path) -> None:
    path = config(tmp_path)
    plain = run("render", "static", "-c", str(path))
    assert plain.returncode == 0
    assert (
        json.loads(plain.stdout)["static_resources"]["secrets"][0]["generic_secret"]["secret"]["inline_string"]
        == "<redacted>"
    )
    secret = run("render", "static", "-c", str(path), "--with-secrets", environment={"TEST_KEY": "sk-x"})
    assert (
        json.loads(secret.stdout)["static_resources"]["secrets"][0]["generic_secret"]["secret"]["inline_string"]
        == "Bearer sk-x"
    )


def test_new_key_prints_a_key_and_its_entry() -> None:
    made = run("new-key", "team-x")
    key, entry = made.stdout.splitlines()
    parsed = yaml.safe_load(entry)[0]
    assert (parsed["name"], len(parsed["sha256"])) == ("team-x", 64)
    assert key not in entry


def test_an_unknown_service_is_refused(tmp_path: Path) -> None:
    failed = run("serve", "-c", str(config(tmp_path)), "--only", "both")
    assert failed.returncode == 1
    assert "extproc or ratelimit" in failed.stderr


def test_ext_proc_alone_is_refused_where_it_could_not_settle(tmp_path: Path) -> None:
    limited = config(tmp_path, keys=[key_entry("team-a", limits={"tokens": "10/year"})])
    failed = run("serve", "-c", str(limited), "--only", "extproc", environment={"TEST_KEY": "k"})
    assert failed.returncode == 1
    assert "limits.settle: call" in failed.stderr


def test_up_says_which_address_is_taken(tmp_path: Path) -> None:
    with ProviderThread() as provider:
        port = provider.provider.port
        failed = run("up", "-c", str(config(tmp_path)), "--listen", f"127.0.0.1:{port}", environment={"TEST_KEY": "k"})
    assert failed.returncode == 1
    assert f"cannot bind 127.0.0.1:{port}" in failed.stderr


class Demo:
    """`headgate up` without a configuration."""

    def __init__(self, tmp_path: Path) -> None:
        self.listen, self.admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.path = tmp_path / "out"
        with self.path.open("wb") as out:
            command = [*COMMAND, "up", "--listen", self.listen, "--admin", self.admin]
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        deadline = time.monotonic() + 40
        while "Ctrl-C stops it" not in self.path.read_text():
            assert self.process.poll() is None, self.path.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_demo_prints_a_curl_line_that_works_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    try:
        out = demo.path.read_text()
        assert "DEMONSTRATION" in out
        assert demo.admin in out
        line = next(line.strip() for line in out.splitlines() if line.strip().startswith("curl "))
        answer = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=True).stdout
        assert answer.count("data: ") == 13
        assert "data: [DONE]" in answer
        assert shlex.split(line)[2].startswith(f"http://{demo.listen}")
    finally:
        children = psutil.Process(demo.process.pid).children(recursive=True)
        os.killpg(demo.process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
        assert demo.process.wait(20) == 0
    assert len(children) == 3
    assert not [child for child in children if child.is_running()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    demo = Demo(tmp_path)
    children = psutil.Process(demo.process.pid).children(recursive=True)
    demo.process.send_signal(number)
    demo.process.wait(20)
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    assert alive == []


def test_serve_and_render_static_work_together_without_a_supervisor(tmp_path: Path) -> None:
    """The platform team's way: their own Envoy, our sidecar, one file."""
    from headgate.up.envoy import envoy_binary

    with ProviderThread() as provider:
        listen = f"127.0.0.1:{free_port()}"
        path = config(
            tmp_path,
            listen=listen,
            admin=f"127.0.0.1:{free_port()}",
            run_dir=str(tmp_path / "run"),
            providers={"p": {"dialect": "openai", "base_url": provider.base_url, "api_key": "${TEST_KEY}"}},
            keys=[key_entry("team-a", limits={"requests": "10/year"})],
        )
        bootstrap = run(
            "render", "static", "-c", str(path), "--with-secrets", "--envoy-admin", f"127.0.0.1:{free_port()}",
            environment={"TEST_KEY": "sk-x"},
        )  # fmt: skip
        (tmp_path / "envoy.json").write_text(bootstrap.stdout)
        running = [
            subprocess.Popen([*COMMAND, "serve", "-c", str(path), "--only", "extproc"]),
            subprocess.Popen(
                [*COMMAND, "serve", "-c", str(path), "--only", "ratelimit", "--admin", f"127.0.0.1:{free_port()}"]
            ),
            subprocess.Popen(
                [
                    str(envoy_binary()),
                    "-c",
                    str(tmp_path / "envoy.json"),
                    "--disable-hot-restart",
                    "--log-level",
                    "error",
                ]
            ),
        ]
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    answer = post(listen, chat())
                    if answer.status == 200 and answer.header("x-ratelimit-limit-requests") == "10":
                        break
                except (OSError, ValueError):
                    pass
                time.sleep(0.1)
            else:
                raise AssertionError("it did not come up")
            assert provider.requests[-1].header("authorization") == "Bearer sk-x"
        finally:
            for process in running:
                process.terminate()
            statuses = [process.wait(20) for process in running]
        assert statuses == [0, 0, 0]


def test_tracebacks_are_no_messages(tmp_path: Path) -> None:
    nowhere = run(
        "up",
        "-c",
        str(config(tmp_path, run_dir="/proc/nope")),
        "--listen",
        f"127.0.0.1:{free_port()}",
        "--admin",
        f"127.0.0.1:{free_port()}",
        environment={"TEST_KEY": "k"},
    )
    assert nowhere.returncode == 1
    assert "Traceback" not in nowhere.stderr
    assert "/proc/nope" in nowhere.stderr
    bad = run("fake-provider", "--behaviour", "bad=1")
    assert (bad.returncode, "Traceback" in bad.stderr) == (1, False)
    assert run("new-key", "a b: }").returncode == 1


def test_folders_of_killed_supervisors_are_removed(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    owners = Path(tempfile.gettempdir()).glob("headgate-*/owner.pid")
    folders = [owner.parent for owner in owners if owner.read_text() == str(demo.process.pid)]
    assert sorted(folder.name.rpartition("-")[0] for folder in folders) == ["headgate-demo", "headgate-run"]
    demo.process.kill()
    demo.process.wait()
    assert all(folder.exists() for folder in folders)
    from headgate.up.folder import remove_orphans

    remove_orphans()
    assert not any(folder.exists() for folder in folders)
