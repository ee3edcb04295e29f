"""Quotas with the real Envoy: its rate_limit_quota filter asks us, and enforces by itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from headgate.up.envoy import envoy_binary
from ratelimit.operator import Operator
from ratelimit.quota.server import quota_service
from ratelimit.settings import RuleFile, build
from ratelimit.storage import MemoryStore
from sidecar.server import GrpcServer
from tests.gateway import free_port

RULES = build(
    [
        RuleFile(
            "f",
            "domain: mesh\ndescriptors: [{key: user, rate_limit: {unit: hour, requests_per_unit: 20}}, "
            "{key: user, value: blocked, rate_limit: {unit: hour, requests_per_unit: 0}}]",
        )
    ]
)


def bootstrap(port: int, admin: int, socket: Path) -> dict[str, Any]:
    """An Envoy that answers 200 itself, behind the quota filter; a bucket per value of the header `user`."""
    bucket = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings",
        "bucket_id_builder": {
            "bucket_id_builder": {
                "user": {
                    "custom_value": {
                        "name": "user",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                            "header_name": "user",
                        },
                    }
                }
            }
        },
        "reporting_interval": "0.2s",
        "no_assignment_behavior": {"fallback_rate_limit": {"blanket_rule": "ALLOW_ALL"}},
        "expired_assignment_behavior": {"reuse_last_assignment": {}, "expired_assignment_behavior_timeout": "30s"},
    }
    quota = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig",
        "domain": "mesh",
        "rlqs_server": {"envoy_grpc": {"cluster_name": "quota"}},
        "bucket_matchers": {
            "matcher_list": {
                "matchers": [
                    {
                        "predicate": {
                            "single_predicate": {
                                "input": {
                                    "name": "user",
                                    "typed_config": {
                                        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                                        "header_name": "user",
                                    },
                                },
                                "value_match": {"safe_regex": {"google_re2": {}, "regex": ".+"}},
                            }
                        },
                        "on_match": {"action": {"name": "bucket", "typed_config": bucket}},
                    }
                ]
            }
        },
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.rate_limit_quota", "typed_config": quota},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {
            "listeners": [
                {
                    "address": address,
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "quota",
                    "type": "STATIC",
                    "typed_extension_protocol_options": http2,
                    "load_assignment": {
                        "cluster_name": "quota",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}],
                    },
                }
            ],
        },
    }


@asynccontextmanager
async def envoy(folder: Path, socket: Path) -> AsyncIterator[str]:
    port, admin = free_port(), free_port()
    path = folder / "envoy.json"
    path.write_text(json.dumps(bootstrap(port, admin, socket)))
    log = (folder / "envoy.log").open("wb")
    command = [str(envoy_binary()), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1"]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + 30
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{admin}/ready") as reply:
                        if reply.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                assert process.poll() is None, (folder / "envoy.log").read_text()[-2000:]
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)


async def test_envoy_enforces_what_it_was_given_without_asking(tmp_path: Path) -> None:
    store = MemoryStore()
    operator = Operator(store, time.time)
    socket = tmp_path / "quota.sock"
    server = GrpcServer([quota_service(operator, lambda: RULES)], listen=f"unix://{socket}")
    await server.start()
    entries = (("user", "ann"),)
    async with envoy(tmp_path, socket) as url, aiohttp.ClientSession() as session:

        async def status(user: str) -> int:
            async with session.get(url, headers={"user": user}) as reply:
                return reply.status

        async def used() -> int:
            (counter,) = await operator.inspect(RULES, "mesh", entries)
            return counter.used

        # The first request of a bucket makes it known; what it is given then holds.
        assert await status("ann") == 200
        while await used() < 1:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)  # the assignment's way to Envoy
        answers = [await status("ann") for _ in range(40)]
        admitted = answers.count(200)
        # A bucket of 19 tokens is there, and hardly fills (20 an hour).
        assert set(answers) == {200, 429}
        assert 19 <= admitted <= 21
        assert answers[: admitted - 1] == [200] * (admitted - 1)  # then the bucket was empty
        while await used() < 1 + admitted:
            await asyncio.sleep(0.05)
        # Told to deny until the window ends; somebody else has a bucket of their own.
        await asyncio.sleep(0.3)
        assert [await status("ann") for _ in range(5)] == [429] * 5
        assert await status("bob") == 200
        assert await status("blocked") == 200  # no assignment yet: the fallback of this configuration
        deadline = time.monotonic() + 10
        while await status("blocked") == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    await server.stop(1)
