"""What must hold for the tree as a whole."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def test_the_folder_envoy_never_becomes_a_package() -> None:
    assert not (ROOT / "envoy" / "__init__.py").exists()


def test_the_locks_hold_no_index_address_and_every_hash() -> None:
    for name in ("requirements.lock", "requirements-build.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert "--find-links" not in text.replace("--no-emit-find-links", "")
        pinned = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
        assert all(line.rstrip().endswith("\\") for line in pinned)


def _plain(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0"])
@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_holds_what_its_packages_ask_for_on_every_python(lock: str, python: str) -> None:
    """A lock is written with one Python; pip refuses what another one needs besides (redis before 3.11.3, on Debian 12)."""
    lines = (ROOT / lock).read_text().splitlines()
    locked = {_plain(line.split("==")[0]) for line in lines if "==" in line and line[0].isalnum()}
    version = {"python_version": ".".join(python.split(".")[:2]), "python_full_version": python}
    environment: dict[str, str] = {**default_environment(), **version, "extra": ""}  # type: ignore[dict-item]
    packages = [one for one in metadata.distributions() if _plain(one.metadata["Name"]) in locked]
    asked = [(one.metadata["Name"], Requirement(text)) for one in packages for text in one.requires or ()]
    missing = [
        f"{name} asks for {wanted}"
        for name, wanted in asked
        if (wanted.marker is None or wanted.marker.evaluate(environment)) and _plain(wanted.name) not in locked
    ]
    assert len(packages) > 20
    assert not missing


def test_core_modules_know_no_grpc_no_redis_and_no_clock() -> None:
    pure = [
        *(ROOT / "extproc" / "filters").glob("*.py"),
        *(ROOT / "extproc" / "providers").glob("*.py"),
        *(ROOT / "ratelimit" / "algorithms").glob("*.py"),
        *(
            ROOT / "extproc" / "balance" / f"{name}.py"
            for name in ("attempt", "choice", "circuit", "health", "order", "strategies", "waits")
        ),
        *(
            ROOT / "extproc" / "semantic" / f"{name}.py"
            for name in ("controls", "frame", "question", "rules", "vector")
        ),
        *(ROOT / "extproc" / name for name in ("processor.py", "context.py", "policy.py")),
        ROOT / "ratelimit" / "rules.py",
    ]
    assert len(pure) > 12
    for path in pure:
        text = path.read_text()
        for word in ("import grpc", "import redis", "from redis", "import time", "import asyncio", "import socket"):
            assert word not in text, f"{path.name}: {word}"


def test_every_dependency_is_explained() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "dependencies.md").read_text()
    for line in (
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *(ROOT / "requirements-build.in").read_text().splitlines()[1:],
    ):
        name = line.split(">")[0].split("=")[0].strip()
        assert f"`{name}`" in text, name
