"""A configuration of LiteLLM, imported and run: it answers, falls back, and LiteLLM's keys go on working."""

from __future__ import annotations

from pathlib import Path

import yaml
from typer.testing import CliRunner

from headgate.cli import app
from tests.gateway import Gateway, chat, digest, post
from tests.provider_thread import ProviderThread

CONFIG = """\
model_list:
  - model_name: smart
    litellm_params: {{model: openai/gpt-4o, api_base: "{first}", api_key: os.environ/FIRST_KEY}}
  - model_name: spare
    litellm_params: {{model: openai/llama-3, api_base: "{second}", api_key: written-out}}
router_settings:
  fallbacks: [{{smart: [spare]}}]
  model_group_alias: {{gpt-4: smart}}
general_settings: {{master_key: sk-master}}
"""


def test_an_imported_configuration_answers_and_falls_back(tmp_path: Path) -> None:
    with ProviderThread("first") as first, ProviderThread("second") as second:
        source, keys, output = tmp_path / "config.yaml", tmp_path / "keys.csv", tmp_path / "headgate.yaml"
        source.write_text(CONFIG.format(first=first.base_url, second=second.base_url))
        rows = [f"{digest('sk-virtual')},app,{{gpt-4}},1000", f"{digest('sk-stopped')},stopped,{{}},0"]
        keys.write_text("\n".join(["token,key_alias,models,rpm_limit", *rows]))
        made = CliRunner().invoke(app, ["import", "litellm", str(source), "--keys", str(keys), "-o", str(output)])
        assert made.exit_code == 0, made.output
        config = yaml.safe_load(output.read_text())
        written_out = config["providers"]["127.0.0.1-2"]["api_key"].strip("${}")
        with Gateway(config, {"FIRST_KEY": "sk-first", written_out: "sk-second"}) as gateway:
            answer = post(gateway.listen, chat("smart"), key="sk-master")
            assert answer.status == 200
            assert answer.header("x-headgate-provider") == "127.0.0.1"
            assert first.requests[-1].header("authorization") == "Bearer sk-first"

            first.behave("status=500")
            answer = post(gateway.listen, chat("gpt-4"), key="sk-virtual")
            assert answer.status == 200
            assert answer.header("x-headgate-provider") == "127.0.0.1-2"
            received = second.requests[-1]
            assert received.header("authorization") == "Bearer sk-second"
            assert received.json()["model"] == "llama-3"

            assert post(gateway.listen, chat("smart"), key="sk-virtual").status == 403  # not among its models
            assert post(gateway.listen, chat("smart"), key="sk-stopped").status == 429  # rpm_limit: 0
