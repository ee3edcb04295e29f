from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

from bench.ablations import ABLATIONS
from bench.gateway import base
from headgate.render.bootstrap import static_bootstrap
from headgate.render.layout import Layout
from headgate.render.secrets import credentials
from headgate.settings import load_settings


def test_most_of_them_still_find_what_they_take_away(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_text(json.dumps(base(9101, providers={"fake": {"api_key": "sk-provider"}})))
    settings, file = load_settings(path, {})
    whole = static_bootstrap(settings, Layout(tmp_path), credentials(settings, file, {}), admin="127.0.0.1:9901")
    applied = set()
    for ablation in ABLATIONS:
        changed = deepcopy(whole)
        try:
            ablation.apply(changed)
        except (LookupError, ValueError):
            continue
        if changed != whole:
            applied.add(ablation.name)
    # The tool says which are not there; when many are not, it has fallen behind the product.
    assert len(applied) > len(ABLATIONS) // 2
