"""One gateway with two recording providers for all tests that do not disturb it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.gateway import Gateway, key_entry
from tests.provider_thread import ProviderThread

OPENAI_KEY = "sk-provider-openai-secret"


@dataclass(frozen=True)
class House:
    """A gateway and the providers behind it."""

    gateway: Gateway
    openai: ProviderThread
    local: ProviderThread


@pytest.fixture(scope="session")
def shared_house() -> Iterator[House]:
    with ProviderThread("openai") as openai, ProviderThread("local") as local:
        config = {
            "providers": {
                "openai": {"dialect": "openai", "base_url": openai.base_url, "api_key": "${TEST_OPENAI_KEY}"},
                "local": {"dialect": "openai", "base_url": local.base_url, "idle_timeout": 1.0},
                "down": {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1"},
            },
            "models": {
                "gpt-4o": {"provider": "openai"},
                "fast": [
                    {"provider": "openai", "model": "gpt-4o-mini", "weight": 80},
                    {"provider": "local", "model": "llama-3", "weight": 20},
                ],
                "llama": {"provider": "local", "model": "llama-3"},
                "gone": {"provider": "down"},
                "hasty": {
                    "targets": [{"provider": "local", "model": "llama-3"}],
                    "timeouts": {"first_byte": 0.5, "idle": 1},
                },
            },
            "keys": [
                key_entry("team-a"),
                key_entry("team-b", models=["fast", "gpt-4o"], limits={"requests": "3/year"}),
                key_entry("metered", limits={"requests": "100000/year", "tokens": "1000000/year"}),
            ],
            "request_timeout": 2.0,
        }
        with Gateway(config, {"TEST_OPENAI_KEY": OPENAI_KEY}) as gateway:
            yield House(gateway, openai, local)


@pytest.fixture
def house(shared_house: House) -> House:
    """The shared gateway, with the providers' memories cleared."""
    shared_house.openai.requests.clear()
    shared_house.local.requests.clear()
    return shared_house
