"""A Portkey config (JSON) as `headgate.yaml`.

https://portkey.ai/docs/api-reference/inference-api/config-object
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from extproc.providers.presets import PRESETS
from extproc.settings import NEVER_RETRIED
from headgate.importing.document import Document
from headgate.importing.providers import Providers, fault
from headgate.importing.report import Ledger
from headgate.importing.result import Result
from headgate.importing.secrets import Secrets, variable_name
from sidecar.configfile import ConfigFile, KeyPath, parse
from sidecar.errors import ConfigError, Problem

# Portkey's names of providers, and which of ours they are.
VENDORS: Mapping[str, str] = {
    "openai": "openai", "azure-openai": "azure-openai", "anthropic": "anthropic", "cerebras": "cerebras",
    "cohere": "cohere", "dashscope": "qwen", "databricks": "databricks", "deepinfra": "deepinfra",
    "deepseek": "deepseek", "fireworks-ai": "fireworks", "github": "github-models", "google": "gemini",
    "groq": "groq", "huggingface": "huggingface", "hyperbolic": "hyperbolic", "mistral-ai": "mistral",
    "moonshot": "moonshot", "ollama": "ollama", "openrouter": "openrouter", "perplexity-ai": "perplexity",
    "sambanova": "sambanova", "together-ai": "together", "x-ai": "xai", "zhipu": "zhipu", "z-ai": "zhipu",
    "nebius": "", "lepton": "",
}  # fmt: skip
_MISSING = {
    "forward_headers": ("the client's headers are passed on as they are, but for keys", ""),
    "input_guardrails": ("there are no guardrails yet", ""),
    "output_guardrails": ("there are no guardrails yet", ""),
    "before_request_hooks": ("there are no guardrails yet", ""),
    "after_request_hooks": ("there are no guardrails yet", ""),
    "metadata": ("requests carry no metadata", "the key's name stands in log and metrics"),
    "passthrough": ("every model is named", ""),
}
_MOST_ATTEMPTS = 16
_IDLE = 120  # seconds: ours, when nothing is said


@dataclass(frozen=True, slots=True)
class _Target:
    provider: str
    model: str
    weight: Fraction = Fraction(1)


@dataclass(slots=True)
class _Policy:
    """What holds for all targets of a model, as far as it was found."""

    attempts: int | None = None
    statuses: list[str] | None = None
    timeout: float = 0.0
    ttl: int | None = None


@dataclass(slots=True)
class _Work:
    said: Ledger
    secrets: Secrets
    providers: Providers
    known: Mapping[str, str]
    policy: _Policy = field(default_factory=_Policy)


def read(text: str, name: str) -> ConfigFile:
    """The file, nothing in it replaced. Raises `ConfigError`."""
    return parse(text, name, {}, folder=Path(), deferred=("*",))


def convert(
    file: ConfigFile, name: str, *, wanted: Sequence[str] = (), known: Mapping[str, str] | None = None
) -> Result:
    """`file` as ours: one config is one model, called `name`. Where a target names no model, the config stands for
    each of the models `wanted`. `known` says which providers Portkey's virtual keys belong to.

    Raises `ConfigError` when there is nothing to be had of it.
    """
    start, config = _inner(file.values)
    document, secrets = Document(), Secrets()
    secrets.reserve(file.text)
    document.values = {"providers": {}, "models": {}}
    work = _Work(Ledger(file), secrets, Providers(document, secrets), known or {})
    for key in file.values:
        if start and key != start[0]:
            work.said.kept((key,), "of Portkey's answer, not of the config")
    for key in _values(file.values.get(str(start[0]))) if start else ():
        if len(start) > 1 and key != start[1]:
            work.said.kept((start[0], key), "of Portkey's answer, not of the config")
    choices = _choices(config, start, name, work)
    for chosen, (node, path) in choices.items():
        work.policy = _Policy()
        levels = _levels(node, path, work)
        if node is not config:
            _common(config, start, work)
        names = _names(chosen, levels, wanted if chosen == name else [], file)
        for one in names if levels else ():
            document.values["models"][one] = _model(levels, one, work.policy)
    if not document.values["models"]:
        raise ConfigError(
            [Problem(file.place(start or ("targets",)), "targets", "none can be served", "see docs/migrate/portkey.md")]
        )
    document.note(("models",), "Nobody has a key yet: `headgate new-key NAME` makes one and its entry for `keys:`.")
    document.header = [f"Imported from Portkey's {Path(file.name).name} by `headgate import portkey`."]
    return Result(document, {file.name: work.said.entries()}, secrets.variables)


def _values(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _inner(values: dict[str, Any]) -> tuple[KeyPath, dict[str, Any]]:
    """Where the config is: the file itself, or the answer of Portkey's API."""
    for path in (("data", "config"), ("config",)):
        inner: Any = values
        for step in path:
            inner = _values(inner).get(step)
        if isinstance(inner, dict):
            return path, inner
    return (), values


def _choices(
    config: dict[str, Any], path: KeyPath, name: str, work: _Work
) -> dict[str, tuple[dict[str, Any], KeyPath]]:
    """Our models: one, or with conditions one for each target, because here the client names the model."""
    strategy = _values(config.get("strategy"))
    if strategy.get("mode") != "conditional":
        return {name: (config, path)}
    found: dict[str, tuple[dict[str, Any], KeyPath]] = {}
    for index, target in enumerate(config.get("targets") or []):
        if isinstance(target, dict):
            label = str(target.get("name") or index)
            chosen = name if label == strategy.get("default") else f"{name}-{label}"
            found[chosen] = (target, (*path, "targets", index))
            work.said.changed((*path, "targets", index, "name"), f"the model `{chosen}`")
    for key in strategy:
        note = "no condition chooses: each target is a model of its own, and the client names it"
        work.said.changed((*path, "strategy", key), note)
    return found


def _levels(node: dict[str, Any], path: KeyPath, work: _Work) -> list[list[_Target]]:
    """The targets below `node`, by priority; whoever stands in one list shares the load."""
    _common(node, path, work)
    children = [one for one in node.get("targets") or [] if isinstance(one, dict)]
    if not children:
        leaf = _leaf(node, path, work)
        return [[leaf]] if leaf else []
    strategy = _values(node.get("strategy"))
    mode = str(strategy.get("mode", "single"))
    below = [_levels(one, (*path, "targets", index), work) for index, one in enumerate(children)]
    if mode == "fallback":
        work.said.kept((*path, "strategy", "mode"), "`priority`: one after the other")
        return [level for levels in below for level in levels]
    if mode == "loadbalance":
        return _shared(children, below, path, work)
    if strategy:
        work.said.changed((*path, "strategy", "mode"), "the first target alone")
    return below[0]


def _shared(
    children: list[dict[str, Any]], below: list[list[list[_Target]]], path: KeyPath, work: _Work
) -> list[list[_Target]]:
    deep = any(len(levels) > 1 for levels in below)
    if deep:
        note = "`weight`; a fallback inside is for all of them, not for its own branch alone"
        work.said.changed((*path, "strategy", "mode"), note)
    else:
        work.said.kept((*path, "strategy", "mode"), "`weight`")
    levels: list[list[_Target]] = [[] for _ in range(max((len(one) for one in below), default=0))]
    for index, (child, its) in enumerate(zip(children, below, strict=True)):
        share = _fraction(child.get("weight", 1))
        if "weight" in child:
            work.said.kept((*path, "targets", index, "weight"))
        for number, level in enumerate(its):
            total = sum((one.weight for one in level), Fraction(0)) or Fraction(1)
            levels[number] += [_Target(one.provider, one.model, one.weight * share / total) for one in level]
    return [level for level in levels if level]


def _fraction(value: Any) -> Fraction:
    try:
        found = Fraction(str(value)).limit_denominator(1000)
    except (ValueError, ZeroDivisionError):
        return Fraction(1)
    return max(found, Fraction(0))


def _common(node: dict[str, Any], path: KeyPath, work: _Work) -> None:
    """Retries, timeouts, cache: of a model here, wherever they stand there."""
    policy, said = work.policy, work.said
    strategy, retry, cache = (_values(node.get(key)) for key in ("strategy", "retry", "cache"))
    statuses: list[Any] = []
    for holder, key in ((strategy, "strategy"), (retry, "retry")):
        listed = holder.get("on_status_codes")
        if isinstance(listed, list):
            statuses += listed
            lost = [str(one) for one in listed if not _status(one)]
            note = f"`retry_on` of the model; never {', '.join(lost)}" if lost else "`retry_on` of the model"
            said.changed((*path, key, "on_status_codes"), note)
    if statuses:
        policy.statuses = list(
            dict.fromkeys([*(policy.statuses or []), *(str(one) for one in statuses if _status(one))])
        )
    attempts = retry.get("attempts")
    if isinstance(attempts, int):
        policy.attempts = max(policy.attempts or 0, attempts + 1)
        said.changed((*path, "retry", "attempts"), "`attempts` of the model, over all targets, without a pause")
    for key in retry:
        if key not in ("attempts", "on_status_codes"):
            said.changed((*path, "retry", key), "a target that says retry-after is left out that long")
    timeout = node.get("request_timeout")
    if isinstance(timeout, int | float) and timeout > 0:
        policy.timeout = max(policy.timeout, timeout / 1000)
        said.changed((*path, "request_timeout"), "`timeouts.first_byte` of the model: until an attempt's answer begins")
    if cache.get("mode") == "simple":
        age = cache.get("max_age")
        policy.ttl = int(age) if isinstance(age, int) and 1 <= age <= 31_536_000 else 3600
        said.changed((*path, "cache"), "`cache` of the model; an answer is for the key that asked (`scope: key`)")
    elif "cache" in node:
        note = "only equal requests are answered from the cache, not similar ones"
        said.missing((*path, "cache"), note, "`cache: {}` at the model (docs/cache.md)")
    for key in node:
        if key in _MISSING:
            said.missing((*path, key), *_MISSING[key])


def _status(value: Any) -> bool:
    return isinstance(value, int) and 402 <= value <= 599 and str(value) not in NEVER_RETRIED


def _leaf(node: dict[str, Any], path: KeyPath, work: _Work) -> _Target | None:
    """A target that names a provider."""
    said = work.said
    params = _values(node.get("override_params"))
    for key in params:
        if key != "model":
            said.missing((*path, "override_params", key), "requests get no values", "let the client send it")
    model = str(params.get("model") or "")
    slug = str(node.get("virtual_key") or "")
    source = "provider" if "provider" in node else "virtual_key"
    vendor = str(node.get("provider") or "")
    if vendor.startswith("@"):
        slug, vendor = vendor[1:], ""
    if model.startswith("@"):
        slug, _, model = model[1:].partition("/")
        source = source if source in node else "override_params"
    vendor = vendor or work.known.get(slug) or next((one for one in VENDORS if slug.startswith(one)), "")
    preset = PRESETS.get(VENDORS.get(vendor, ""))
    host = str(node.get("custom_host") or "")
    if preset is None and not (host and vendor == "openai"):
        mend = f"--provider {slug or 'SLUG'}=openai, if that is what it is" if not vendor else "docs/providers.md"
        reason = "which provider it is cannot be told" if not vendor else "there is no preset for this provider"
        said.missing((*path, source) if source in node else path, reason, mend)
        _rest(node, path, said)
        return None
    settings: dict[str, Any] = {"preset": preset.name} if preset else {"dialect": "openai"}
    if host:
        settings["base_url"] = host.rstrip("/")
        if vendor == "openai":
            settings = {"dialect": "openai", "base_url": host.rstrip("/")}
        said.kept((*path, "custom_host"), "`base_url`")
    if preset is not None and preset.name == "azure-openai":
        model = _azure(node, path, settings, model, work)
    _key(node, path, settings, slug, preset.key_variable if preset else "", work)
    wrong = fault(settings, work.secrets)
    if wrong:
        said.missing((*path, source) if source in node else path, f"its `{wrong}` cannot be used", "write it by hand")
        _rest(node, path, said)
        return None
    if source in node and not said.mentioned((*path, source)):
        said.kept((*path, source))
    if "model" in params:
        said.kept((*path, "override_params", "model"))
    return _Target(work.providers.name(preset.name if preset else slug or "openai", settings), model)


def _rest(node: dict[str, Any], path: KeyPath, said: Ledger) -> None:
    for key in node:
        if not said.mentioned((*path, key)):
            said.missing((*path, key), "belongs to a target that is not taken over")


def _azure(node: dict[str, Any], path: KeyPath, settings: dict[str, Any], model: str, work: _Work) -> str:
    """Azure's address and version; gives the deployment."""
    for key in ("resource_name", "azure_resource_name"):
        if key in node:
            settings["base_url"] = f"https://{node[key]}.openai.azure.com"
            work.said.kept((*path, key), "`base_url`")
    if "base_url" not in settings:
        settings["base_url"] = work.secrets.variable("AZURE_OPENAI_ENDPOINT", "https://example.openai.azure.com")
    for key in ("api_version", "azure_api_version"):
        if key in node:
            settings["api_version"] = str(node[key])
            work.said.kept((*path, key))
    for key in ("deployment_id", "azure_deployment_id"):
        if key in node:
            model = str(node[key])
            work.said.kept((*path, key), "`model` of the target")
    return model


def _key(node: dict[str, Any], path: KeyPath, settings: dict[str, Any], slug: str, usual: str, work: _Work) -> None:
    given = node.get("api_key")
    if isinstance(given, str) and given:
        settings["api_key"], _ = work.secrets.reference(given, usual or "API_KEY")
        name = settings["api_key"][2:-1]
        work.said.changed((*path, "api_key"), f"a key stands in the file: it is ${{{name}}} now", "set that variable")
    elif slug:
        settings["api_key"] = work.secrets.variable(f"{variable_name(slug)}_KEY")
        if "virtual_key" in node:
            note = f"Portkey keeps the key: it is {settings['api_key']} now"
            work.said.changed((*path, "virtual_key"), note, "set that variable to the provider's key")
    elif usual:
        settings["api_key"] = work.secrets.variable(usual)


def _names(name: str, levels: list[list[_Target]], wanted: Sequence[str], file: ConfigFile) -> Sequence[str]:
    if all(one.model for level in levels for one in level):
        return [name]
    if wanted:
        return wanted
    what, mend = "a target names no model (override_params.model)", "say which models clients use: --model NAME"
    raise ConfigError([Problem(file.place(("targets",)), "targets", what, mend)])


def _model(levels: list[list[_Target]], name: str, policy: _Policy) -> dict[str, Any]:
    targets: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for priority, level in enumerate(levels):
        shares: dict[tuple[str, str], Fraction] = {}
        for one in level:
            key = (one.provider, one.model or name)
            if key not in seen:
                shares[key] = shares.get(key, Fraction(0)) + one.weight
        seen.update(shares)
        common = math.lcm(*(one.denominator for one in shares.values())) if shares else 1
        whole = {key: int(share * common) for key, share in shares.items()}
        divisor = math.gcd(*whole.values()) or 1
        for (provider, its), share in whole.items():
            made: dict[str, Any] = {"provider": provider, "model": its}
            weight = min(share // divisor, 1_000_000)
            if weight != 1:
                made["weight"] = weight
            if priority:
                made["priority"] = priority
            targets.append(made)
    if not any(one.get("weight", 1) for one in targets):
        for target in targets:
            target.pop("weight", None)
    model: dict[str, Any] = {"targets": targets}
    attempts = min(max(policy.attempts or 3, len(targets)), _MOST_ATTEMPTS)
    if attempts != 3:
        model["attempts"] = attempts
    if policy.statuses:
        model["retry_on"] = ["connect", "reset", *policy.statuses]
    if policy.timeout:
        seconds = int(policy.timeout) if policy.timeout == int(policy.timeout) else policy.timeout
        model["timeouts"] = {"first_byte": seconds, **({"idle": seconds} if seconds > _IDLE else {})}
    if policy.ttl:
        model["cache"] = {"ttl": policy.ttl, "max_temperature": None}
    return targets[0] if len(targets) == 1 and set(model) == {"targets"} else model
