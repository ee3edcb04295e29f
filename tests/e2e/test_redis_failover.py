"""The Redis behind the limits fails over while requests are on their way."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.gateway import Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import Sentinels


def test_nobody_fails_while_redis_fails_over_and_limits_hold_again(tmp_path: Path) -> None:
    with ProviderThread(record=False) as provider, Sentinels(tmp_path, count=3) as sentinels:
        config = {
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [
                key_entry("team-a", limits={"requests": "1000000/day"}),
                key_entry("few", limits={"requests": "2/day"}),
            ],
            "store": sentinels.url,
        }
        with Gateway(config) as gateway:
            statuses: list[int] = []
            stop = threading.Event()

            def load() -> None:
                while not stop.is_set():
                    statuses.append(post(gateway.listen, chat()).status)

            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            gateway.wait_for(lambda: len(statuses) > 50)
            master, _ = sentinels.roles()
            master.kill()
            gateway.wait_for(lambda: gateway.metric("headgate_store_errors_total") > 0)
            served = len(statuses)

            def counts_again() -> bool:
                answer = post(gateway.listen, chat())
                return answer.header("x-ratelimit-remaining-requests") is not None

            gateway.wait_for(counts_again, 30)
            gateway.wait_for(lambda: len(statuses) > served + 50, 30)
            stop.set()
            for thread in threads:
                thread.join()
            assert set(statuses) == {200}
            assert [post(gateway.listen, chat(), key="sk-few").status for _ in range(3)] == [200, 200, 429]
