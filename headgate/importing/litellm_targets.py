"""Deployments of LiteLLM as our providers and targets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from extproc.providers.presets import PRESETS
from extproc.providers.quirks import ALL_OPERATIONS
from headgate.importing.litellm_vendors import UNSUPPORTED, VENDORS, Vendor, split
from headgate.importing.providers import Providers, fault
from headgate.importing.report import Ledger
from headgate.importing.secrets import Secrets, plain, variable_name
from sidecar.configfile import KeyPath

WAIT = 600  # seconds that LiteLLM waits for an answer when nothing else is said
THROUGH = "leave it in LiteLLM and name that with --through, or take an OpenAI-compatible endpoint"
_NEEDED = frozenset({"model", "messages", "input", "prompt", "stream"})
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_MODES = {
    "chat": "chat.completions", "completion": "completions", "embedding": "embeddings", "responses": "responses",
    "image_generation": "images.generations", "image_edit": "images.edits", "audio_speech": "audio.speech",
    "audio_transcription": "audio.transcriptions", "moderation": "moderations",
}  # fmt: skip
_AZURE_LOGINS = ("azure_ad_token", "tenant_id", "client_id", "client_secret", "azure_username", "azure_password")


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment as we know it. `order` is LiteLLM's (lower first), `weight` None where it named none."""

    provider: str
    model: str
    weight: int | None = None
    order: int = 0
    cost: tuple[float, float] = (0.0, 0.0)
    timeout: float | None = None


@dataclass(slots=True)
class LiteLLMProviders(Providers):
    """Our providers, and the LiteLLM that stays behind us when `through` is its URL."""

    through: str = ""

    def old_gateway(self) -> str:
        """The LiteLLM that is left behind us, for what only it can serve."""
        url = self.through.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
        key = self.secrets.variable("LITELLM_PROXY_API_KEY")
        name = self.name("litellm", {"preset": "litellm", "base_url": url, "api_key": key, "idle_timeout": WAIT})
        self.document.note(("providers", name), "LiteLLM itself, for what only it can serve.")
        return name


def target(
    params: dict[str, Any], info: dict[str, Any], group: str, said: Ledger, path: KeyPath, own: LiteLLMProviders
) -> Target | None:
    """One deployment's target, None when there is none for it; reports its keys that name provider and model."""
    where = (*path, "litellm_params")
    text = params.get("model")
    if not isinstance(text, str) or not text:
        said.missing((*where, "model"), "no model is named", "write provider/name")
        return None
    vendor_name, model = split(text, str(params.get("custom_llm_provider") or ""))
    vendor = VENDORS.get(vendor_name)
    reason = _reason(vendor_name, vendor, model, group)
    if vendor is not None and not reason:
        reason = _login_reason(vendor_name, params)
    settings = None if reason or vendor is None else _settings(vendor_name, vendor, params, said, where, own.secrets)
    if vendor is None or settings is None:
        return _left_behind(
            params, group, reason or "an address of your own need not speak OpenAI's API", said, path, own
        )
    if "custom_llm_provider" in params:
        said.kept((*where, "custom_llm_provider"))
    if vendor.note:
        said.changed((*where, "model"), vendor.note)
    else:
        said.kept((*where, "model"))
    name = own.name(_provider_name(vendor_name, vendor, settings), settings)
    _mode(info, vendor, said, path)
    model = model.replace("${", "$${")  # no reference of ours
    return Target(name, model, cost=_cost(params, info, said, path))


def _mode(info: dict[str, Any], vendor: Vendor, said: Ledger, path: KeyPath) -> None:
    """Whether the preset serves what the deployment is for."""
    where = (*path, "model_info", "mode")
    if "mode" not in info:
        return
    operation = _MODES.get(str(info["mode"]))
    served = PRESETS[vendor.preset].quirks.operations if vendor.preset else ALL_OPERATIONS
    if operation is None:
        said.missing(where, "is no operation that is routed", "`passthrough` of a key, /p/PROVIDER/…")
    elif operation not in served:
        said.missing(where, f"the preset does not serve {operation}", "`serves` of the provider, if it does")
    else:
        said.kept(where, "only described it: not needed")


def _reason(name: str, vendor: Vendor | None, model: str, group: str) -> str:
    if "*" in model or "*" in group:
        return "models are named one by one: a pattern is none"
    if not name:
        return "no provider can be told from the model's name"
    return "" if vendor is not None else UNSUPPORTED.get(name, "there is no preset for this provider")


def _login_reason(vendor: str, params: dict[str, Any]) -> str:
    if vendor == "azure" and not params.get("api_key") and any(params.get(one) for one in _AZURE_LOGINS):
        return "Azure is asked with a key, not with a token of Entra ID"
    return ""


def _left_behind(
    params: dict[str, Any], group: str, reason: str, said: Ledger, path: KeyPath, own: LiteLLMProviders
) -> Target | None:
    where = (*path, "litellm_params")
    if "*" in group:
        said.missing((*where, "model"), reason, "name each model that clients use: --model NAME, or by hand")
        return None
    if not own.through:
        said.missing((*where, "model"), reason, THROUGH)
        return None
    said.changed((*where, "model"), f"asked through LiteLLM: {reason}")
    for key in params:
        if key not in ("model", "weight", "order", "rpm", "tpm", "timeout", "stream_timeout"):
            said.changed((*where, key), "stays in LiteLLM's own file")
    return Target(own.old_gateway(), group)


def _settings(
    name: str, vendor: Vendor, params: dict[str, Any], said: Ledger, where: KeyPath, secrets: Secrets
) -> dict[str, Any] | None:
    """The provider's block; None when its address cannot be used."""
    preset = PRESETS.get(vendor.preset)
    given = str(params.get("api_base") or params.get("base_url") or "")
    key = "api_base" if "api_base" in params else "base_url"
    settings: dict[str, Any] = {"preset": preset.name} if preset else {"dialect": "openai"}
    if not given and vendor.base and (preset is None or not preset.base_url):
        settings["base_url"] = secrets.variable(vendor.base, "https://example.com")
    elif given and not (preset and _same(given, preset.base_url)):
        if vendor.native:
            said.missing((*where, key), "this address speaks the vendor's own API, as far as can be told", THROUGH)
            return None
        own_tgi = name == "huggingface"
        url = _base_url(name, given, "/v1" if own_tgi else vendor.suffix, secrets)
        if url is None:
            said.missing((*where, key), "is no base URL", "write https://host/path without a query")
            return None
        settings["base_url"] = url
        if own_tgi:
            settings["preset"] = "tgi"
        if name in ("openai", "text-completion-openai"):
            settings = {"dialect": "openai", "base_url": url}
    if "base_url" not in settings and (preset is None or not preset.base_url):
        said.missing((*where, "model"), "its address is not here", "add api_base")
        return None
    if given:
        said.kept((*where, key))
    _credentials(name, vendor, params, settings, said, where, secrets)
    if name.startswith("azure"):
        _azure(params, settings, said, where, secrets)
    drops = params.get("additional_drop_params")
    if isinstance(drops, list):
        usable = sorted({str(one) for one in drops if re.fullmatch(r"\w+", str(one))} - _NEEDED)
        if usable:
            settings["drops"] = usable
        if len(usable) == len(drops):
            said.kept((*where, "additional_drop_params"), "`drops`")
        else:
            said.changed((*where, "additional_drop_params"), "`drops`, for the fields of the first level only")
    settings["idle_timeout"] = WAIT
    wrong = fault(settings, secrets)
    if wrong:
        said.missing((*where, "model"), f"its `{wrong}` cannot be used", "mend it")
        return None
    return settings


def _same(given: str, known: str) -> bool:
    """Whether an address is the preset's own, also as the vendor's own API has it."""
    try:
        one, other = urlsplit(given), urlsplit(known)
        return bool(known) and (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)
    except ValueError:
        return False


def _base_url(name: str, given: str, suffix: str, secrets: Secrets) -> str | None:
    if given.startswith("os.environ/"):
        text = plain(given, secrets, "https://example.com")
        return f"{text}{suffix}"
    try:
        parts = urlsplit(given)
        known = parts.scheme in ("http", "https") and _HOST.fullmatch(parts.hostname or "") and parts.port != 0
    except ValueError:
        return None
    if not known or parts.username or parts.password or parts.fragment:
        return None
    path = parts.path.rstrip("/")
    if name.startswith("azure"):
        path = path.partition("/openai/deployments")[0].removesuffix("/openai")
    elif parts.query:
        return None
    for ending in ("/chat/completions", "/completions", "/embeddings"):
        path = path.removesuffix(ending)
    path = path if path.endswith(suffix) else f"{path}{suffix}"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _credentials(
    name: str, vendor: Vendor, params: dict[str, Any], settings: dict[str, Any], said: Ledger, where: KeyPath,
    secrets: Secrets,
) -> None:  # fmt: skip
    given = params.get("api_key")
    if isinstance(given, str) and given:
        named = vendor.key and "dialect" not in settings
        usual = vendor.key if named else f"{variable_name(_provider_name(name, vendor, settings))}_API_KEY"
        settings["api_key"], written = secrets.reference(given, usual)
        if written:
            note = f"a key stands in the file: it is ${{{settings['api_key'][2:-1]}}} now"
            said.changed((*where, "api_key"), note, "set that variable, and take the key out of the old file")
        else:
            said.kept((*where, "api_key"))
        return
    if "api_key" in params:
        said.kept((*where, "api_key"), "none")
    if vendor.key:
        settings["api_key"] = secrets.variable(vendor.key)


def _azure(params: dict[str, Any], settings: dict[str, Any], said: Ledger, where: KeyPath, secrets: Secrets) -> None:
    version = params.get("api_version")
    if version:
        settings["api_version"] = plain(str(version), secrets, "2024-10-21")
        said.kept((*where, "api_version"))
    else:
        said.changed((*where, "model"), "without api_version Azure's v1 API is asked", "add `api_version` if it must")
    for login in _AZURE_LOGINS:
        if login in params:
            said.missing((*where, login), "Azure is asked with a key alone")


def _cost(params: dict[str, Any], info: dict[str, Any], said: Ledger, path: KeyPath) -> tuple[float, float]:
    """Per million tokens."""
    costs = []
    for name in ("input_cost_per_token", "output_cost_per_token"):
        value = 0.0
        for holder, where in ((info, "model_info"), (params, "litellm_params")):
            if name in holder:
                try:
                    value = min(max(float(holder[name]), 0.0) * 1e6, 1e9)
                except (TypeError, ValueError):
                    said.missing((*path, where, name), "is no number")
                    continue
                said.kept((*path, where, name), "`cost`, per million tokens")
        costs.append(float(f"{value:.9g}"))
    return costs[0], costs[1]


def _provider_name(name: str, vendor: Vendor, settings: dict[str, Any]) -> str:
    """A name that says what it is: the preset, or the host of a server of somebody's own."""
    host = urlsplit(str(settings.get("base_url", ""))).hostname or ""
    if "dialect" in settings:
        return host or name
    if vendor.preset == "azure-openai" and host:
        return f"azure-{host.partition('.')[0]}"
    return "azure" if vendor.preset == "azure-openai" else vendor.preset
