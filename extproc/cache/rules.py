"""Which requests may be answered from the cache, and whose answers may be kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from extproc.cache.canonical import canonical
from extproc.cache.controls import Controls
from extproc.cache.key import Scope

_VALUE = msgspec.json.Decoder()
OPERATIONS = frozenset({"chat.completions", "completions", "responses", "embeddings"})
# Fields that `CacheRules.ignore` may name: an answer does not depend on them. All others do, or hold the question.
IGNORABLE = frozenset(
    {"user", "safety_identifier", "metadata", "prompt_cache_key", "prompt_cache_retention", "service_tier"}
)
Replay: TypeAlias = Literal["at_once", "paced"]
_NOTHING: frozenset[str] = frozenset()
_API_TEMPERATURE = 1.0  # of a request that names none

# What names a conversation, or a text, that the provider keeps: the same words may mean something else tomorrow.
_REFERENCES = ("previous_response_id", "conversation", "prompt", "background")
# What has the provider look something up: OpenAI; Azure's own data; xAI; OpenRouter; Qwen.
_LIVE = ("web_search_options", "data_sources", "search_parameters", "plugins", "enable_search")
# Every field by which a request is stateful, has tools or several choices. `responses` are stateful without one.
_TELLING = frozenset({"store", "audio", "modalities", "tools", "functions", "n", "best_of", *_LIVE})
_CLIENT_TOOLS = frozenset({"function", "custom"})  # the client runs these, and sends what they gave
# Member names in a canonical body: no text holds them, since there the quotes are escaped.
_LINKS = frozenset({"image_url", "audio_url", "video_url", "image"})
_INLINE = _LINKS | {"input_audio", "file_data"}
_REMOTE = frozenset({"file_id", "file_url"})
_MEDIA = re.compile(f'"(?:{"|".join(sorted(_INLINE | _REMOTE))})":'.encode())
_ITEM_REFERENCE = b'"type":"item_reference"'


class Reason(StrEnum):
    """Why a request has nothing to do with the cache. Labels of metrics."""

    OFF = "off"
    OWN_KEY = "own_key"  # for the caller to say: the client pays the provider itself
    OPERATION = "operation"
    NO_STORE = "no_store"
    NO_CACHE = "no_cache"  # only not looked up
    NOT_JSON = "not_json"
    TOO_LARGE = "too_large"
    STATEFUL = "stateful"
    TOOLS = "tools"
    CHOICES = "choices"
    TEMPERATURE = "temperature"
    SEED = "seed"
    AMBIGUOUS = "ambiguous"
    IMAGES = "images"  # or sound, or files


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What of a model's answers is kept. The defaults keep only what asking again would not change.

    With a `temperature` above 0 an answer is one draw of many, and a client that asks again may want another: agents
    do, when they could not use the first. So `max_temperature` is 0, and a request that names none counts as 1, which
    is the API's default. None takes any: for models that have no temperature, and where one draw is as good.
    Embeddings are not drawn, so rules about temperature, seed, choices and tools leave them alone.
    """

    ttl: int = 3600  # seconds
    scope: Scope = "key"
    max_temperature: float | None = 0.0
    require_seed: bool = False
    allow_tools: bool = False  # functions that the client runs; what the provider looks up is never kept
    allow_n: bool = False  # several choices
    allow_images: bool = False  # or sound or files, where the body holds them; what it links to is never kept
    allow_stored: bool = False  # `store: true`, which is what a response says that says nothing: ids get shared
    max_request: int = 256 * 1024  # bytes
    max_answer: int = 1024 * 1024  # bytes
    replay: Replay = "at_once"  # how a kept stream is sent
    events_per_second: float = 50.0  # of one that is paced
    ignore: frozenset[str] = _NOTHING  # of IGNORABLE; never applied to responses, whose answers repeat these fields


class Cacheable(NamedTuple):
    """The answer may be kept. `read` says whether one may be looked up, and `max_age` how old in seconds it may be."""

    canonical: bytes
    read: bool = True
    max_age: int | None = None

    @property
    def reason(self) -> Reason | None:
        """Why nothing is looked up."""
        return None if self.read else Reason.NO_CACHE


@dataclass(frozen=True, slots=True)
class Bypass:
    """The cache is not for this request."""

    reason: Reason


Verdict: TypeAlias = Cacheable | Bypass


def verdict(
    operation: str,
    raw: bytes,
    fields: Mapping[str, msgspec.Raw] | None,
    controls: Controls,
    rules: CacheRules | None,
) -> Verdict:
    """What the rules say of a request. `fields` are the top level of `raw`, None when it is no JSON object; without
    `rules` the cache is off."""
    if rules is None:
        return Bypass(Reason.OFF)
    if operation not in OPERATIONS:
        return Bypass(Reason.OPERATION)
    if controls.no_store:
        return Bypass(Reason.NO_STORE)
    if fields is None:
        return Bypass(Reason.NOT_JSON)
    if len(raw) > rules.max_request:
        return Bypass(Reason.TOO_LARGE)
    try:
        reason = None if operation == "embeddings" else _objection(operation, _Fields(fields), rules)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        reason = Reason.AMBIGUOUS
    if reason is not None:
        return Bypass(reason)
    body = canonical(raw, _NOTHING if operation == "responses" else rules.ignore)
    if body is None:
        return Bypass(Reason.AMBIGUOUS)
    if operation == "responses" and _ITEM_REFERENCE in body:
        return Bypass(Reason.STATEFUL)
    if _MEDIA.search(body) and not (rules.allow_images and _is_self_contained(body)):
        return Bypass(Reason.IMAGES)
    fresh = controls.no_cache or controls.max_age == 0
    return Cacheable(body, not fresh, controls.max_age)


class _Fields:
    """The top level of a body; null and absent are the same here."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, msgspec.Raw]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        raw = self._fields.get(name)
        return None if raw is None else _VALUE.decode(raw)

    def has_none(self, names: frozenset[str]) -> bool:
        """Whether none of these fields is there."""
        return names.isdisjoint(self._fields)

    def says(self, name: str) -> bool:
        """Whether the field is there and neither null, false, empty nor 0."""
        return name in self._fields and bool(self[name])


def _objection(operation: str, fields: _Fields, rules: CacheRules) -> Reason | None:
    if operation == "responses" or not fields.has_none(_TELLING):
        if _is_stateful(operation, fields, rules):
            return Reason.STATEFUL
        if not _tools_are_fine(fields, rules):
            return Reason.TOOLS
        if not rules.allow_n and any(fields[name] not in (None, 1) for name in ("n", "best_of")):
            return Reason.CHOICES
    if rules.max_temperature is not None:
        value = fields["temperature"]
        temperature = _API_TEMPERATURE if value is None else value
        # NaN cannot be written in JSON, and true is no number here.
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            return Reason.TEMPERATURE
        if temperature > rules.max_temperature:
            return Reason.TEMPERATURE
    if rules.require_seed and (isinstance(fields["seed"], bool) or not isinstance(fields["seed"], int)):
        return Reason.SEED
    return None


def _is_stateful(operation: str, fields: _Fields, rules: CacheRules) -> bool:
    if operation == "responses":
        if any(fields.says(name) for name in _REFERENCES):
            return True
        return fields["store"] is not False and not rules.allow_stored
    if operation == "chat.completions" and (fields.says("audio") or fields["modalities"] not in (None, ["text"])):
        return True  # what is spoken gets an id, which later turns name and which expires
    return fields.says("store") and not rules.allow_stored


def _tools_are_fine(fields: _Fields, rules: CacheRules) -> bool:
    if any(fields.says(name) for name in _LIVE):
        return False
    tools = fields["tools"] or []
    if not rules.allow_tools:
        return not tools and not fields.says("functions")
    return isinstance(tools, list) and all(
        isinstance(tool, dict) and isinstance(tool.get("type"), str) and tool["type"] in _CLIENT_TOOLS for tool in tools
    )


def _is_self_contained(body: bytes) -> bool:
    """Whether all pictures, sounds and files stand in the body itself: what a link leads to changes."""
    open_parts: list[Any] = [_VALUE.decode(body)]
    while open_parts:
        part = open_parts.pop()
        if isinstance(part, list):
            open_parts += part
        elif isinstance(part, dict):
            if not _REMOTE.isdisjoint(part):
                return False
            for name in _LINKS.intersection(part):
                link = part[name]
                if isinstance(link, dict):
                    link = link.get("url")
                if not (isinstance(link, str) and link.startswith("data:")):
                    return False
            open_parts += part.values()
    return True
