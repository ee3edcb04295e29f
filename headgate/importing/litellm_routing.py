"""How LiteLLM's router chooses and tries again: `router_settings`, and the same keys in `litellm_settings`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from extproc.settings import TRIGGERS
from headgate.importing.litellm_targets import WAIT
from headgate.importing.litellm_work import Work, number
from sidecar.configfile import KeyPath

_IDLE = 120  # seconds: ours, when nothing is said
_ATTEMPTS = 3  # ours, when nothing is said: LiteLLM's two retries
_MOST_ATTEMPTS = 16
_SECTIONS = ("litellm_settings", "router_settings")  # the later one wins

_STRATEGIES = {
    "simple-shuffle": ("weighted", ""),
    "least-busy": ("least_requests", ""),
    "latency-based-routing": ("latency", "by the time to the first byte, where LiteLLM takes the whole answer's"),
    "cost-based-routing": ("cost", "by `cost`: LiteLLM's own list of prices is not here, so write it at every target"),
    "usage-based-routing": ("weighted", "by the shares (rpm, tpm) of the deployments, not by what was used"),
    "usage-based-routing-v2": ("weighted", "by the shares (rpm, tpm) of the deployments, not by what was used"),
}
_NO_MONEY = ("there are no budgets in money yet", "limit tokens by key")
_FIXED = "out after three failures in a row or half of ten, 5 s and longer each time: not a setting"
_CHANGED = {
    "allowed_fails": (_FIXED, "docs/fallback.md"),
    "allowed_fails_policy": (_FIXED, "docs/fallback.md"),
    "cooldown_time": (
        "as long as the provider says (retry-after), else 5 s and doubling up to 60 s",
        "docs/fallback.md",
    ),
    "retry_after": ("the next target is tried at once", ""),
    "max_fallbacks": ("`attempts` bounds them", ""),
    "enable_pre_call_checks": ("the context's length is not looked at: the provider says 400", ""),
    "ignore_invalid_deployments": ("what is wrong in the file is an error when it is read", ""),
    "polling_interval": ("there is no queue", ""),
}
_MISSING = {
    "context_window_fallbacks": (
        "an answer 400 is about the request: it is never tried elsewhere", "let clients choose the longer model"
    ),
    "content_policy_fallbacks": ("an answer 400 is about the request: it is never tried elsewhere", ""),
    "disable_cooldowns": ("targets that fail are always left out for a while", ""),
    "enable_tag_filtering": ("requests are not routed by tags", "give each tag a model name of its own"),
    "tag_filtering_match_any": ("requests are not routed by tags", ""),
    "optional_pre_call_checks": (
        "there are no such checks", "`strategy: affinity` keeps a conversation with one target"
    ),
    "deployment_affinity_ttl_seconds": ("affinity has no memory: the same key always finds the same target", ""),
    "provider_budget_config": _NO_MONEY,
    "default_litellm_params": ("requests get no default values", "let the client send them"),
    "default_max_parallel_requests": ("requests are not counted by deployment", "`max_requests` of the provider"),
    "routing_strategy_args": ("the strategies have no settings", "docs/fallback.md"),
    "model_group_retry_policy": ("one policy is for all", "`retry_on` and `attempts` of each model"),
    "caching_groups": ("models do not share answers", ""),
    "cache_responses": ("models say whether their answers are kept", "`cache` of a model"),
    "cache_kwargs": ("not a setting", ""),
    "client_ttl": ("connections are Envoy's", ""),
    "default_priority": ("requests have no priorities", ""),
    "debug_level": ("not the router's", "`log.level`"),
    "alerting_config": ("there are no alerts", "metrics at /metrics: alert on those"),
    "assistants_config": ("assistants are not routed", "`passthrough` of a key"),
}  # fmt: skip
_RETRIES = {
    "TimeoutErrorRetries": ("408",),
    "RateLimitErrorRetries": ("429",),
    "InternalServerErrorRetries": ("5xx",),
}


@dataclass(slots=True)
class Routing:
    """What is the same for every model."""

    strategy: str = "weighted"
    fallbacks: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    retries: int | None = None
    untried: tuple[str, ...] = ()
    timeout: float | None = None

    def complete(self, model: dict[str, Any], timeout: float | None, *, has_fallbacks: bool) -> None:
        """Write it into a model that has its targets."""
        targets = len(model["targets"])
        if self.strategy != "weighted" and targets > 1:
            model["strategy"] = self.strategy
        attempts = _ATTEMPTS if self.retries is None else self.retries + 1
        if has_fallbacks or self.retries is None:
            attempts = max(attempts, targets)
        attempts = min(attempts, _MOST_ATTEMPTS)
        # A single target is tried twice at most, whatever is said.
        if attempts != _ATTEMPTS and (targets > 1 or attempts == 1):
            model["attempts"] = attempts
        if self.untried and not has_fallbacks:
            model["retry_on"] = [one for one in TRIGGERS if one not in self.untried]
        if timeout and timeout != WAIT:  # that long is what the providers' `idle_timeout` says
            model["timeouts"] = {"first_byte": seconds(timeout)}
            if timeout > _IDLE:
                model["timeouts"]["idle"] = seconds(timeout)


def seconds(value: float) -> float | int:
    """A time that our settings take, whole where it is."""
    value = min(max(value, 0.1), 86_400.0)
    return int(value) if value == int(value) else value


def routing(work: Work, known: Collection[str]) -> Routing:
    """Read both sections."""
    found = Routing()
    for section in _SECTIONS:
        values = work.section(section)
        for key, value in values.items():
            if value in (None, "", [], {}):
                work.said.kept((section, key), "empty")
            else:
                _read(found, (section, key), value, work, known)
    return found


def _read(found: Routing, path: KeyPath, value: Any, work: Work, known: Collection[str]) -> None:
    key, said = path[-1], work.said
    if key == "routing_strategy":
        strategy, note = _STRATEGIES.get(str(value), ("", ""))
        if not strategy:
            said.missing(path, "no such strategy here: `weighted` is used", "docs/fallback.md names ours")
        elif note:
            said.changed(path, f"`strategy: {strategy}`, {note}")
        else:
            said.kept(path, f"`strategy: {strategy}`")
        found.strategy = strategy or "weighted"
    elif key == "fallbacks":
        _fallbacks(found, path, value, work, known)
    elif key == "default_fallbacks":
        listed = [str(one) for one in value] if isinstance(value, list) else []
        found.fallbacks["*"] = listed
        note = "targets of a later `priority`, at every model without fallbacks of its own"
        said.changed(path, note + _without(listed, known))
    elif key == "num_retries":
        found.retries = int(number(value) or 0)
        said.changed(path, "`attempts`, over all targets: a target that fails is not asked again by the same request")
    elif key == "retry_policy":
        _retry_policy(found, path, value, work)
    elif key in ("timeout", "request_timeout"):
        found.timeout = number(value) or found.timeout
        said.changed(path, "`timeouts.first_byte`: until an attempt's answer begins, then the next target")
    elif key == "stream_timeout":
        said.missing(path, "streams have no time of their own", "`timeouts.idle` of a model ends a silent stream")
    elif key == "model_group_alias":
        _aliases(found, path, value, work, known)
    elif key in _CHANGED:
        said.changed(path, *_CHANGED[str(key)])
    elif key in _MISSING:
        said.missing(path, *_MISSING[str(key)])


def _fallbacks(found: Routing, path: KeyPath, value: Any, work: Work, known: Collection[str]) -> None:
    for index, entry in enumerate(value if isinstance(value, list) else []):
        for name, others in entry.items() if isinstance(entry, dict) else ():
            where = (*path, index, name)
            listed = [one for one in others if isinstance(one, str)] if isinstance(others, list) else []
            found.fallbacks[str(name)] = listed
            if name != "*" and name not in known:
                work.said.missing(where, "there is no such model")
            elif not isinstance(others, list) or len(listed) < len(others):
                work.said.missing(where, "a fallback with a request of its own", "name a model alone")
            else:
                note = "targets of a later `priority`: for failures of the provider, never for 400, 401, 403, 404, 422"
                work.said.changed(where, note + _without(listed, known))


def _without(listed: list[str], known: Collection[str]) -> str:
    lost = [one for one in listed if one not in known]
    return f"; without {', '.join(lost)}: not in the new file" if lost else ""


def _retry_policy(found: Routing, path: KeyPath, value: Any, work: Work) -> None:
    counts = []
    for key, given in value.items() if isinstance(value, dict) else ():
        count = int(number(given) or 0)
        if key not in _RETRIES:
            if count:
                work.said.missing((*path, key), "such an answer is about the request: it is never tried again")
            else:
                work.said.kept((*path, key), "such an answer is never tried again")
        elif count:
            counts.append(count)
            work.said.changed((*path, key), "`attempts`, one number for all reasons")
        else:
            found.untried += _RETRIES[key]
            work.said.changed((*path, key), "left out of `retry_on`, where a model has no fallbacks")
    if counts:
        found.retries = max(*counts, found.retries or 0)


def _aliases(found: Routing, path: KeyPath, value: Any, work: Work, known: Collection[str]) -> None:
    for alias, aliased in value.items() if isinstance(value, dict) else ():
        hidden = isinstance(aliased, dict)
        name = str(aliased.get("model") if isinstance(aliased, dict) else aliased)
        if name not in known or not 1 <= len(str(alias)) <= 256:
            work.said.missing((*path, alias), "there is no such model")
        elif alias in known:
            work.said.missing((*path, alias), "is a model of its own, too", "keep one of them")
        else:
            found.aliases[str(alias)] = name
            if hidden:
                work.said.changed((*path, alias), "a model of its own, which /v1/models lists")
            else:
                work.said.kept((*path, alias), "a model of its own, with the same targets")
