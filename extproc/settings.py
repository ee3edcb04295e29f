"""What the ExternalProcessor reads from `headgate.yaml`: providers, models, keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator

from extproc.cache.rules import IGNORABLE, CacheRules, Replay
from extproc.providers.presets import PRESETS, Preset
from extproc.providers.quirks import ALL_OPERATIONS
from extproc.semantic.settings import SemanticSettings
from ratelimit.rules import Rate
from sidecar.configfile import KeyPath
from sidecar.settings import Complaint, Section, read_size

# Strings below these paths stay as written (`${OPENAI_API_KEY}`): only the renderer of Envoy's secrets
# resolves them, so that the services never hold a provider's key.
DEFERRED = ("providers.*.api_key", "providers.*.api_keys.*")

LARGEST_ANSWER = 64 << 20  # bytes that `max_answer` may allow
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("is not a name | use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first")
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        port_is_right = False
    host = parts.hostname or ""
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host) or re.search(r"[\s\x00-\x20]", value):
        host_is_right = False
    else:
        # What looks like an IPv4 address must be one.
        host_is_right = not re.fullmatch(r"[0-9.]+", host) or all(p.isdigit() and int(p) < 256 for p in host.split("."))
    if not host_is_right or parts.scheme not in ("http", "https") or not parts.hostname or not port_is_right:
        raise ValueError(f"'{value}' is not a base URL | write for example https://api.openai.com/v1")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("a base URL holds no query, fragment or credentials | put the key into `api_key`")
    return value.rstrip("/")


def _digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError('must be the SHA-256 of the key, 64 hex digits | make one with: printf %s "$KEY" | sha256sum')
    return value.lower()


def _rate(value: Any) -> Any:
    if isinstance(value, str):
        return Rate.parse(value)
    if isinstance(value, Rate) or value is None:
        return value
    raise ValueError(f"{value!r} is not a rate | write for example 60/min")


def _model(value: Any) -> Any:
    """One target, a list of them, or the whole form with `targets`."""
    if isinstance(value, list):
        return {"targets": value}
    if isinstance(value, dict) and "targets" not in value:
        return {"targets": [value]}
    return value


def _trigger(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value in TRIGGERS or (isinstance(value, str) and re.fullmatch(r"[45][0-9][0-9]", value)):
        if value in NEVER_RETRIED:
            raise ValueError(f"an answer {value} is about the request itself: another provider says the same")
        return value
    raise ValueError(f"{value!r} is no trigger | write {', '.join(TRIGGERS)}, or a status like 503")


def _model_name(value: str) -> str:
    if not value.isprintable():
        raise ValueError("holds control characters | check how it was copied")
    return value


# When the next target is tried. `connect`: no connection (refused, DNS, TLS, or closed before the request was out);
# `reset`: the connection broke, or a deadline passed, before the answer began.
TRIGGERS = ("connect", "reset", "5xx", "408", "409", "429")
NEVER_RETRIED = ("400", "401", "403", "404", "422")
Name = Annotated[str, AfterValidator(_name)]
Size = Annotated[int, BeforeValidator(read_size)]
BaseUrl = Annotated[str, AfterValidator(lambda value: _base_url(value) if value else value)]
ModelName = Annotated[str, Field(max_length=256), AfterValidator(_model_name)]
RateField = Annotated[Rate, BeforeValidator(_rate)]


class TlsClientSettings(Section):
    """How the provider's certificate is checked (https only)."""

    ca: str = Field(default="", description="CA bundle (PEM file); empty: the system's")
    sni: str = Field(default="", description="server name to send and check; empty: the host of base_url")


class HealthCheckSettings(Section):
    """A cheap question that a provider answers without a key: any answer below 500 counts as alive."""

    path: str = Field(pattern=r"^/", description="from the host's root, for example /health")
    interval: float = Field(default=10.0, ge=0.5, le=3600, description="seconds")
    timeout: float = Field(default=2.0, gt=0, le=60, description="seconds")


class ProviderSettings(Section):
    """An upstream that speaks one dialect, at one or several endpoints, with one or several keys.

    A preset fills in what is known of a vendor; what is written beside it wins.
    """

    preset: str = Field(default="", description="a known vendor or server: docs/providers.md")
    dialect: Literal["openai", "azure-openai"]
    base_url: BaseUrl = Field(default="", description="one endpoint, up to and with its version")
    base_urls: list[BaseUrl] = Field(default=[], max_length=32, description="or several that serve the same")
    api_key: SecretStr = Field(default=SecretStr(""), description="put in by Envoy, in the dialect's header")
    api_keys: list[SecretStr] = Field(default=[], max_length=64, description="or several: the load is spread over them")
    api_version: str = Field(
        default="", pattern=r"^[A-Za-z0-9.-]*$", description="azure-openai: paths of deployments; empty: the v1 paths"
    )
    include_usage: bool = Field(default=True, description="ask for the usage chunk of streams (stream_options)")
    max_tokens: Literal["", "max_tokens", "max_completion_tokens"] = Field(
        default="", description="the name of a chat's maximum there; empty: as the client wrote it"
    )
    drops: list[str] = Field(default=[], max_length=64, description="fields of a body that it refuses: left out")
    serves: list[Literal[tuple(sorted(ALL_OPERATIONS))]] = Field(  # type: ignore[valid-type]
        default=[], description="operations that it serves, such as embeddings; empty: all"
    )
    realtime: bool = Field(default=False, description="serves WebSockets at /realtime")
    health_check: HealthCheckSettings | None = None
    idle_timeout: float = Field(
        default=120.0,
        gt=0,
        le=86_400,
        description="seconds without a byte from the provider, first byte included",
    )
    connect_timeout: float = Field(default=5.0, gt=0, le=300, description="seconds")
    max_requests: int = Field(default=100_000, ge=1, le=1_000_000, description="open at once, then 503 (per target)")
    max_retries: int = Field(default=10_000, ge=0, le=1_000_000, description="open at once that another target failed")
    tls: TlsClientSettings = TlsClientSettings()

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("preset"), str) or not values["preset"]:
            return values
        preset = PRESETS.get(values["preset"])
        if preset is None:
            raise ValueError(f"there is no preset '{values['preset']}' | presets are: {', '.join(sorted(PRESETS))}")
        return {**_filled(preset, values), **values}

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The base URLs, at least one."""
        return tuple(self.base_urls) or (self.base_url,)

    @property
    def credentials(self) -> tuple[SecretStr, ...]:
        """The keys as they are written; one that is empty when there is none."""
        return tuple(self.api_keys) or (self.api_key,)


def _filled(preset: Preset, given: dict[str, Any]) -> dict[str, Any]:
    """What a preset says where the file says nothing."""
    filled: dict[str, Any] = {"dialect": preset.dialect, "include_usage": preset.quirks.include_usage}
    filled["realtime"] = preset.quirks.realtime
    if preset.quirks.operations != ALL_OPERATIONS:
        filled["serves"] = sorted(preset.quirks.operations)
    filled["max_tokens"], filled["drops"] = preset.quirks.max_tokens, list(preset.quirks.drops)
    if preset.base_url and "base_urls" not in given:
        filled["base_url"] = preset.base_url
    if preset.key_variable and "api_keys" not in given:
        filled["api_key"] = f"${{{preset.key_variable}}}"
    if preset.health_path:
        filled["health_check"] = {"path": preset.health_path}
    return filled


class CostSettings(Section):
    """What a target costs, per million tokens, in any one currency (`strategy: cost`)."""

    input: float = Field(default=0.0, ge=0, le=1e9)
    output: float = Field(default=0.0, ge=0, le=1e9)


class TargetSettings(Section):
    """One provider (and the model's name there) that may serve a model."""

    provider: str
    model: ModelName = Field(default="", description="the provider's name for it; empty: the same name")
    weight: int = Field(default=1, ge=0, le=1_000_000, description="its share among those of its priority")
    priority: int = Field(default=0, ge=0, le=1000, description="lower ones are tried first")
    cost: CostSettings = CostSettings()


class TimeoutSettings(Section):
    """How long a model's targets may take, each in seconds and on its own."""

    first_byte: float | None = Field(
        default=None, gt=0, le=86_400, description="until an attempt's answer begins; then the next target"
    )
    idle: float | None = Field(
        default=None, gt=0, le=86_400, description="without a byte; empty: the longest of the targets' providers"
    )
    total: float | None = Field(
        default=None, gt=0, le=864_000, description="from the request to the end of its answer, streams included"
    )


class CacheSettings(Section):
    """What of a model's answers is kept, for whom and how long (docs/cache.md). Being there turns the cache on."""

    ttl: int = Field(default=3600, ge=1, le=31_536_000, description="seconds that an answer is kept")
    scope: Literal["key", "team", "shared"] = Field(default="key", description="who shares an answer")
    max_temperature: float | None = Field(
        default=0.0, ge=0, le=2, description="requests above it pass by (one that names none counts as 1); null: any"
    )
    require_seed: bool = Field(default=False, description="only requests with a seed")
    allow_tools: bool = Field(default=False, description="also with tools that the client runs")
    allow_n: bool = Field(default=False, description="also several choices")
    allow_images: bool = Field(default=False, description="also pictures, sounds and files that the body holds")
    allow_stored: bool = Field(default=False, description="also answers that the provider stores (responses)")
    max_request: Size = Field(default=256 * 1024, ge=1, description="bytes of a request that is looked up")
    max_answer: Size = Field(
        default=1024 * 1024, ge=1, le=LARGEST_ANSWER, description="bytes of an answer that is kept"
    )
    replay: Replay = Field(default="at_once", description="how a kept stream is sent: at_once, or paced")
    events_per_second: float = Field(default=50.0, ge=1, le=1000, description="of a stream that is paced")
    ignore: list[str] = Field(default=[], description="fields that do not matter, such as user or metadata")
    semantic: SemanticSettings | None = Field(default=None, description="also by meaning, where nothing is equal")

    @field_validator("ignore")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        unknown = sorted(set(names) - IGNORABLE)
        if unknown:
            known = ", ".join(sorted(IGNORABLE))
            raise ValueError(f"'{unknown[0]}' may matter to the answer | fields that may be ignored: {known}")
        return names

    def rules(self) -> CacheRules:
        """As the decision has them."""
        return CacheRules(**{**self.model_dump(exclude={"semantic"}), "ignore": frozenset(self.ignore)})


class ModelSettings(Section):
    """A name that clients ask for: its targets, who of them is tried first, and when the next one is."""

    targets: list[TargetSettings] = Field(min_length=1, max_length=64)
    strategy: Literal["weighted", "round_robin", "least_requests", "latency", "cost", "affinity"] = "weighted"
    affinity: Literal["user", "conversation", "key"] = Field(
        default="conversation", description="what stays with one target (`strategy: affinity`)"
    )
    attempts: int = Field(default=3, ge=1, le=16, description="at most, over all targets")
    retry_on: list[Annotated[str, BeforeValidator(_trigger)]] = Field(default=list(TRIGGERS), max_length=64)
    timeouts: TimeoutSettings = TimeoutSettings()
    cache: CacheSettings | None = None


class LimitSettings(Section):
    """What one key may use per window, for example `60/min`."""

    requests: RateField | None = None
    tokens: RateField | None = None


class KeySettings(Section):
    """A gateway key: only its SHA-256 is known here."""

    name: Name
    sha256: Annotated[str, AfterValidator(_digest)]
    models: list[str] = Field(default=["*"], description="names or patterns with `*`")
    passthrough: list[str] = Field(default=[], description="providers whose whole API it may use, under /p/PROVIDER/")
    team: str = Field(default="", max_length=64, description="who else shares its cached answers (`scope: team`)")
    cache: bool = Field(default=True, description="whether it is answered from caches at all")
    own_provider_keys: bool = Field(default=False, description="may bring a provider's key (x-provider-key)")
    limits: LimitSettings = LimitSettings()


class PolicySettings(Section):
    """Providers, models and keys: everything a decision needs."""

    providers: dict[Name, ProviderSettings] = Field(default_factory=dict)
    models: dict[
        Annotated[str, Field(min_length=1, max_length=256)],
        Annotated[ModelSettings, BeforeValidator(_model)],
    ] = Field(default_factory=dict)
    keys: list[KeySettings] = Field(default_factory=list)
    default_completion_tokens: int = Field(
        default=256, ge=0, le=1_000_000, description="reserved for an answer whose request names no maximum"
    )

    def complaints(self) -> Iterator[Complaint]:
        """What single fields cannot see: names that lead nowhere, names that stand twice."""
        for provider, one in self.providers.items():
            yield from _provider_complaints(("providers", provider), one)
        known = ", ".join(sorted(self.providers)) or "none"
        for model, made in self.models.items():
            for index, target in enumerate(made.targets):
                path: KeyPath = ("models", model, "targets", index, "provider")
                if target.provider not in self.providers:
                    yield Complaint(path, f"there is no provider '{target.provider}'", f"providers are: {known}")
            seen: set[tuple[str, str, int]] = set()
            for index, target in enumerate(made.targets):
                if (target.provider, target.model, target.priority) in seen:
                    where: KeyPath = ("models", model, "targets", index)
                    yield Complaint(
                        where, "the same target stands here twice", "give one of them the sum of the weights"
                    )
                seen.add((target.provider, target.model, target.priority))
            total, first_byte = made.timeouts.total, made.timeouts.first_byte
            if total and first_byte and total <= first_byte:
                mend = "make it longer: it is for all attempts together"
                yield Complaint(("models", model, "timeouts", "total"), "passes before `first_byte` does", mend)
            if not any(target.weight for target in made.targets):
                yield Complaint(("models", model), "every weight is 0", "give one target a weight above 0")
        names: dict[str, int] = {}
        digests: dict[str, int] = {}
        for index, key in enumerate(self.keys):
            if names.setdefault(key.name, index) != index:
                yield Complaint(("keys", index, "name"), f"the name '{key.name}' stands twice", "names are unique")
            if digests.setdefault(key.sha256, index) != index:
                other = self.keys[digests[key.sha256]].name
                yield Complaint(("keys", index, "sha256"), f"the same key as '{other}'", "each key has its own")
            for place, pattern in enumerate(key.models):
                if "*" not in pattern and pattern not in self.models:
                    known = ", ".join(sorted(self.models)) or "none"
                    yield Complaint(
                        ("keys", index, "models", place),
                        f"there is no model '{pattern}'",
                        f"models are: {known}",
                    )
            if key.team and not NAME.fullmatch(key.team):
                yield Complaint(
                    ("keys", index, "team"), f"'{key.team}' is not a name", "letters, digits, '.', '_', '-'"
                )
            for place, pattern in enumerate(key.passthrough):
                if "*" not in pattern and pattern not in self.providers:
                    known = ", ".join(sorted(self.providers)) or "none"
                    where = ("keys", index, "passthrough", place)
                    yield Complaint(where, f"there is no provider '{pattern}'", f"providers are: {known}")


_NEEDED = frozenset({"model", "messages", "input", "prompt", "stream"})


def _provider_complaints(path: KeyPath, provider: ProviderSettings) -> Iterator[Complaint]:
    if provider.base_url and provider.base_urls:
        yield Complaint((*path, "base_urls"), "`base_url` is given, too", "keep one of them")
    if not provider.base_url and not provider.base_urls:
        yield Complaint((*path, "base_url"), "is missing", "add `base_url:` here")
    if provider.api_key.get_secret_value() and provider.api_keys:
        yield Complaint((*path, "api_keys"), "`api_key` is given, too", "keep one of them")
    for name, values in (("base_urls", provider.base_urls), ("api_keys", provider.api_keys)):
        if len(set(values)) < len(values):
            yield Complaint((*path, name), "one stands here twice", "keep one of them")
    needed = sorted(_NEEDED.intersection(provider.drops))
    if needed:
        yield Complaint((*path, "drops"), f"no request makes sense without `{needed[0]}`", "take it out")
    if provider.dialect == "azure-openai" and any("/openai/deployments" in one for one in provider.endpoints):
        mend = "write https://NAME.openai.azure.com: the deployment is the target's `model`"
        yield Complaint((*path, "base_url"), "names a deployment", mend)
    if any(not key.get_secret_value() for key in provider.api_keys):
        yield Complaint((*path, "api_keys"), "one of the keys is empty", "take it out")
    if provider.api_version and provider.dialect != "azure-openai":
        yield Complaint((*path, "api_version"), "only Azure has one", "take it out, or set `dialect: azure-openai`")
