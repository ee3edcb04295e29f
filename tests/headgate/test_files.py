"""The order in which a running Envoy's files change: what an earlier decision still needs, stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headgate.render.layout import Layout
from headgate.render.secrets import redacted
from headgate.settings import Settings
from headgate.up import files
from headgate.up.files import EnvoyFiles, EnvoyRefusedError, Rendered, render, write_all


class FakeAdmin:
    """Takes every file at once, as a quick Envoy would, or refuses it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.refuse = ""
        self.rejected = 0

    async def stats(self, _pattern: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for scope, path in (
            ("cluster_manager.cds", self.layout.clusters),
            ("http.gateway.rds.gateway", self.layout.routes),
            ("listener_manager.lds", self.layout.listeners),
        ):
            if path.name == self.refuse:
                self.rejected += 1
                found[f"{scope}.update_rejected"] = str(self.rejected)
            else:
                found[f"{scope}.version_text"] = json.loads(path.read_text())["version_info"]
                found[f"{scope}.update_rejected"] = "0"
        return found


def rendered(layout: Layout, provider: str, version: str) -> Rendered:
    settings = Settings.model_validate(
        {
            "providers": {provider: {"dialect": "openai", "base_url": "http://x/v1", "api_key": "k"}},
            "models": {provider: {"provider": provider}},
        }
    )
    return render(settings, layout, dict.fromkeys(redacted(settings), "Bearer k"), version)


def names(path: Path) -> set[str]:
    resources = json.loads(path.read_text())["resources"]
    if path.name == "rds.json":
        return {one.get("name", "catch-all").partition("@")[0] for one in resources[0]["virtual_hosts"][0]["routes"]}
    return {one["name"].partition("/")[0] for one in resources}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, FakeAdmin, EnvoyFiles, dict[str, float]]:
    monkeypatch.setattr(files, "_WORKERS_SECONDS", 0)
    layout = Layout(tmp_path)
    first = rendered(layout, "one", "v1")
    write_all(first, layout)
    admin = FakeAdmin(layout)
    clock = {"now": 0.0}
    admin_like: Any = admin
    return layout, admin, EnvoyFiles(layout, admin_like, first, lambda: clock["now"]), clock


OURS = {"headgate_extproc", "headgate_ratelimit"}


async def test_old_and_new_overlap_until_nobody_needs_the_old(world: Any) -> None:
    layout, _, envoy, clock = world
    second = rendered(layout, "two", "v2")
    await envoy.begin(second)
    assert names(layout.clusters) == OURS | {"one", "two"}
    assert names(layout.routes) == {"one", "two", "catch-all"}
    envoy.commit(second, linger=10)
    clock["now"] = 9
    await envoy.sweep()
    assert names(layout.clusters) == OURS | {"one", "two"}
    clock["now"] = 10
    await envoy.sweep()
    assert names(layout.clusters) == OURS | {"two"}
    assert names(layout.routes) == {"two", "catch-all"}
    assert [path.name.partition("@")[0] for path in layout.folder.glob("sds_*")] == ["sds_credential_two"]


async def test_changes_in_quick_succession_keep_all_that_linger(world: Any) -> None:
    layout, _, envoy, clock = world
    for version, provider in (("v2", "two"), ("v3", "three")):
        new = rendered(layout, provider, version)
        await envoy.begin(new)
        envoy.commit(new, linger=10)
        clock["now"] += 4
    assert names(layout.clusters) == OURS | {"one", "two", "three"}
    clock["now"] = 11
    await envoy.sweep()
    assert names(layout.clusters) == OURS | {"two", "three"}
    clock["now"] = 15
    await envoy.sweep()
    assert names(layout.clusters) == OURS | {"three"}


@pytest.mark.parametrize("refused", ["cds.json", "rds.json"])
async def test_what_envoy_refuses_is_taken_back(world: Any, refused: str) -> None:
    layout, admin, envoy, _ = world
    admin.refuse = refused
    with pytest.raises(EnvoyRefusedError):
        await envoy.begin(rendered(layout, "two", "v2"))
    assert names(layout.clusters) == OURS | {"one"}
    assert names(layout.routes) == {"one", "catch-all"}


def test_files_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write(path, {"a": 1})
    files.write(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
