"""Fixtures of the chart's tests."""

from __future__ import annotations

import pytest

from headgate.settings import Settings
from tests.helm.tools import Tools, tools

# A Headgate without a port for probes cannot be asked to run the pod.
collect_ignore = [] if "probes" in Settings.model_fields else ["test_pod_runs.py"]


@pytest.fixture(scope="session")
def helm_tools() -> Tools:
    """Helm and kubectl; fetched the first time."""
    return tools()
