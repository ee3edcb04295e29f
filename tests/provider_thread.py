"""The fake provider in a thread of its own, so that any test can look at what it received."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from typing import Any

from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.recorder import Recorder
from headgate.fake_provider.server import FakeProvider


class ProviderThread:
    """A context manager around one `FakeProvider`."""

    def __init__(
        self,
        name: str = "fake",
        defaults: Behaviour | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        record: bool = True,
    ) -> None:
        self.provider = FakeProvider(name, defaults, record=record, tls=tls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"provider-{name}", daemon=True)

    @property
    def base_url(self) -> str:
        return self.provider.base_url

    @property
    def requests(self) -> Recorder:
        return self.provider.requests

    def behave(self, text: str) -> None:
        """From now on every request gets this behaviour; "" is the normal one."""
        behaviour = Behaviour.parse(text)

        async def swap() -> None:
            self.provider.defaults = behaviour

        self._run(swap())

    def forget(self) -> None:
        """Forget what was received, counted and stored."""

        async def forget() -> None:
            self.provider.forget()

        self._run(forget())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def __enter__(self) -> ProviderThread:
        self._thread.start()
        self._run(self.provider.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self.provider.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
