"""Every case renders with every client, for every Kubernetes, into objects that Kubernetes' schemas allow."""

from __future__ import annotations

import json

import kubernetes_validate
import pytest
import yaml

from tests.helm.chart import CASES, CHART, MODES, ROOT, ChartError, Json, case_file, helm, render, render_text
from tests.helm.tools import LOCK, Tools

KUBERNETES = ("1.29", "1.33", "1.37")
# What Kubernetes itself does not define.
FOREIGN = (
    "cert-manager.io/",
    "gateway.envoyproxy.io/",
    "keda.sh/",
    "monitoring.coreos.com/",
    "networking.istio.io/",
)
# `preStop.sleep` is off by default before.
NEEDS = {"gateway-stock-envoy": "1.30"}


def _runs_on(case: str, kube: str) -> bool:
    return tuple(map(int, kube.split("."))) >= tuple(map(int, NEEDS.get(case, "1.29").split(".")))


def test_there_is_a_case_for_every_mode() -> None:
    found = {yaml.safe_load(case_file(case).read_text() or "{}").get("mode", "gateway") for case in CASES}
    assert found == set(MODES)


@pytest.mark.parametrize("case", CASES)
def test_lint(case: str) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", str(CHART), "-f", str(case_file(case)))


@pytest.mark.parametrize("kube", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_schemas(case: str, kube: str) -> None:
    if not _runs_on(case, kube):
        with pytest.raises(ChartError, match=NEEDS[case]):
            render(case=case, kube=kube)
        return
    for one in render(case=case, kube=kube).all:
        if not one["apiVersion"].startswith(FOREIGN):
            kubernetes_validate.validate(one, kube, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_every_client_renders_the_same(case: str, helm_tools: Tools) -> None:
    assert len(helm_tools.clients) >= 2
    texts = {render_text(case=case, client=client) for client in helm_tools.clients}
    assert len(texts) == 1


@pytest.mark.parametrize("kube", ["1.28.9", "1.20.0"])
def test_older_kubernetes_is_refused(kube: str) -> None:
    with pytest.raises(ChartError, match="kubeVersion"):
        render(kube=kube)


@pytest.mark.parametrize("kube", ["1.29.0", "1.33.1-gke.100", "1.34.4+k3s1", "1.37"])
def test_versions_of_distributions_are_taken(kube: str) -> None:
    assert render(kube=kube).all


@pytest.mark.parametrize("case", CASES)
def test_every_object_has_a_name_and_labels_of_its_own(case: str) -> None:
    objects = render(case=case).all
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))


def test_the_chart_is_packaged_whole(tmp_path: object) -> None:
    helm("package", str(CHART), "-d", str(tmp_path))


def test_yaml_is_tidy() -> None:
    from yamllint import linter
    from yamllint.config import YamlLintConfig

    rules = YamlLintConfig(
        "extends: default\nrules: {line-length: disable, document-start: disable, comments: disable, "
        "braces: {max-spaces-inside: 1}, indentation: {indent-sequences: whatever}}"
    )
    files = [
        CHART / "values.yaml",
        CHART / "Chart.yaml",
        CHART / "checklist.yaml",
        CHART / "monitoring" / "alerts.yaml",
    ]
    for path in [*files, *(case_file(case) for case in CASES)]:
        problems = [f"{path.name}:{one.line}: {one.desc}" for one in linter.run(path.read_text(), rules)]
        assert not problems


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_reads_the_same_everywhere(case: str) -> None:
    """No key stands twice, in no document."""

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Loader, node: yaml.MappingNode) -> Json:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return {
            str(key): loader.construct_object(value, deep=True)
            for key, (_, value) in zip(keys, node.value, strict=True)
        }

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    for one in yaml.load_all(render_text(case=case), Loader):
        json.dumps(one)


def test_the_lock_of_the_tools_holds_hashes_and_no_address() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    assert text.count("==") == text.count("--hash=sha256:") == 2


def test_nothing_in_the_chart_is_left_out_of_the_lists() -> None:
    """Templates and files that nothing refers to would only be read."""
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    for folder in ("scripts", "monitoring"):
        for path in (CHART / folder).iterdir():
            assert f"{folder}/{path.name}" in templates
    assert (ROOT / "helm" / "headgate" / "README.md").is_file()
