"""What a server does differently, as data."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from extproc.providers.openai import OPERATIONS
from extproc.providers.quirks import ALL_OPERATIONS, Quirks


def test_a_server_without_quirks_serves_everything_and_reports_usage() -> None:
    quirks = Quirks()
    assert quirks.include_usage
    assert quirks.done_marker
    assert not quirks.realtime
    assert quirks.operations == ALL_OPERATIONS
    assert quirks.renames is None


def test_the_other_name_of_the_maximum_is_the_one_to_replace() -> None:
    assert Quirks(max_tokens="max_tokens").renames == ("max_completion_tokens", "max_tokens")
    assert Quirks(max_tokens="max_completion_tokens").renames == ("max_tokens", "max_completion_tokens")


def test_quirks_are_never_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Quirks().include_usage = False  # type: ignore[misc]


def test_every_operation_of_the_gateway_can_be_named() -> None:
    assert {operation.name for operation in OPERATIONS.values()} <= ALL_OPERATIONS
