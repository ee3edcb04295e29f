"""What a client makes of an answer, asked of the fake provider itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults.outcome import Outcome, Seen, understand
from tests.faults.ports import RefusingPort
from tests.faults.runner import ask
from tests.faults.table import Expected, Received
from tests.gateway import Answer
from tests.provider_thread import ProviderThread

WELL = Seen("b", "b", 200, 2, "", "", whole=True, cut=False)
EXPECTED = Expected("b", 200, 2, Received(1, 1), "", "", True, False, (0, 1))


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread("a") as made:
        yield made


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fake", "status", "whole", "cut"),
    [
        ("chunks=3", 200, True, False),
        ("first_chunk_delay_ms=50", 200, True, False),
        ("status=429,retry_after=7", 429, True, False),
        ("reset=body,size=100000", 200, False, True),
        ("reset=headers", 200, False, True),
        ("truncate_after=3", 200, False, True),
        ("broken=true", 200, False, False),
    ],
)
def test_an_answer_is_understood(
    provider: ProviderThread, fake: str, status: int, whole: bool, cut: bool, stream: bool
) -> None:
    seen, seconds = ask(f"127.0.0.1:{provider.provider.port}", f"fake:{fake}", stream=stream)
    retry_after = "7" if status == 429 else ""
    assert seen == Seen("a", "", status, 0, "", retry_after, whole=whole, cut=cut)
    assert seconds < 5


@pytest.mark.parametrize("fake", ["no_done=true", "no_finish=true"])
def test_a_stream_that_does_not_say_it_is_done_is_not_whole(provider: ProviderThread, fake: str) -> None:
    seen, _ = ask(f"127.0.0.1:{provider.provider.port}", f"fake:{fake}", stream=True)
    assert (seen.whole, seen.cut) == (False, False)


def test_no_answer_is_an_outcome_too(provider: ProviderThread) -> None:
    nobody = Seen("", "", 0, 0, "", "", whole=False, cut=True)
    assert ask(f"127.0.0.1:{provider.provider.port}", "fake:reset=before", stream=False)[0] == nobody
    with RefusingPort() as port:
        assert ask(f"127.0.0.1:{port.port}", "m", stream=False)[0] == nobody


def test_the_gateways_own_answer_has_a_code() -> None:
    body = b'{"error": {"message": "m", "type": "t", "param": null, "code": "provider_reset"}}'
    head = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\nx-headgate-attempts: 2\r\ncontent-length: %d"
    seen = understand(Answer(head % len(body) + b"\r\n\r\n" + body))
    assert seen == Seen("", "", 502, 2, "provider_reset", "", whole=True, cut=False)
    odd = understand(Answer(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nnull"))
    assert (odd.code, odd.whole) == ("", True)


def test_nothing_differs_when_all_is_well() -> None:
    assert Outcome(WELL, Received(1, 1), 0.5).differences(EXPECTED) == ()
    named = replace(WELL, told="b-refuse-2-plain")
    assert Outcome(named, Received(1, 1), 0.5).differences(EXPECTED) == ()


def test_everything_that_differs_is_said() -> None:
    other = Seen("a", "b", 503, 3, "x", "7", whole=False, cut=True)
    assert Outcome(other, Received(0, 0, 1), 2.0).differences(EXPECTED) == (
        "served_by: a, not b",
        "status: 503, not 200",
        "attempts: 3, not 2",
        "received: 0 0 1, not 1 1 0",
        "code: x, not none",
        "retry_after: 7, not none",
        "whole: false, not true",
        "cut: true, not false",
        "x-headgate-provider: b, but a answered",
        "seconds: 2.00, not 0 to 1",
    )
