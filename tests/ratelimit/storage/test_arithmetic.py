"""The scripts' arithmetic, asked of a real Redis: exact where a double's product is not."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from ratelimit.storage.base import MAX_COUNT
from tests.redis_server import RedisServer

_ARITHMETIC = resources.files("ratelimit.scripts").joinpath("arithmetic.lua").read_text()
_NUMBERS = "tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])"
_MULDIV = f"{_ARITHMETIC}\nlocal q, r = muldiv({_NUMBERS}) return {{text(q), text(r)}}"
_SUM_UP = f"{_ARITHMETIC}\nreturn text(sum_up({_NUMBERS}))"

near = st.integers(0, 52).flatmap(lambda bit: st.integers(-2, 2).map(lambda more: max(0, 2**bit + more)))
numbers = st.integers(0, MAX_COUNT) | near | st.integers(MAX_COUNT - 5, MAX_COUNT) | st.integers(0, 100)
divisors = numbers.map(lambda number: max(1, number)) | st.sampled_from([10**6, 60 * 10**6, 315_360_000 * 10**6])


@pytest.fixture(scope="module")
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers, numbers, divisors)
def test_floor_and_remainder_of_a_product(redis: Redis, one: int, other: int, divisor: int) -> None:
    quotient, rest = map(int, redis.eval(_MULDIV, 0, one, other, divisor))
    expected, remainder = divmod(one * other, divisor)
    assert rest == remainder
    if expected <= MAX_COUNT:
        assert quotient == expected
    else:
        assert quotient > MAX_COUNT


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers, numbers, divisors)
def test_a_quotient_rounded_up(redis: Redis, one: int, other: int, divisor: int) -> None:
    one %= divisor
    assert int(redis.eval(_SUM_UP, 0, one, other, divisor)) == -(-(one + other) // divisor)
