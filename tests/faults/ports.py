"""Ports behind which nobody answers: refusing, silent, and with a certificate that nobody trusts."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from pathlib import Path

from tests.provider_thread import ProviderThread
from tests.sidecar.certificates import Authority

_FILLERS = 16


class RefusingPort:
    """A port that is taken and refuses every connection, for as long as the context lasts."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))  # bound and not listening: the kernel refuses
        self.port = int(self._socket.getsockname()[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> RefusingPort:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class SilentPort:
    """A port that takes connections and never reads or answers. `full`: not even connections are taken any more."""

    def __init__(self, *, full: bool = False) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(0 if full else 4096)  # never accepted: the kernel completes the handshakes
        self.port = int(self._socket.getsockname()[1])
        self._fillers: list[socket.socket] = []
        for _ in range(_FILLERS if full else 0):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))
            self._fillers.append(filler)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> SilentPort:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self._fillers, self._socket):
            one.close()


def untrusted(name: str = "untrusted") -> ProviderThread:
    """A provider whose certificate is signed by an authority that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="hg-tls-") as folder:
        files = Authority("nobody").server_files(Path(folder))
        context.load_cert_chain(files.certificate, files.key)
    return ProviderThread(name, tls=context)
