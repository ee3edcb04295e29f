"""The policy: one immutable snapshot of keys, models and targets, built from settings and swapped whole."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

import msgspec

from extproc.balance.choice import Choice
from extproc.balance.order import Pool
from extproc.balance.strategies import Strategy
from extproc.cache.price import Price
from extproc.cache.rules import CacheRules
from extproc.semantic.rules import Embeddings, SemanticRules
from extproc.settings import CacheSettings, ModelSettings, PolicySettings
from extproc.targets import Target, digest, passthrough_targets, slug, targets_of

_NO_DIGEST = bytes(32)
PASSTHROUGH_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """How bodies differ for the targets of one order (`filters.rewrite`): the first attempt's own fields and how long
    they are in its body, and what the later ones have instead."""

    first: Mapping[str, msgspec.Raw]
    length: int
    lines: str
    strip_usage: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A name that clients may ask for, Envoy's route for it, and the targets behind it.

    `pool` gives the order in which targets are tried. `uniform`: all targets get the same bytes, so nothing has to be
    made anew for a second attempt. Else they differ in the fields `varying` at most, and `plans` keeps how.
    """

    name: str
    route: str
    targets: tuple[Target, ...]
    pool: Pool
    affinity: str
    uniform: bool
    serves_all: bool  # whether every target serves every operation
    cache: CacheRules | None = None
    semantic: SemanticRules | None = None  # never without `cache`
    marks: tuple[str, ...] = ()  # what else an answer depends on: the targets
    prices: Mapping[str, Price] = field(default_factory=dict)  # of the targets that have one, by their clusters
    varying: frozenset[str] = frozenset()
    plans: dict[object, BodyPlan] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """A gateway key as its holder: a name, the digest of the secret, and what it may use."""

    name: str
    digest: bytes
    models: frozenset[str]
    passthrough: frozenset[str]
    own_provider_keys: bool
    limited: bool
    team: str
    cache: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything a decision looks up. Never changed: a reload builds another one."""

    keys: Mapping[bytes, Key]
    models: Mapping[str, Model]
    passthroughs: Mapping[str, Model]  # by provider: those that some key may use so
    own_provider_keys: bool  # whether some key may bring a provider's key
    default_completion_tokens: int
    max_body_bytes: int
    created: int

    def authenticate(self, secret: bytes) -> Key | None:
        """The key whose secret this is. The comparison takes the same time for every wrong secret."""
        digest = hashlib.sha256(secret).digest()
        key = self.keys.get(digest)
        known = hmac.compare_digest(key.digest if key is not None else _NO_DIGEST, digest)
        return key if known else None

    def targets(self) -> dict[str, Target]:
        """Every target by the name of its cluster."""
        every = (*self.models.values(), *self.passthroughs.values())
        return {target.cluster: target for model in every for target in model.targets}


def build(settings: PolicySettings, *, max_body_bytes: int, created: int) -> Policy:
    """The snapshot for `settings`. `created` (unix seconds) is what `/v1/models` reports."""
    models = {name: _model(name, settings) for name in settings.models}
    keys = {}
    for key in settings.keys:
        secret = bytes.fromhex(key.sha256)
        limited = key.limits.requests is not None or key.limits.tokens is not None
        keys[secret] = Key(
            key.name,
            secret,
            _matching(models, key.models),
            _matching(settings.providers, key.passthrough),
            key.own_provider_keys,
            limited,
            key.team,
            key.cache,
        )
    passed = {name for key in keys.values() for name in key.passthrough}
    return Policy(
        MappingProxyType(keys),
        MappingProxyType(models),
        MappingProxyType({name: _passthrough(name, settings) for name in settings.providers if name in passed}),
        any(key.own_provider_keys for key in keys.values()),
        settings.default_completion_tokens,
        max_body_bytes,
        created,
    )


def _matching(names: Mapping[str, object], patterns: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def model_route(name: str, model: ModelSettings, targets: Sequence[Target]) -> str:
    """Envoy's name for a model's route: another one when anything of it changes."""
    definition = model.model_dump_json(exclude={"targets"}) + " ".join(target.cluster for target in targets)
    return f"{slug(name)}@{digest(name + definition)}"


def passthrough_route(provider: str, targets: Sequence[Target]) -> str:
    """Envoy's name for the route of what passes through to a provider."""
    return f"p/{provider}@{digest(' '.join(target.cluster for target in targets))}"


def attempts_of(model: ModelSettings, targets: Sequence[Target]) -> int:
    """How many attempts a request may have: a single target is tried twice at most."""
    return model.attempts if len(targets) > 1 else min(2, model.attempts)


def _model(name: str, settings: PolicySettings) -> Model:
    made = settings.models[name]
    targets = targets_of(settings, name, made)
    return Model(
        name,
        model_route(name, made, targets),
        targets,
        Pool([_choice(target) for target in targets], Strategy(made.strategy), attempts_of(made, targets), name),
        made.affinity if made.strategy == "affinity" else "",
        len({target.shape for target in targets}) == 1,
        not any(target.serves for target in targets),
        made.cache.rules() if made.cache is not None else None,
        _semantic(made.cache, settings) if made.cache is not None else None,
        tuple(sorted({_mark(target) for target in targets})),
        {one.cluster: Price(one.input_cost, one.output_cost) for one in targets if one.input_cost or one.output_cost},
        frozenset().union(*(_touched(target) for target in targets)),
    )


def _semantic(cache: CacheSettings, settings: PolicySettings) -> SemanticRules | None:
    """The rules, with whom Envoy is to ask for vectors: the model that is named, which has one target."""
    made = cache.semantic
    if made is None:
        return None
    model = settings.models[made.embeddings]
    targets = targets_of(settings, made.embeddings, model)
    first = targets[0]
    return SemanticRules(
        made.threshold,
        made.scope,
        Embeddings(
            made.embeddings,
            model_route(made.embeddings, model, targets),
            first.path("/embeddings", ""),
            first.model,
            (first.provider, first.model, *sorted({target.channel.base_url for target in targets})),
            made.dimensions,
        ),
        cache.ttl if made.ttl is None else made.ttl,
        made.timeout,
        made.allow_tools,
        made.max_text,
        made.max_entries,
    )


def _mark(target: Target) -> str:
    """What an answer depends on of a target: who serves it, as what, and what is done to the request."""
    return repr((target.provider, target.channel.base_url, *target.shape))


def _touched(target: Target) -> set[str]:
    """The fields of a body that this target may need to be other than the client wrote them."""
    usage = {"stream_options"} if target.include_usage else set()
    maximum = {"max_tokens", "max_completion_tokens"} if target.max_tokens else set()
    return {"model", *target.drops} | usage | maximum


def _passthrough(provider: str, settings: PolicySettings) -> Model:
    targets = passthrough_targets(settings, provider)
    pool = Pool([_choice(target) for target in targets], attempts=PASSTHROUGH_ATTEMPTS, name=f"/p/{provider}/")
    uniform = len({target.base_path for target in targets}) == 1
    return Model("", passthrough_route(provider, targets), targets, pool, "", uniform, serves_all=True)


def _choice(target: Target) -> Choice:
    return Choice(
        cluster=target.cluster,
        provider=target.provider,
        endpoint=target.channel.base_url,
        account=target.channel.secret,
        model=target.model,
        priority=target.priority,
        weight=target.weight,
        input_cost=target.input_cost,
        output_cost=target.output_cost,
    )
