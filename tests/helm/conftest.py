"""Fixtures of the chart's tests."""

from __future__ import annotations

import pytest

from tests.helm.tools import Tools, tools


@pytest.fixture(scope="session")
def helm_tools() -> Tools:
    """Helm and kubectl; fetched the first time."""
    return tools()
