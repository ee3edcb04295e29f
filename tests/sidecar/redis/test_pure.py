"""URLs, slots and pauses: values in, values out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as redis_py_key_slot

from sidecar.redis import SCHEMES, parse
from sidecar.redis.backoff import Backoff
from sidecar.redis.slots import key_slot
from sidecar.redis.url import Address, Credentials, TlsOptions, Topology


@pytest.mark.parametrize(
    ("url", "addresses", "database"),
    [
        ("redis://h", [("h", 6379)], 0),
        ("redis://h:1/3", [("h", 1)], 3),
        ("redis://h:1?db=4", [("h", 1)], 4),
        ("redis://[::1]:2", [("::1", 2)], 0),
        ("unix:///run/redis.sock", [("/run/redis.sock", 0)], 0),
        ("unix:///run/redis.sock?db=5", [("/run/redis.sock", 0)], 5),
        ("redis+sentinel://a,b:7/svc/6", [("a", 26379), ("b", 7)], 6),
        ("redis+cluster://a:1,[::1]", [("a", 1), ("::1", 6379)], 0),
        ("redis://[fe80::1%eth0]:2", [("fe80::1%eth0", 2)], 0),
        ("redis://h:1/3\n", [("h", 1)], 3),  # as files of secrets end
    ],
)
def test_where_it_is(url: str, addresses: list[tuple[str, int]], database: int) -> None:
    target = parse(url)
    assert list(target.addresses) == [Address(*one) for one in addresses]
    assert target.database == database
    assert target.tls is None


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_takes_a_user_a_password_and_a_timeout(scheme: str) -> None:
    place = {"unix://": "/x", "redis+sentinel://": "h/svc", "rediss+sentinel://": "h/svc"}.get(scheme, "h")
    target = parse(f"{scheme}us%40er:p%2F%23w@{place}?socket_timeout=0.25&socket_connect_timeout=2")
    assert target.credentials == Credentials("us@er", "p/#w")
    assert (target.timeout, target.connect_timeout) == (0.25, 2.0)
    assert (target.tls is not None) == scheme.startswith("rediss")
    assert "p/#w" not in repr(target)


def test_sentinels_have_a_service_and_credentials_of_their_own() -> None:
    target = parse("rediss+sentinel://:data@a,b/svc?sentinel_username=s&sentinel_password=watch")
    assert (target.topology, target.service) == (Topology.SENTINEL, "svc")
    assert target.credentials == Credentials("", "data")
    assert target.sentinel_credentials == Credentials("s", "watch")


def test_certificates_are_spelled_as_redis_py_does() -> None:
    target = parse("rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false")
    assert target.tls == TlsOptions("/ca", "/c", "/k", check_hostname=False)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("memory://", "its scheme is unknown"),
        ("redis://u:hunter2/x@h", "the port is not a number"),
        ("redis://u:hunter2?x@h", "the port is not a number"),
        ("redis://u:1?hunter2@h", "a parameter that is not known"),
        ("redis://u:a#hunter2@h", "'#' is written %23"),
        ("redis://u:hunter2:x@h:1:2", "stands in brackets"),
        ("redis://[hunter2", "stands in brackets"),
        ("redis://[hunter2]:1", "in brackets is an IPv6"),
        ("redis://h\thunter2", "control characters"),
        ("redis://h/hunter2", "the database is not a number"),
        ("redis://h?hunter2=1", "a parameter that is not known"),
        ("redis://h?socket_timeout=hunter2", "socket_timeout is seconds"),
        ("redis://h:0", "the port is not a number"),
        ("redis://h?ssl_ca_certs=hunter2", "ssl_ parameters belong to rediss://"),
        ("rediss://h?ssl_cert_reqs=hunter2", "ssl_cert_reqs is"),
        ("rediss://h?ssl_check_hostname=hunter2", "ssl_check_hostname is"),
        ("redis://hunter2@h", "a user needs a password"),
        ("redis://a,b", "several hosts are"),
        ("redis+sentinel://u:hunter2@a", "Sentinel needs a service"),
        ("redis+cluster://u:hunter2@a/1", "only database 0"),
        ("unix://hunter2", "a unix socket needs a path"),
    ],
)
def test_says_what_is_wrong_and_never_a_piece_of_a_password(url: str, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)
    message, separator, mend = str(caught.value).partition(" | ")
    assert text in message
    assert separator
    assert mend
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None or "hunter2" not in str(caught.value.__cause__)


@given(st.text(alphabet=st.sampled_from("{}ab:é")))
def test_slots_are_those_of_redis(key: str) -> None:
    assert key_slot(key) == redis_py_key_slot(key.encode())


def test_the_first_attempt_is_at_once_and_the_pauses_grow_to_a_cap() -> None:
    longest = Backoff(0.01, 0.25, lambda: 1.0)
    assert [longest.delay() for _ in range(8)] == [0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]
    longest.reset()
    assert longest.delay() == 0
    shortest = Backoff(0.01, 0.25, lambda: 0.0)
    assert [shortest.delay() for _ in range(3)] == [0, 0.005, 0.01]
    assert max(shortest.delay() for _ in range(10_000)) == 0.125
