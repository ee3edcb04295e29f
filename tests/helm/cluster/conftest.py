"""One API server for all tests here. Without its binaries they are not listed; `make kube` insists on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helm.cluster.server import Cluster, wanted

collect_ignore_glob = [] if wanted() else ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as one:
        yield one
