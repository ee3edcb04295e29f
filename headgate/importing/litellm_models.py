"""LiteLLM's deployments, groups and fallbacks as our models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from headgate.importing.litellm_routing import Routing, routing
from headgate.importing.litellm_targets import Target, target
from headgate.importing.litellm_vendors import VENDORS, split
from headgate.importing.litellm_work import Work, number
from sidecar.configfile import KeyPath

_MOST_TARGETS = 64
_MOST_WEIGHT = 1_000_000
_DEEPEST = 5  # LiteLLM's max_fallbacks
_STREAMS = "`timeouts.first_byte` and `idle` of a model are for all its requests"
# litellm_params that say nothing that we would need, and those that we have no place for.
_PARAMS = {
    "tags": ("requests are not routed by tags", "give each tag a model name of its own"),
    "organization": ("no header is added for the provider", "use a key of a project of that organization"),
    "extra_headers": ("no header is added for the provider", ""),
    "headers": ("no header is added for the provider", ""),
    "max_parallel_requests": ("requests are not counted by deployment", "`max_requests` of the provider bounds them"),
    "region_name": ("regions are not chosen by name", "the address says the region"),
    "max_budget": ("there are no budgets in money yet", "limit tokens by key"),
    "budget_duration": ("there are no budgets in money yet", "limit tokens by key"),
    "use_in_pass_through": ("a key says it", "give the key `passthrough: [PROVIDER]`"),
    "configurable_clientside_auth_params": ("a key says it", "`own_provider_keys: true`, header x-provider-key"),
    "mock_timeout": ("nothing is made up", "`headgate fake-provider` is a provider for tests"),
    "mock_response": ("nothing is made up", "`headgate fake-provider` is a provider for tests"),
    "cache_control_injection_points": ("bodies are not changed that far", "let the client set cache_control"),
    "merge_reasoning_content_in_choices": ("answers are not changed", ""),
}
_DEFAULTS = frozenset(
    {
        "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "stop", "seed", "presence_penalty",
        "frequency_penalty", "user", "reasoning_effort", "thinking", "response_format", "tools", "tool_choice",
        "extra_body", "stream", "logit_bias", "dimensions", "encoding_format", "service_tier",
    }
)  # fmt: skip
_INFO = frozenset({"id", "mode", "base_model", "description", "metadata", "tier", "created_at", "updated_at"})


def add(work: Work, requested: set[str]) -> None:
    """Everything below `model_list`, and what routes it."""
    credentials = _credentials(work)
    groups: dict[str, list[Target]] = {}
    by_id: dict[str, list[Target]] = {}
    listed = work.file.values.get("model_list")
    if not isinstance(listed, list):
        if "model_list" in work.file.values:
            work.said.missing(("model_list",), "is no list of models")
        return
    _reserve(listed, work)
    taken: set[KeyPath] = set()
    for index, entry in enumerate(listed):
        path: KeyPath = ("model_list", index)
        params, info = _parts(entry, work, path)
        name = entry.get("model_name") if isinstance(entry, dict) else None
        if params is None or not isinstance(name, str) or not 1 <= len(name) <= 256:
            work.said.missing((*path, "model_name"), "is no name", "write model_name and litellm_params")
            continue
        named = params.pop("litellm_credential_name", None)
        if named is not None:
            known = credentials.get(str(named))
            params = {**(known or {}), **params}
            told = work.said.kept if known is not None else work.said.missing
            told(
                (*path, "litellm_params", "litellm_credential_name"), "" if known is not None else "is not in this file"
            )
        for one, its in _expanded(name, params, work, requested, path):
            found = target(its, info, one, work.said, path, work.providers)
            if found is None:
                continue
            taken.add(path)
            groups.setdefault(one, []).append(_placed(found, its, work, path))
            by_id[str(info.get("id", ""))] = [groups[one][-1]]
            for access in _names(info.get("access_groups")):
                work.groups.setdefault(access, set()).add(one)
        work.said.kept((*path, "model_name"))
        if path not in taken:
            _lost(params, info, work, path)
        _others(params, info, work, path)
    by_id.pop("", None)
    rules = routing(work, {*groups, *by_id})
    for name in groups:
        work.document.values["models"][name] = _model(name, groups, by_id, rules, work)
    for alias, aliased in rules.aliases.items():
        if aliased in groups and alias not in groups:
            work.document.values["models"][alias] = _model(aliased, groups, by_id, rules, work)


def _reserve(listed: list[Any], work: Work) -> None:
    """Variables that mean something already: a key that stands in the file must not get one of them."""
    work.secrets.reserve(work.file.text)
    for entry in listed:
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        if isinstance(params, dict) and not params.get("api_key"):
            vendor = VENDORS.get(split(str(params.get("model", "")), str(params.get("custom_llm_provider") or ""))[0])
            if vendor is not None and not params.get("litellm_credential_name"):
                work.secrets.reserved.add(vendor.key)


def _parts(entry: Any, work: Work, path: KeyPath) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
        return None, {}
    info = entry.get("model_info") or {}
    if not isinstance(info, dict):
        work.said.missing((*path, "model_info"), "must hold keys and values")
        info = {}
    for key in entry:
        if key not in ("model_name", "litellm_params", "model_info"):
            work.said.missing((*path, key), "unknown to this import")
    return dict(entry["litellm_params"]), info


def _credentials(work: Work) -> dict[str, dict[str, Any]]:
    """`credential_list`: values that deployments share, by name."""
    found: dict[str, dict[str, Any]] = {}
    listed = work.file.values.get("credential_list")
    for index, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict) and isinstance(entry.get("credential_values"), dict):
            found[str(entry.get("credential_name"))] = entry["credential_values"]
            work.said.kept(("credential_list", index), "at the deployments that name it")
    return found


def _expanded(
    name: str, params: dict[str, Any], work: Work, requested: set[str], path: KeyPath
) -> Iterable[tuple[str, dict[str, Any]]]:
    """The deployment; of a pattern one for each model that is known to be used."""
    if "*" not in name:
        return [(name, params)]
    names = {str(one.get("model_name")) for one in work.file.values["model_list"] if isinstance(one, dict)}
    patterns = sorted((one for one in names if "*" in one), key=len, reverse=True)
    mentioned = dict.fromkeys(one for one in (*work.wanted, *sorted(requested), *_mentioned(work)) if one not in names)
    # LiteLLM takes the most specific pattern, too.
    used = [
        one
        for one in mentioned
        if "*" not in one and name == next((pattern for pattern in patterns if fnmatchcase(one, pattern)), "")
    ]
    if not used:
        return [(name, params)]
    listed = ", ".join(used)
    work.said.changed((*path, "model_name"), f"a pattern is none here: {listed}", "more with --model NAME")
    start, _, end = name.partition("*")
    model = str(params.get("model", ""))
    return [(one, {**params, "model": model.replace("*", one[len(start) : len(one) - len(end)])}) for one in used]


def _mentioned(work: Work) -> Iterable[str]:
    """Models that fallbacks and aliases name."""
    for section in ("router_settings", "litellm_settings"):
        values = work.file.values.get(section)
        for key in ("fallbacks", "default_fallbacks"):
            yield from _strings(values.get(key) if isinstance(values, dict) else None)
        aliases = values.get("model_group_alias") if isinstance(values, dict) else None
        for aliased in aliases.values() if isinstance(aliases, dict) else ():
            yield str(aliased.get("model") if isinstance(aliased, dict) else aliased)


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _names(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _placed(found: Target, params: Mapping[str, Any], work: Work, path: KeyPath) -> Target:
    """The target with its weight, order and time."""
    where = (*path, "litellm_params")
    weight = None
    for key in ("weight", "rpm", "tpm"):
        if key not in params:
            continue
        given = number(params[key])
        if key == "weight":
            work.said.kept((*where, key))
        else:
            work.said.changed(
                (*where, key), "`weight`, its share of the load; no limit: deployments have none", "limit the keys"
            )
        if weight is None and given is not None and given >= 0:
            weight = round(given * 1000) if key == "weight" and given != int(given) else int(given)
    order = number(params.get("order"))
    if "order" in params:
        work.said.kept((*where, "order"), "`priority`")
    longest = number(params.get("timeout")) or None
    if "timeout" in params:
        work.said.changed((*where, "timeout"), "`timeouts.first_byte` of the model, the longest of its deployments")
    if "stream_timeout" in params:
        work.said.missing((*where, "stream_timeout"), "streams have no time of their own", _STREAMS)
    return Target(found.provider, found.model, weight, int(order or 0), found.cost, longest)


def _lost(params: Mapping[str, Any], info: Mapping[str, Any], work: Work, path: KeyPath) -> None:
    """What stands at a deployment that is not taken over: why is said at its model."""
    for section, values in (("litellm_params", params), ("model_info", info)):
        for key in values:
            if not work.said.mentioned((*path, section, key)):
                work.said.missing((*path, section, key), "belongs to a deployment that is not taken over")


def _others(params: Mapping[str, Any], info: Mapping[str, Any], work: Work, path: KeyPath) -> None:
    """Whatever else stands at a deployment."""
    where = (*path, "litellm_params")
    for key in params:
        if work.said.mentioned((*where, key)):
            continue
        if key in ("max_retries", "num_retries"):
            work.said.changed((*where, key), "`attempts` of the model, from num_retries of the whole file")
        elif key in _PARAMS:
            work.said.missing((*where, key), *_PARAMS[key])
        elif key in _DEFAULTS:
            work.said.missing((*where, key), "requests get no default values", "let the client send it")
    for key in info:
        if key == "access_groups":
            work.said.kept((*path, "model_info", key), "written out where keys name them (--keys)")
        elif work.said.mentioned((*path, "model_info", key)):
            continue
        elif key.startswith("health_check_"):
            work.said.changed((*path, "model_info", key), "a provider is asked, no model: its `health_check`")
        elif key in _INFO or key.startswith(("supports_", "max_", "litellm_")):
            work.said.kept((*path, "model_info", key), "only described it: not needed")


def _model(
    name: str, groups: Mapping[str, list[Target]], by_id: Mapping[str, list[Target]], rules: Routing, work: Work
) -> dict[str, Any]:
    """One model: its own deployments by `order`, then those of its fallbacks, each level a priority of its own."""
    levels = _levels(groups[name])
    others = _chain(name, groups, by_id, rules.fallbacks)
    for other in others:
        levels += _levels(groups.get(other) or by_id[other])
    targets: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    priority = 0
    for level in levels:
        made = _level(level, priority, seen)
        priority += bool(made)
        targets += made
    if not any(one.get("weight", 1) for one in targets):
        for one in targets:
            one.pop("weight", None)
    targets = targets[:_MOST_TARGETS]
    for one in targets:
        if one.get("model") == name and len(targets) == 1:
            del one["model"]
    model: dict[str, Any] = {"targets": targets}
    longest = max((one.timeout for one in groups[name] if one.timeout), default=rules.timeout)
    rules.complete(model, longest, has_fallbacks=bool(others))
    return targets[0] if set(model) == {"targets"} and len(targets) == 1 else model


def _levels(targets: list[Target]) -> list[list[Target]]:
    return [[one for one in targets if one.order == order] for order in sorted({one.order for one in targets})]


def _chain(
    name: str,
    groups: Mapping[str, list[Target]],
    by_id: Mapping[str, list[Target]],
    fallbacks: Mapping[str, list[str]],
) -> list[str]:
    """Who is asked after `name`, fallbacks of fallbacks included, as LiteLLM goes through them."""
    found: list[str] = []

    def follow(one: str, depth: int) -> None:
        for other in fallbacks.get(one, fallbacks.get("*", []) if one == name else []):
            if other != name and other not in found and (other in groups or other in by_id):
                found.append(other)
                if depth < _DEEPEST:
                    follow(other, depth + 1)

    follow(name, 1)
    return found


def _level(level: list[Target], priority: int, seen: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """The targets of one priority. The same one twice becomes one with both shares."""
    shares: dict[tuple[str, str], int] = {}
    for one in level:
        if (one.provider, one.model) not in seen:
            share = one.weight if one.weight is not None else 1
            shares[one.provider, one.model] = shares.get((one.provider, one.model), 0) + share
    seen.update(shares)
    divisor = math.gcd(*shares.values()) or 1
    most = max(shares.values(), default=1) // divisor
    made: list[dict[str, Any]] = []
    for provider, model in shares:
        new: dict[str, Any] = {"provider": provider, **({"model": model} if model else {})}
        share = shares[provider, model] // (divisor or 1)
        if most > _MOST_WEIGHT and share:
            share = max(share * _MOST_WEIGHT // most, 1)
        if share != 1:
            new["weight"] = share
        if priority:
            new["priority"] = priority
        cost = next(two.cost for two in level if (two.provider, two.model) == (provider, model))
        if any(cost):
            new["cost"] = {key: value for key, value in zip(("input", "output"), cost, strict=True) if value}
        made.append(new)
    return made
