"""docs/install/kubernetes.md with a real API server: what its commands make is admitted, kept and taken away again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helm.cluster.server import Cluster
from tests.helm.node import Node
from tests.helm.test_docs_kubernetes import SECONDS, check, walk


@pytest.mark.timeout(SECONDS + 100)
def test_every_command_in_its_order(cluster: Cluster, node: Node, tmp_path: Path) -> None:
    check(*walk(node, tmp_path, cluster))
    assert "headgate" not in cluster.kubectl("get", "deployments,services,configmaps", "-A", "-o", "name").replace(
        "namespace", ""
    )
