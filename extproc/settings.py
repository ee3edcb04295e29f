"""What the ExternalProcessor reads from `headgate.yaml`: providers, models, keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from ratelimit.rules import Rate
from sidecar.configfile import KeyPath
from sidecar.settings import Complaint, Section

# Strings below these paths stay as written (`${OPENAI_API_KEY}`): only the renderer of Envoy's secrets
# resolves them, so that the services never hold a provider's key.
DEFERRED = ("providers.*.api_key",)

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


def _targets(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


Name = Annotated[str, AfterValidator(_name)]
RateField = Annotated[Rate, BeforeValidator(_rate)]


class TlsClientSettings(Section):
    """How the provider's certificate is checked (https only)."""

    ca: str = Field(default="", description="CA bundle (PEM file); empty: the system's")
    sni: str = Field(default="", description="server name to send and check; empty: the host of base_url")


class ProviderSettings(Section):
    """An upstream that speaks one dialect at one base URL."""

    dialect: Literal["openai"]
    base_url: Annotated[str, AfterValidator(_base_url)]
    api_key: SecretStr = Field(default=SecretStr(""), description="sent as `authorization: Bearer …` by Envoy")
    include_usage: bool = Field(default=True, description="ask for the usage chunk of streams (stream_options)")
    idle_timeout: float = Field(
        default=120.0,
        gt=0,
        le=86_400,
        description="seconds without a byte from the provider, first byte included",
    )
    connect_timeout: float = Field(default=5.0, gt=0, le=300, description="seconds")
    tls: TlsClientSettings = TlsClientSettings()


class TargetSettings(Section):
    """One provider (and the model's name there) that may serve a model."""

    provider: str
    model: str = Field(default="", max_length=256, description="the provider's name for it; empty: the same name")
    weight: int = Field(default=1, ge=0, le=1_000_000)


class LimitSettings(Section):
    """What one key may use per window, for example `60/min`."""

    requests: RateField | None = None
    tokens: RateField | None = None


class KeySettings(Section):
    """A gateway key: only its SHA-256 is known here."""

    name: Name
    sha256: Annotated[str, AfterValidator(_digest)]
    models: list[str] = Field(default=["*"], description="names or patterns with `*`")
    limits: LimitSettings = LimitSettings()


class PolicySettings(Section):
    """Providers, models and keys: everything a decision needs."""

    providers: dict[Name, ProviderSettings] = Field(default_factory=dict)
    models: dict[
        Annotated[str, Field(min_length=1, max_length=256)],
        Annotated[list[TargetSettings], BeforeValidator(_targets), Field(min_length=1)],
    ] = Field(default_factory=dict)
    keys: list[KeySettings] = Field(default_factory=list)
    default_completion_tokens: int = Field(
        default=256, ge=0, le=1_000_000, description="reserved for an answer whose request names no maximum"
    )

    def complaints(self) -> Iterator[Complaint]:
        """What single fields cannot see: names that lead nowhere, names that stand twice."""
        for model, targets in self.models.items():
            for index, target in enumerate(targets):
                path: KeyPath = ("models", model, index, "provider")
                if target.provider not in self.providers:
                    known = ", ".join(sorted(self.providers)) or "none"
                    yield Complaint(path, f"there is no provider '{target.provider}'", f"providers are: {known}")
            if not any(target.weight for target in targets):
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
