"""Fixtures of the chart's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helm.node import Node
from tests.helm.tools import Tools, tools
from tests.image.built import let_others_in


@pytest.fixture(scope="session")
def helm_tools() -> Tools:
    """Helm and kubectl; fetched the first time."""
    return tools()


@pytest.fixture
def node(rootfs: Path, tmp_path: Path) -> Iterator[Node]:
    """Where the pods of one test run."""
    let_others_in(tmp_path)
    made = Node(rootfs, tmp_path)
    yield made
    made.close()
