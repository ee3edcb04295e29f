"""Where an attempt can go: each endpoint of a provider, with each of its keys, under the provider's name of a model.

Every target is one Envoy cluster: the cluster's name says all that an attempt has of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from extproc.providers.dialect import DIALECTS, with_query
from extproc.settings import ModelSettings, PolicySettings, ProviderSettings, TargetSettings

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SHOWN = 40
OWN_KEY = "+own"  # a cluster that sends the client's own key
CAPTURED = "+cache"  # a route whose answers are kept
REPLAYED = "+replay"  # the route of kept streams that are replayed at a pace; a worker's number follows
REALTIME = "+ws"  # a cluster for WebSockets: HTTP/1.1 only


@dataclass(frozen=True, slots=True)
class Channel:
    """One endpoint of a provider with one of its keys."""

    provider: str
    definition: str  # names the provider as it is defined: another definition has another name
    base_url: str
    key: int  # counts the provider's keys
    has_key: bool

    @property
    def secret(self) -> str:
        """The name of its key among Envoy's secrets."""
        return f"{self.definition}.{self.key}"


@dataclass(frozen=True, slots=True)
class Target:
    """One place where an attempt can go, and what the provider there wants a request to look like."""

    cluster: str
    channel: Channel
    model: str  # the provider's name of the model; empty where a request passes through
    dialect: str
    base_path: str
    api_version: str
    include_usage: bool
    max_tokens: str
    drops: tuple[str, ...]
    realtime: bool
    serves: frozenset[str]  # operations; empty: all
    priority: int
    weight: int
    input_cost: float
    output_cost: float
    several: bool  # whether it is one of several: then attempts are made from the original request
    paths: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # by operation, as they are needed

    def path(self, operation_path: str, query: str) -> str:
        """The path of an operation there, with what of the client's query is the client's to say."""
        if not self.model:
            return with_query(self._passed(operation_path), query)
        path = self.paths.get(operation_path)
        if path is None:
            path = DIALECTS[self.dialect].path(self.base_path, operation_path, self.model, self.api_version)
            self.paths[operation_path] = path
        return with_query(path, query, DIALECTS[self.dialect].owned_parameters) if query else path

    def _passed(self, path: str) -> str:
        """Where a request that names its provider goes: its own path, below the base path."""
        # An SDK may be given …/p/PROVIDER or …/p/PROVIDER/v1 as its base URL: both mean the same.
        version = self.base_path.rpartition("/")[2]
        if version and (path == f"/{version}" or path.startswith(f"/{version}/")):
            path = path[len(version) + 1 :]
        return f"{self.base_path}{path}"

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self.channel.provider

    @property
    def shape(self) -> tuple[object, ...]:
        """What requests to it look like: two targets of one shape get the same bytes."""
        return (
            self.dialect, self.base_path, self.api_version, self.model, self.include_usage, self.max_tokens, self.drops
        )  # fmt: skip


def definition_name(provider: str, settings: ProviderSettings) -> str:
    """A name for this definition of a provider: another one when anything but a key's value changes.

    So a request that was decided just before a reload still finds what it was decided for.
    """
    has_keys = [bool(key.get_secret_value()) for key in settings.credentials]
    definition = settings.model_dump_json(exclude={"api_key", "api_keys"}) + str(has_keys)
    return f"{provider}@{digest(definition)}"


def digest(text: str) -> str:
    """Eight hex digits that differ where `text` differs."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """A name as part of Envoy's names and of header values."""
    return _UNSAFE.sub("_", name)[:_SHOWN]


def channels(provider: str, settings: ProviderSettings) -> Iterator[Channel]:
    """Every endpoint with every key."""
    definition = definition_name(provider, settings)
    for base_url in settings.endpoints:
        for number, key in enumerate(settings.credentials):
            yield Channel(provider, definition, base_url, number, bool(key.get_secret_value()))


def targets_of(settings: PolicySettings, name: str, model: ModelSettings) -> tuple[Target, ...]:
    """The targets of the model `name`, those without weight left out."""
    found = [
        (one, channel)
        for one in model.targets
        if one.weight
        for channel in channels(one.provider, settings.providers[one.provider])
    ]
    return tuple(_target(settings, one, channel, one.model or name, several=len(found) > 1) for one, channel in found)


def passthrough_targets(settings: PolicySettings, provider: str) -> tuple[Target, ...]:
    """The targets of requests that name the provider themselves (`/p/PROVIDER/…`)."""
    found = list(channels(provider, settings.providers[provider]))
    one = TargetSettings(provider=provider)
    return tuple(_target(settings, one, channel, "", several=len(found) > 1) for channel in found)


def _target(settings: PolicySettings, one: TargetSettings, channel: Channel, model: str, *, several: bool) -> Target:
    provider = settings.providers[one.provider]
    many = len(provider.endpoints) * len(provider.credentials)
    identity = f"{channel.definition} {channel.base_url} {channel.key} {model} {several}"
    return Target(
        cluster=f"{channel.provider}/{slug(model)}@{digest(identity)}",
        channel=channel,
        model=model,
        dialect=provider.dialect,
        base_path=urlsplit(channel.base_url).path,
        api_version=provider.api_version,
        include_usage=provider.include_usage,
        max_tokens=provider.max_tokens,
        drops=tuple(provider.drops),
        realtime=provider.realtime,
        serves=frozenset(provider.serves),
        priority=one.priority,
        # Its share is split over the endpoints and keys: scaled so that it stays a whole number.
        weight=max(1, one.weight * SCALE // many),
        input_cost=one.cost.input,
        output_cost=one.cost.output,
        several=several,
    )


SCALE = 5040  # whole shares for up to ten endpoints or keys
