"""LiteLLM's virtual keys: what its database holds of a key is its SHA-256 in hex, which is what ours holds, too."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from typing import Any

from headgate.importing.litellm_work import Work, flag, number
from headgate.importing.report import Ledger
from sidecar.configfile import ConfigFile, KeyPath
from sidecar.errors import ConfigError, Problem

_DIGEST = re.compile(r"[0-9a-f]{64}")
_EVERYTHING = frozenset({"all-proxy-models", "all-team-models", "*"})
_NO_MONEY = ("there are no budgets in money yet", "limit tokens by key")
_MISSING = {
    "max_budget": _NO_MONEY,
    "soft_budget": _NO_MONEY,
    "budget_duration": _NO_MONEY,
    "budget_id": _NO_MONEY,
    "model_max_budget": _NO_MONEY,
    "litellm_budget_table": _NO_MONEY,
    "max_parallel_requests": ("requests at once are not limited", "limit requests by second: `limits.requests`"),
    "model_rpm_limit": ("limits are by key, not by model", "one key for each model"),
    "model_tpm_limit": ("limits are by key, not by model", "one key for each model"),
    "guardrails": ("there are no guardrails yet", ""),
    "allowed_routes": ("`models` and `passthrough` say what a key reaches", ""),
    "aliases": ("a key has no names of its own for models", "name the model in `models`"),
    "tpm_limit_type": ("tokens are reserved before, and settled after", ""),
    "rpm_limit_type": ("requests are counted before they are sent", ""),
    "expires": ("keys do not end by themselves", "take the entry out when its time has come"),
}


def read(text: str, name: str) -> ConfigFile:
    """A list of keys: JSON as `/key/list?return_full_object=true` gives it (or a bare list), or CSV with a header.

    Raises `ConfigError` with file and mend.
    """
    try:
        if text.lstrip().startswith(("{", "[")):
            values = json.loads(text)
            listed = values.get("keys", values.get("data")) if isinstance(values, dict) else values
        else:
            listed = [_row(row) for row in csv.DictReader(io.StringIO(text))]
    except (ValueError, csv.Error, RecursionError) as error:
        mend = "save the answer of /key/list?return_full_object=true"
        raise ConfigError([Problem(name, "", f"is neither JSON nor CSV: {error}", mend)]) from None
    if not isinstance(listed, list):
        raise ConfigError([Problem(name, "keys", "holds no list of keys", "save the answer of /key/list")])
    lines: dict[KeyPath, int] = {("keys", index): _line(text, one, index) for index, one in enumerate(listed)}
    return ConfigFile(name, {"keys": listed}, {(): 1, ("keys",): 1, **lines}, text)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a dump: empty cells say nothing, lists are JSON or PostgreSQL's {a,b}."""
    found: dict[str, Any] = {}
    for key, cell in row.items():
        text = cell.strip() if isinstance(cell, str) else ""
        if not key or text in ("", "{}", "[]", "NULL", "\\N"):
            continue
        if key == "models":
            found[key] = (
                json.loads(text) if text.startswith("[") else [one.strip('" ') for one in text.strip("{}").split(",")]
            )
        else:
            found[key] = text
    return found


def _line(text: str, entry: Any, index: int) -> int:
    token = entry.get("token") if isinstance(entry, dict) else entry
    place = text.find(str(token)) if token else -1
    return text.count("\n", 0, place) + 1 if place >= 0 else index + 1


def models_named(keys: ConfigFile) -> set[str]:
    """The models that keys name."""
    return {
        str(model)
        for entry in keys.values["keys"]
        if isinstance(entry, dict) and isinstance(entry.get("models"), list)
        for model in entry["models"]
    }


def add(work: Work, keys: ConfigFile, said: Ledger) -> None:
    """Every key of the list into `keys:`."""
    listed: list[dict[str, Any]] = work.document.values["keys"]
    names = {one["name"] for one in listed}
    digests = {one["sha256"] for one in listed}
    for index, entry in enumerate(keys.values["keys"]):
        path: KeyPath = ("keys", index)
        token = str(entry.get("token", "") if isinstance(entry, dict) else entry).lower()
        if not _DIGEST.fullmatch(token):
            said.missing(path, "its token is no SHA-256 in hex", "ask /key/list with return_full_object=true")
            continue
        if token in digests:
            said.missing(path, "the same key stands here twice, or is the master key")
            continue
        values = entry if isinstance(entry, dict) else {"token": token}
        if _ended(values, work.now):
            said.missing(path, "is blocked or over: it is left out", "as it should be")
            continue
        digests.add(token)
        made: dict[str, Any] = {"name": _name(values, token, names), "sha256": token}
        names.add(made["name"])
        if values is entry:
            said.kept((*path, "token"), "`sha256`")
            _fill(made, values, work, said, path)
        else:
            said.changed(
                path, "its hash alone: may use every model, without limits", "ask with return_full_object=true"
            )
        listed.append(made)


def _ended(values: dict[str, Any], now: datetime) -> bool:
    if flag(values.get("blocked")):
        return True
    try:
        ends = datetime.fromisoformat(str(values.get("expires")))
    except ValueError:
        return False
    return ends.replace(tzinfo=ends.tzinfo or UTC) < now


def _name(values: dict[str, Any], token: str, taken: set[str]) -> str:
    """The alias as a name, else the beginning of the hash."""
    alias = re.sub(r"[^A-Za-z0-9._-]+", "-", str(values.get("key_alias") or "")).strip("-._")[:50]
    alias = alias or f"key-{token[:8]}"
    return alias if alias not in taken else f"{alias}-{token[:8]}"


def _fill(made: dict[str, Any], values: dict[str, Any], work: Work, said: Ledger, path: KeyPath) -> None:
    if values.get("key_alias"):
        said.kept((*path, "key_alias"), "`name`")
    models = values.get("models")
    if isinstance(models, list):
        known = _models(models, work)
        if known is None:
            said.kept((*path, "models"), "every model")
        else:
            made["models"] = known
            lost = [one for one in models if not _models([one], work)]
            if lost:
                note = f"without {', '.join(str(one) for one in lost)}: not in the new file"
                said.changed((*path, "models"), note, "add the model, and its name here")
            else:
                said.kept((*path, "models"))
    team = re.sub(r"[^A-Za-z0-9._-]+", "-", str(values.get("team_id") or "")).strip("-._")[:64]
    if team:
        made["team"] = team
        said.changed((*path, "team_id"), "`team`: shares kept answers (`scope: team`); a team has no limits of its own")
    limits = {}
    for key, name in (("rpm_limit", "requests"), ("tpm_limit", "tokens")):
        amount = number(values.get(key))
        if amount is not None and amount >= 0:
            limits[name] = f"{int(amount)}/min"
            said.kept((*path, key), f"`limits.{name}`")
    if limits:
        made["limits"] = limits
    for key, value in values.items():
        where = (*path, key)
        if said.mentioned(where):
            continue
        if value in (None, "", [], {}, False):
            said.kept(where, "empty")
        elif key in _MISSING:
            said.missing(where, *_MISSING[key])
        elif key in ("blocked", "spend", "model_spend", "key_name", "user_id", "created_at", "updated_at"):
            said.changed(where, "about the key: not needed")


def _models(models: list[Any], work: Work) -> list[str] | None:
    """The models of a key as ours; None for all of them."""
    if not models or _EVERYTHING.intersection(str(one) for one in models):
        return None
    ours = work.document.values["models"]
    found: list[str] = []
    for one in (str(model) for model in models):
        if one in ours or ("*" in one):
            found.append(one)
        else:
            found += sorted(work.groups.get(one, set()) & set(ours))
    return list(dict.fromkeys(found))
