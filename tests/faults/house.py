"""Everything that stands behind the gateway while the fault table runs: three providers, and ports that fail."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tests.faults.ports import RefusingPort, untrusted
from tests.faults.table import LETTERS, Case, Received
from tests.gateway import key_entry
from tests.provider_thread import ProviderThread

FIRST_BYTE_SECONDS = 1
IDLE_SECONDS = 1


class FaultHouse:
    """The providers a, b and c, and for each target that cannot be reached a port of its own. A context manager.

    A target that was seen failing may be passed over for a while, so no two cases share a faulty one: its model's
    name carries the case's, or its port is its own.
    """

    def __init__(self, cases: tuple[Case, ...]) -> None:
        self._cases = cases
        self._stack = ExitStack()
        self._providers = {letter: ProviderThread(letter) for letter in LETTERS}
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> FaultHouse:
        with ExitStack() as stack:
            for letter, provider in self._providers.items():
                stack.enter_context(provider)
                self._addresses[letter] = provider.base_url
            for case in self._cases:
                for letter in case.letters:
                    if case.port != "fake" and case.faulty(letter):
                        self._addresses[f"{letter}-{case.name}"] = _failing(case, letter, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def config(self) -> dict[str, Any]:
        """The content of headgate.yaml: the providers, and a model for each case."""
        return {
            "providers": {
                name: {"dialect": "openai", "base_url": address, "connect_timeout": 1.0}
                for name, address in self._addresses.items()
            },
            "models": {
                case.name: {
                    "strategy": "weighted",
                    "targets": [
                        {**_target(case, letter), "priority": priority} for priority, letter in enumerate(case.letters)
                    ],
                    "attempts": 3,
                    "timeouts": {"first_byte": FIRST_BYTE_SECONDS, "idle": IDLE_SECONDS},
                }
                for case in self._cases
            },
            "keys": [key_entry("team-a")],
        }

    def received(self, case: Case) -> Received:
        """How many of this case's requests have reached each provider."""
        end = f"tag={case.name}".encode()
        counted = {
            letter: sum(end in request.body for request in provider.requests)
            for letter, provider in self._providers.items()
        }
        return Received(**counted)


def _target(case: Case, letter: str) -> dict[str, str]:
    tag = f"tag={case.name}-{letter}"
    if not case.faulty(letter):
        return {"provider": letter, "model": f"fake:{tag}"}
    if case.port != "fake":
        return {"provider": f"{letter}-{case.name}", "model": f"fake:{tag}"}
    return {"provider": letter, "model": f"fake:{','.join(filter(None, (case.fake, tag)))}"}


def _failing(case: Case, letter: str, stack: ExitStack) -> str:
    if case.port == "refuse":
        return stack.enter_context(RefusingPort()).base_url
    if case.port == "tls":
        return stack.enter_context(untrusted(letter)).base_url
    return f"http://{letter}-{case.name.replace('_', '-')}.invalid:80/v1"
