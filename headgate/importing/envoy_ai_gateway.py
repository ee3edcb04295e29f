"""Envoy AI Gateway's resources as `headgate.yaml`.

https://aigateway.envoyproxy.io/docs/api/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from extproc.providers.presets import PRESETS
from headgate.importing.document import Document
from headgate.importing.providers import Providers, fault
from headgate.importing.report import Ledger
from headgate.importing.result import Result
from headgate.importing.secrets import Secrets, variable_name
from sidecar.configfile import ConfigFile, KeyPath, parse
from sidecar.errors import ConfigError, Problem

MODEL_HEADER = "x-ai-eg-model"
_SEPARATOR = re.compile(r"^---(?:[ \t].*)?$", re.MULTILINE)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?")
_OURS = ("AIGatewayRoute", "AIServiceBackend", "BackendSecurityPolicy", "Backend", "BackendTLSPolicy")
_MORE = 120  # seconds: our idle timeout, when nothing is said
_OTHERS = {
    "BackendTrafficPolicy": ("limits by header are Envoy Gateway's", "`limits` of a key, or `headgate ratelimit`"),
    "QuotaPolicy": ("there are no quotas of a backend", "`limits` of a key"),
    "SecurityPolicy": (
        "clients are known by their key alone",
        "`keys`, or check other tokens in Envoy, before Headgate",
    ),
    "ClientTrafficPolicy": ("the listener's settings", "`max_body`, `tls`, `request_timeout`"),
    "MCPRoute": ("MCP is not served", ""),
    "GatewayConfig": ("the ext_proc container is Headgate's own", ""),
    "InferencePool": ("endpoints are not picked one by one", "`base_urls` of a provider, `strategy: least_requests`"),
    "Secret": ("secrets are not read from here", "set the variables that this import names"),
}
_KEPT_PARTS = ("apiVersion", "kind", "metadata", "status")


@dataclass(frozen=True, slots=True)
class _Resource:
    key: str
    kind: str
    name: str
    spec: dict[str, Any]


def read(text: str, name: str) -> ConfigFile:
    """The objects of a file, each under `Kind/name`: documents, and the items of a List. Raises `ConfigError`."""
    values: dict[str, Any] = {}
    lines: dict[KeyPath, int] = {(): 1}
    for start, part in _documents(text):
        file = parse("\n" * start + part, name, {}, folder=Path(), deferred=("*",))
        for path, value in _objects(file.values):
            metadata = value.get("metadata")
            own = metadata.get("name", "") if isinstance(metadata, dict) else ""
            key = f"{value.get('kind', 'document')}/{own}"
            while key in values:
                key += "'"
            values[key] = value
            depth = len(path)
            lines |= {(key, *at[depth:]): line for at, line in file.lines.items() if at[:depth] == path}
    return ConfigFile(name, values, lines, text)


def _objects(document: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The objects of a document, each with its place in it. `kubectl get -o yaml` prints several as one List."""
    items = document.get("items")
    if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
        yield from ((("items", number), one) for number, one in enumerate(items) if isinstance(one, dict))
    elif document:
        yield (), document


def _documents(text: str) -> Iterator[tuple[int, str]]:
    """The number of lines before each document, and its text."""
    at = 0
    for match in _SEPARATOR.finditer(text):
        yield text.count("\n", 0, at), text[at : match.start()]
        at = match.end()
    yield text.count("\n", 0, at), text[at:]


class _Import:
    """One import while it runs."""

    def __init__(self, file: ConfigFile) -> None:
        self.said = Ledger(file)
        self.values = file.values
        self.document = Document({"providers": {}, "models": {}})
        self.secrets = Secrets()
        self.providers = Providers(self.document, self.secrets)
        self.resources = [_resource(key, value) for key, value in file.values.items()]
        self.known: dict[str, str | None] = {}
        self.used: set[str] = set()

    def of(self, kind: str) -> list[_Resource]:
        return [one for one in self.resources if one.kind == kind]

    def named(self, kind: str, name: str) -> _Resource | None:
        return next((one for one in self.of(kind) if one.name == name), None)

    def aimed(self, kind: str, name: str) -> _Resource | None:
        """The policy whose `targetRefs` name this."""
        return next(
            (
                one
                for one in self.of(kind)
                if any(ref.get("name") == name for ref in _dicts(one.spec.get("targetRefs")))
            ),
            None,
        )

    def provider(self, name: str) -> str | None:
        """The provider of an AIServiceBackend; None when there is none for it, which is reported."""
        if name not in self.known:
            self.known[name] = self._provider(name)
        return self.known[name]

    def _provider(self, name: str) -> str | None:
        backend = self.named("AIServiceBackend", name)
        if backend is None:
            return None
        said, path = self.said, (backend.key, "spec")
        schema = _dict(backend.spec.get("schema"))
        kind = str(schema.get("name"))
        if kind not in ("OpenAI", "AzureOpenAI", "Anthropic", "Cohere"):
            mend = "keep its route in Envoy AI Gateway and name that as a provider (`base_url`)"
            said.missing((*path, "schema"), f"{kind} is not spoken here", mend)
            self._leave(backend)
            return None
        url = self._address(backend, kind, schema)
        if url is None:
            said.missing((*path, "backendRef"), "its address is not in this file", "import its Backend along with it")
            self._leave(backend)
            return None
        settings = self._block(kind, url, schema)
        self._key(backend, settings)
        if kind in ("Anthropic", "Cohere"):
            said.changed((*path, "schema"), "through the vendor's layer for OpenAI clients: chat only")
        for key in backend.spec:
            if key in ("schema", "backendRef") and not said.mentioned((*path, key)):
                said.kept((*path, key))
            elif key in ("headerMutation", "bodyMutation"):
                said.missing(
                    (*path, key), "requests are not changed by rule", "`drops` of a provider leaves fields out"
                )
        wrong = fault(settings, self.secrets)
        if wrong:
            said.missing(path, f"its `{wrong}` cannot be used", "write it by hand")
            return None
        return self.providers.name(name, settings)

    def _leave(self, backend: _Resource) -> None:
        for key in backend.spec:
            if not self.said.mentioned((backend.key, "spec", key)):
                self.said.missing((backend.key, "spec", key), "belongs to a backend that is not taken over")

    def _address(self, backend: _Resource, kind: str, schema: dict[str, Any]) -> str | None:
        """The base URL, from the Backend's first endpoint or a Service's name."""
        ref = _dict(backend.spec.get("backendRef"))
        name, port = str(ref.get("name", "")), ref.get("port")
        host = ""
        endpoints = self.named("Backend", name)
        policy = self.aimed("BackendTLSPolicy", name)
        self.used |= {one.key for one in (endpoints, policy) if one is not None}
        if endpoints is not None:
            listed = _dicts(endpoints.spec.get("endpoints"))
            first = _dict((listed or [{}])[0].get("fqdn")) or _dict((listed or [{}])[0].get("ip"))
            host, port = str(first.get("hostname") or first.get("address") or ""), first.get("port")
            if len(listed) > 1:
                self.said.changed(
                    (endpoints.key, "spec", "endpoints"), "the first one alone", "`base_urls` takes several"
                )
        elif ref.get("kind", "Service") == "Service" and name:
            host = f"{name}.{ref['namespace']}" if ref.get("namespace") else name
        if not host:
            return None
        secure = port == 443 or policy is not None
        usual = 443 if secure else 80
        at = "" if port in (None, usual) else f":{port}"
        prefix = schema.get("prefix", schema.get("version") if kind == "OpenAI" else None)
        path = "" if kind == "AzureOpenAI" else str(prefix if prefix is not None else "v1").strip("/")
        return f"{'https' if secure else 'http'}://{host}{at}{f'/{path}' if path else ''}"

    def _block(self, kind: str, url: str, schema: dict[str, Any]) -> dict[str, Any]:
        if kind == "AzureOpenAI":
            version = {"api_version": str(schema["version"])} if schema.get("version") else {}
            return {"preset": "azure-openai", "base_url": url, **version}
        host = urlsplit(url).hostname
        for preset in PRESETS.values():
            if preset.base_url.startswith("https") and urlsplit(preset.base_url).hostname == host:
                return {"preset": preset.name} if preset.base_url == url else {"preset": preset.name, "base_url": url}
        return {"dialect": "openai", "base_url": url}

    def _key(self, backend: _Resource, settings: dict[str, Any]) -> None:
        policy = self.aimed("BackendSecurityPolicy", backend.name)
        inline = _dict(backend.spec.get("backendSecurityPolicyRef")).get("name")
        policy = policy or (self.named("BackendSecurityPolicy", str(inline)) if inline else None)
        if policy is None:
            return
        kind = str(policy.spec.get("type"))
        section = {"APIKey": "apiKey", "AzureAPIKey": "azureAPIKey", "AnthropicAPIKey": "anthropicAPIKey"}.get(kind)
        if section is None:
            self.said.missing(
                (policy.key, "spec"), f"{kind} is no key: providers are asked with a key", "use an API key"
            )
            return
        ref = _dict(_dict(policy.spec.get(section)).get("secretRef"))
        settings["api_key"] = self.secrets.variable(variable_name(str(ref.get("name") or policy.name)))
        note = f"the Secret's `apiKey` is {settings['api_key']} now"
        self.said.changed((policy.key, "spec"), note, "set that variable, or mount the Secret and write ${file:…}")


def _resource(key: str, value: Any) -> _Resource:
    value = _dict(value)
    return _Resource(
        key, str(value.get("kind")), str(_dict(value.get("metadata")).get("name", "")), _dict(value.get("spec"))
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def convert(file: ConfigFile) -> Result:
    """The resources as ours. Raises `ConfigError` when no model comes of them."""
    work = _Import(file)
    for route in work.of("AIGatewayRoute"):
        for index, rule in enumerate(_dicts(route.spec.get("rules"))):
            _rule(rule, (route.key, "spec", "rules", index), work)
        _route(route, work)
    _report(work)
    if not work.document.values["models"]:
        what = "no rule of an AIGatewayRoute can be taken over"
        raise ConfigError([Problem(f"{file.name}:1", "", what, "see docs/migrate/envoy-ai-gateway.md")])
    work.document.note(
        ("models",), "Nobody has a key yet: `headgate new-key NAME` makes one and its entry for `keys:`."
    )
    work.document.header = [f"Imported from {Path(file.name).name} by `headgate import envoy-ai-gateway`."]
    return Result(work.document, {file.name: work.said.entries()}, work.secrets.variables)


def _rule(rule: dict[str, Any], path: KeyPath, work: _Import) -> None:
    names = list(_models(rule, path, work))
    targets: list[dict[str, Any]] = []
    orders = sorted({_whole(one.get("priority"), 0) for one in _dicts(rule.get("backendRefs"))})
    for index, ref in enumerate(_dicts(rule.get("backendRefs"))):
        where = (*path, "backendRefs", index)
        provider = work.provider(str(ref.get("name")))
        if provider is None:
            why = (
                "its backend is not taken over"
                if work.named("AIServiceBackend", str(ref.get("name")))
                else "is not in this file"
            )
            work.said.missing(where, why, "import its AIServiceBackend along with it")
            continue
        made: dict[str, Any] = {"provider": provider}
        if ref.get("modelNameOverride"):
            made["model"] = str(ref["modelNameOverride"])
        if _whole(ref.get("weight"), 1) != 1:
            made["weight"] = min(_whole(ref.get("weight"), 1), 1_000_000)
        if orders.index(_whole(ref.get("priority"), 0)):
            made["priority"] = orders.index(_whole(ref.get("priority"), 0))
        for key in ref:
            if key in ("name", "weight", "priority", "modelNameOverride", "kind", "group", "namespace"):
                work.said.kept((*where, key))
            elif key in ("headerMutation", "bodyMutation"):
                work.said.missing((*where, key), "requests are not changed by rule")
        if made not in targets:
            targets.append(made)
    timeout = _seconds(_dict(rule.get("timeouts")).get("request"))
    for name in names if targets and any(one.get("weight", 1) for one in targets) else ():
        model: dict[str, Any] = {"targets": [dict(one) for one in targets]}
        if len(targets) > 3:
            model["attempts"] = min(len(targets), 16)
        if timeout:
            model["timeouts"] = {"total": timeout, **({"idle": timeout} if timeout > _MORE else {})}
        alone = len(targets) == 1 and set(model) == {"targets"}
        work.document.values["models"][name] = model["targets"][0] if alone else model
    if timeout:
        work.said.kept((*path, "timeouts"), "`timeouts.total`")


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _models(rule: dict[str, Any], path: KeyPath, work: _Import) -> Iterator[str]:
    """The models that a rule is for."""
    for number, match in enumerate(_dicts(rule.get("matches"))):
        headers = _dicts(match.get("headers"))
        where = (*path, "matches", number)
        other = [one for one in headers if str(one.get("name")).lower() != MODEL_HEADER]
        exact = [one for one in headers if one not in other and one.get("type", "Exact") == "Exact"]
        if other or len(exact) != 1 or len(headers) != 1 or set(match) != {"headers"}:
            note = "a model is chosen by its name alone, not by other headers, paths or patterns"
            work.said.missing(where, note, "give it a model name of its own")
            continue
        work.said.kept(where, "the name of the model")
        yield str(exact[0].get("value"))


def _seconds(text: Any) -> int | float:
    """A Gateway API duration (`1m30s`) in seconds; 0 for none."""
    match = _DURATION.fullmatch(str(text or ""))
    if match is None or not text:
        return 0
    hours, minutes, seconds, thousandths = (int(one or 0) for one in match.groups())
    found = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
    return int(found) if found == int(found) else found


def _route(route: _Resource, work: _Import) -> None:
    for index in range(len(_dicts(route.spec.get("llmRequestCosts")))):
        note = "tokens are counted as they are: the total, reserved before and settled after"
        work.said.changed((route.key, "spec", "llmRequestCosts", index), note, "`limits.tokens` of a key")
    for key in ("parentRefs", "targetRefs", "schema", "filterConfig"):
        if key in route.spec:
            work.said.changed((route.key, "spec", key), "the gateway listens where `listen` says")


def _report(work: _Import) -> None:
    for one in work.resources:
        if one.kind not in _OURS:
            note, mend = _OTHERS.get(one.kind, ("Kubernetes' own, or Envoy Gateway's: not needed by headgate.yaml", ""))
            work.said.missing((one.key,), note, mend)
            continue
        for part in set(_KEPT_PARTS) & set(_dict(work.values[one.key])):
            work.said.kept((one.key, part), "only named it")
        for key in one.spec:
            where = (one.key, "spec", key)
            if work.said.mentioned(where):
                continue
            if one.key in work.used:
                work.said.kept(where, "in `base_url`")
            elif one.kind != "AIGatewayRoute":
                work.said.missing(where, "no rule of this file leads here")
