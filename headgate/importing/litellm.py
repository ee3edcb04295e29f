"""LiteLLM's `config.yaml` as `headgate.yaml`.

https://docs.litellm.ai/docs/proxy/config_settings
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from headgate.importing import litellm_keys, litellm_models, litellm_settings
from headgate.importing.document import Document
from headgate.importing.litellm_targets import WAIT, LiteLLMProviders
from headgate.importing.litellm_work import Work
from headgate.importing.report import Entry, Ledger
from headgate.importing.result import Result
from headgate.importing.secrets import Secrets
from sidecar.configfile import ConfigFile, parse
from sidecar.errors import ConfigError, Problem

_OTHER = {
    "guardrails": ("there are no guardrails yet", "keep them where your clients are, or behind the gateway"),
    "mcp_servers": ("MCP is not served", ""),
    "vector_store_registry": ("there are no vector stores", ""),
    "prompts": ("prompts are the client's", ""),
    "callback_settings": ("there are no callbacks: metrics are at /metrics, one log line is written per request", ""),
    "assistant_settings": ("assistants are not routed", "give the key `passthrough: [PROVIDER]` and use /p/PROVIDER/…"),
    "files_settings": ("files are not routed", "give the key `passthrough: [PROVIDER]` and use /p/PROVIDER/…"),
    "finetune_settings": ("fine tuning is not routed", "give the key `passthrough: [PROVIDER]` and use /p/PROVIDER/…"),
    "search_tools": ("there are no search tools", ""),
    "include": ("other files are not read", "put everything into one file and import that"),
}


def read(text: str, name: str) -> ConfigFile:
    """A file of another gateway, nothing in it replaced. Raises `ConfigError` with file, line and mend."""
    return parse(text, name, {}, folder=Path(), deferred=("*",))


def convert(
    file: ConfigFile,
    environment: Mapping[str, str],
    now: datetime,
    *,
    keys: ConfigFile | None = None,
    through: str = "",
    wanted: Sequence[str] = (),
) -> Result:
    """`file` as ours. `keys` are LiteLLM's virtual keys, `through` a LiteLLM that goes on serving what we cannot,
    `wanted` models that clients use of patterns such as `openai/*`.

    Raises `ConfigError` when there is nothing to be had of it.
    """
    document, secrets = Document(), Secrets()
    document.values = {"providers": {}, "models": {}, "keys": []}
    work = Work(
        file,
        Ledger(file),
        document,
        secrets,
        LiteLLMProviders(document, secrets, through=through),
        environment,
        now,
        wanted,
    )
    requested = litellm_keys.models_named(keys) if keys else set()
    litellm_models.add(work, requested)
    litellm_settings.add(work)
    _master_key(work)
    reports: dict[str, tuple[Entry, ...]] = {file.name: ()}
    if keys is not None:
        ledger = Ledger(keys)
        litellm_keys.add(work, keys, ledger)
        reports[keys.name] = ledger.entries()
    for key in file.values:
        if key in _OTHER:
            work.said.missing((key,), *_OTHER[key])
    if not document.values["models"]:
        raise ConfigError([_nothing(work)])
    _finish(work)
    reports[file.name] = work.said.entries()
    return Result(document, reports, secrets.variables)


def _nothing(work: Work) -> Problem:
    if "model_list" not in work.file.values:
        return Problem(f"{work.file.name}:1", "model_list", "is missing", "is this LiteLLM's config.yaml?")
    reasons = [entry for entry in work.said.entries() if entry.path[:1] == ("model_list",) and entry.note]
    first = next((one for one in reasons if one.path[-1:] == ("model",)), reasons[0] if reasons else None)
    place = work.file.place(first.path if first else ("model_list",))
    why = f"no model of it can be served: {first.note}" if first else "holds no model"
    return Problem(place, "model_list", why, first.mend if first else "add models")


def _master_key(work: Work) -> None:
    """The master key goes on working as a key of its own: only its hash is written."""
    path = ("general_settings", "master_key")
    value = work.section("general_settings").get("master_key")
    if not isinstance(value, str) or not value:
        if value is None and path not in work.file.lines:
            work.document.note(
                ("keys",), "LiteLLM without master_key lets everybody in; here every request needs a key."
            )
        return
    if value.startswith("os.environ/"):
        name = value.removeprefix("os.environ/")
        value = work.environment.get(name, "")
        if not value:
            mend = f'run this again with {name} set, or write the hash: printf %s "${name}" | sha256sum'
            work.said.changed(path, f"{name} is not set, so its hash is not known: the key is left out", mend)
            work.document.note(
                ("keys",), f"LiteLLM's master key ({name}) is not here: headgate import was run without it."
            )
            return
    digest = hashlib.sha256(value.encode()).hexdigest()
    work.document.values["keys"].append({"name": "master", "sha256": digest})
    note = "a key like others (`master`, every model): it administers nothing, and only its hash is written"
    work.said.changed(path, note)


def _finish(work: Work) -> None:
    values = work.document.values
    if not values["keys"]:
        del values["keys"]
        work.document.note(
            ("models",), "Nobody has a key yet: `headgate new-key NAME` makes one and its entry for `keys:`."
        )
        if ("keys",) in work.document.comments:
            for line in work.document.comments.pop(("keys",)):
                work.document.note(("models",), line)
    note = f"idle_timeout: LiteLLM waits {WAIT} s for an answer, Headgate 120 when nothing is said."
    work.document.note(("providers",), note)
    work.document.values = {key: values[key] for key in _ORDER if key in values}
    work.document.header = [
        f"Imported from LiteLLM's {Path(work.file.name).name} by `headgate import litellm`.",
        "Check it with `headgate check`, and read what the import reported.",
    ]


_ORDER = ("listen", "admin", "store", "max_body", "cache", "log", "providers", "models", "keys")
