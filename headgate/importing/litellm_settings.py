"""Whatever else LiteLLM's sections say: stores, cache, the server, logs."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit

from headgate.importing.litellm_work import Work, flag, number
from headgate.importing.secrets import plain, resolved
from ratelimit.storage import check_url
from sidecar.configfile import KeyPath

_ENCODE = "percent-encode what is special in the password (docs/configuration.md, store)"
_NO_CALLBACKS = ("there are no callbacks", "metrics at /metrics, one JSON line per request in the log")
_NO_DATABASE = ("there is no database: keys and models stand in headgate.yaml", "--keys takes the virtual keys along")
_NO_ALERTS = ("there are no alerts", "metrics at /metrics: alert on those")
_NO_LOGIN = ("clients are known by their key alone", "check other tokens in Envoy, before Headgate")
_NO_DEFAULT = ("a request names its model", "let the client send it")

_LITELLM: dict[str, tuple[str, str]] = {
    "callbacks": _NO_CALLBACKS, "success_callback": _NO_CALLBACKS, "failure_callback": _NO_CALLBACKS,
    "service_callbacks": _NO_CALLBACKS, "audit_log_callbacks": _NO_CALLBACKS, "langfuse_default_tags": _NO_CALLBACKS,
    "modify_params": ("requests are not repaired", ""),
    "enable_json_schema_validation": ("answers are not checked", ""),
    "key_generation_settings": ("keys are made by `headgate new-key`", ""),
    "default_team_settings": _NO_CALLBACKS,
    "upperbound_key_generate_params": ("keys are made by `headgate new-key`", ""),
    "default_key_generate_params": ("keys are made by `headgate new-key`", ""),
    "default_internal_user_params": ("there are no users", ""),
    "default_team_params": ("teams share answers, nothing else", "docs/cache.md"),
    "max_budget": ("there are no budgets in money yet", "limit tokens by key"),
    "budget_duration": ("there are no budgets in money yet", "limit tokens by key"),
    "max_internal_user_budget": ("there are no budgets in money yet", "limit tokens by key"),
    "max_end_user_budget": ("there are no budgets in money yet", "limit tokens by key"),
    "cost_margin_config": ("there are no budgets in money yet", ""),
    "force_ipv4": ("not a setting", "Envoy looks names up by itself"),
    "ssl_verify": ("certificates are always checked", "`tls.ca` of a provider names an authority"),
    "mcp_aliases": ("MCP is not served", ""),
    "cache_params": ("belongs to `cache`, which is not on", ""),
    "enable_preview_features": ("not a setting", ""),
    "public_model_groups": ("a key says what it may see", "`models` of a key"),
}  # fmt: skip
_HARMLESS = {
    "drop_params": "each preset knows which fields its provider refuses; `drops` of a provider adds more",
    "turn_off_message_logging": "no message is ever logged",
    "redact_user_api_key_info": "no key is ever logged",
    "set_verbose": "`log.level`",
    "suppress_debug_info": "`log.level`",
    "telemetry": "there is none",
    "disable_end_user_cost_tracking": "there is none",
    "disable_hf_tokenizer_download": "there are no tokenizers: usage is the provider's own",
    "disable_token_counter": "there are no tokenizers: usage is the provider's own",
}
_GENERAL: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("database_url", "store_model_in_db", "database_connection_pool_limit", "database_connection_timeout",
         "allow_requests_on_db_unavailable", "supported_db_objects", "disable_prisma_schema_update",
         "store_prompts_in_spend_logs", "use_redis_transaction_buffer", "proxy_batch_write_at",
         "maximum_spend_logs_retention_period", "maximum_spend_logs_retention_interval", "user_api_key_cache_ttl",
         "proxy_budget_rescheduler_min_time", "proxy_budget_rescheduler_max_time"), _NO_DATABASE,
    ),
    **dict.fromkeys(
        ("alerting", "alerting_threshold", "alerting_args", "alert_types", "alert_to_webhook_url",
         "spend_report_frequency"), _NO_ALERTS,
    ),
    **dict.fromkeys(
        ("custom_auth", "enable_jwt_auth", "litellm_jwtauth", "enable_oauth2_auth", "enable_oauth2_proxy_auth",
         "oauth2_config_mappings", "custom_sso", "allow_user_auth", "service_account_settings"), _NO_LOGIN,
    ),
    **dict.fromkeys(("completion_model", "embedding_model", "image_generation_model", "moderation_model"), _NO_DEFAULT),
    "litellm_key_header_name": ("the key is taken from `authorization: Bearer` alone", "have the client send that"),
    "pass_through_endpoints": ("only providers are reached", "`passthrough` of a key, /p/PROVIDER/…"),
    "allowed_ips": ("addresses are not looked at", "a network policy, or Envoy's RBAC filter before Headgate"),
    "enforce_user_param": ("bodies are not checked that far", ""),
    "enforced_params": ("bodies are not checked that far", ""),
    "max_parallel_requests": ("requests at once are not limited", "`max_requests` of a provider"),
    "global_max_parallel_requests": ("requests at once are not limited", "`max_requests` of a provider"),
    "max_response_size_mb": ("answers are not cut", ""),
    "key_management_system": ("variables and files hold the secrets", "`${NAME}`, `${file:path}`"),
    "key_management_settings": ("variables and files hold the secrets", "`${NAME}`, `${file:path}`"),
    "use_azure_key_vault": ("variables and files hold the secrets", "`${NAME}`, `${file:path}`"),
    "use_google_kms": ("variables and files hold the secrets", "`${NAME}`, `${file:path}`"),
    "allowed_routes": ("a key's `models` and `passthrough` say what it reaches", ""),
    "public_routes": ("every route needs a key", ""),
    "admin_only_routes": ("the admin port is apart, at `admin`", ""),
    "ui_access_mode": ("there is no user interface of LiteLLM's", ""),
    "litellm_license": ("no licence is needed", ""),
    "infer_model_from_keys": ("models stand in headgate.yaml", ""),
    "use_client_credentials_pass_through_routes": ("every route needs a key", "`own_provider_keys` of a key"),
}  # fmt: skip
_GENERAL_CHANGED: dict[str, tuple[str, str]] = {
    "allow_client_side_credentials": ("`own_provider_keys: true` at a key, header x-provider-key", ""),
    "forward_client_headers_to_llm_api": ("the client's headers are always passed on, but for keys and our own", ""),
    "forward_openai_org_id": ("the client's headers are always passed on, but for keys and our own", ""),
    "background_health_checks": ("`health_check` of a provider asks a cheap path, no model", "docs/configuration.md"),
    "health_check_interval": ("`health_check.interval` of a provider", "docs/configuration.md"),
    "health_check_details": ("/status of the admin port shows the targets", ""),
    "use_x_forwarded_for": ("addresses are not looked at", ""),
    "disable_spend_logs": ("there are none", ""),
    "disable_spend_updates": ("there are none", ""),
    "disable_master_key_return": ("no key can be asked for", ""),
    "disable_adding_master_key_hash_to_db": ("there is no database", ""),
}


def add(work: Work) -> None:
    """Sections other than the models'."""
    _environment(work)
    _stores(work)
    _cache(work)
    for key, value in work.section("litellm_settings").items():
        path: KeyPath = ("litellm_settings", key)
        if work.said.mentioned(path):
            continue
        if key == "json_logs":
            if flag(value):
                work.document.values["log"] = {"format": "json"}
            work.said.kept(path, "`log.format`")
        elif key in _HARMLESS:
            work.said.changed(path, _HARMLESS[key])
        elif key in _LITELLM:
            prometheus = "callback" in key and "prometheus" in (value if isinstance(value, list) else [value])
            if prometheus and value in ("prometheus", ["prometheus"]):
                work.said.changed(path, "metrics of our own names at /metrics of the admin port", "docs/operating.md")
            else:
                work.said.missing(path, *_LITELLM[key])
    _general(work)


def _environment(work: Work) -> None:
    for key in work.section("environment_variables"):
        note, mend = (
            "no variable is set from a file, and the value is not written anywhere",
            "set it where you start it",
        )
        work.said.changed(("environment_variables", key), note, mend)


def _general(work: Work) -> None:
    for key, value in work.section("general_settings").items():
        path: KeyPath = ("general_settings", key)
        if key == "max_request_size_mb":
            size = number(value)
            if size and 0 < size <= 1024:
                work.document.values["max_body"] = f"{max(int(size), 1)}MiB"
                work.said.kept(path, "`max_body`")
            else:
                work.said.missing(path, "is no size of 1 to 1024 MB")
        elif key in _GENERAL_CHANGED:
            work.said.changed(path, *_GENERAL_CHANGED[key])
        elif key in _GENERAL:
            work.said.missing(path, *_GENERAL[key])


def _stores(work: Work) -> None:
    path: KeyPath = ("router_settings",)
    url = _usable(work, _redis(work, work.section("router_settings"), path, "redis_"), path)
    if url:
        work.document.values["store"] = url


def _usable(work: Work, url: str, path: KeyPath) -> str:
    """The URL; "" when it could not be used, which is reported."""
    if not url:
        return ""
    try:
        check_url(resolved(url, work.secrets))
    except ValueError:
        work.said.missing(path, "names no Redis that can be used", "write `store:` by hand (docs/configuration.md)")
        return ""
    return url


def _redis(work: Work, values: dict[str, Any], path: KeyPath, prefix: str) -> str:
    """The Redis that these keys name as our URL; "" when they name none."""
    said, secrets = work.said, work.secrets
    whole = values.get(f"{prefix}url") or values.get("url")
    if isinstance(whole, str) and whole:
        where = (*path, f"{prefix}url" if f"{prefix}url" in values else "url")
        literal = not whole.startswith("os.environ/")
        if literal and not urlsplit(whole).password and re.match(r"(rediss?|unix)://", whole):
            said.kept(where, "`store`")
            return plain(whole, secrets, "redis://localhost")
        url, _ = secrets.reference(whole, "REDIS_URL", "redis://localhost")
        said.changed(where, f"a Redis URL from the variable: {url}", "set it to that URL")
        return url
    nodes, sentinels = values.get("redis_startup_nodes"), values.get("sentinel_nodes")
    password, secure = values.get(f"{prefix}password"), values.get("ssl") is not None and flag(values.get("ssl"))
    login = ""
    if isinstance(password, str) and password:
        reference, written = secrets.reference(password, "REDIS_PASSWORD")
        user = str(values.get(f"{prefix}username") or "")
        login = (
            f"{quote(user, safe='') if not user.startswith('os.environ/') else plain(user, secrets, 'x')}:{reference}@"
        )
        note = (
            "the variable stands in the URL" if not written else f"a password stands in the file: it is {reference} now"
        )
        said.changed((*path, f"{prefix}password"), note, _ENCODE)
        if f"{prefix}username" in values:
            said.kept((*path, f"{prefix}username"))
    scheme = "rediss" if secure else "redis"
    if secure:
        said.kept((*path, "ssl"), "`rediss://`")
    if isinstance(nodes, list) and nodes:
        said.kept((*path, "redis_startup_nodes"), "`redis+cluster://`")
        hosts = ",".join(f"{one.get('host')}:{one.get('port', 6379)}" for one in nodes if isinstance(one, dict))
        return f"{scheme}+cluster://{login}{hosts}"
    if isinstance(sentinels, list) and sentinels:
        said.kept((*path, "sentinel_nodes"), "`redis+sentinel://`")
        said.kept((*path, "service_name"))
        hosts = ",".join(f"{one[0]}:{one[1]}" for one in sentinels if isinstance(one, list) and len(one) == 2)
        return f"{scheme}+sentinel://{login}{hosts}/{quote(str(values.get('service_name', 'mymaster')), safe='')}"
    host = values.get(f"{prefix}host")
    if not host:
        return ""
    said.kept((*path, f"{prefix}host"), "`store`" if path == ("router_settings",) else "`cache.store`")
    port, database = values.get(f"{prefix}port"), values.get(f"{prefix}db")
    if "@" in str(host):
        return "redis://"  # who logs in has no place there: reported as what cannot be used
    url = f"{scheme}://{login}{plain(str(host), secrets, 'localhost')}"
    if port is not None:
        said.kept((*path, f"{prefix}port"))
        url += f":{plain(str(port), secrets, '6379')}"
    if database is not None:
        said.kept((*path, f"{prefix}db"))
        url += f"/{plain(str(database), secrets, '0')}"
    return url


def _cache(work: Work) -> None:
    values, path = work.section("litellm_settings"), ("litellm_settings",)
    if "cache" not in values:
        return
    params = values.get("cache_params")
    params = params if isinstance(params, dict) else {}
    kind = str(params.get("type", "local"))
    under: KeyPath = (*path, "cache_params")
    reason = ""
    if not flag(values["cache"]):
        work.said.kept((*path, "cache"), "off")
        return
    if params.get("mode") == "default_off":
        reason = "answers are kept for a model or not at all: a request cannot ask for it"
    elif "semantic" in kind:
        reason = "only equal requests are answered from the cache, not similar ones"
    elif kind not in ("local", "redis", "redis-cluster"):
        reason = "answers are kept in memory or in Redis"
    if reason:
        work.said.missing((*path, "cache"), reason, "`cache: {}` at the models that may keep answers (docs/cache.md)")
        for key in params:
            work.said.missing((*under, key), "there is no cache in the new file", "docs/cache.md")
        return
    ttl = number(params.get("ttl"))
    rules: dict[str, Any] = {"max_temperature": None}
    if ttl and ttl >= 1:
        rules = {"ttl": min(int(ttl), 31_536_000), **rules}
    for name, model in work.document.values["models"].items():
        whole = model if "targets" in model else {"targets": [model]}
        work.document.values["models"][name] = {**whole, "cache": rules}
    first = next(iter(work.document.values["models"]), "")
    note = "LiteLLM lets all keys share answers; here each key has its own, `scope: shared` is LiteLLM's way."
    work.document.note(("models", first), note)
    work.said.changed((*path, "cache"), "`cache` of every model; an answer is for the key that asked (`scope: key`)")
    _cache_store(work, params, under, kind)


def _cache_store(work: Work, params: dict[str, Any], under: KeyPath, kind: str) -> None:
    said = work.said
    if "type" in params:
        said.kept((*under, "type"))
    if "ttl" in params:
        said.kept((*under, "ttl"), "`cache.ttl` of every model")
    if "mode" in params:
        said.kept((*under, "mode"))
    if kind.startswith("redis"):
        url = _redis(work, params, under, "") or "redis://:${REDIS_PASSWORD:-}@${REDIS_HOST}:${REDIS_PORT:-6379}"
        if "${REDIS_HOST}" in url:
            work.secrets.variable("REDIS_HOST", "localhost")
        url = _usable(work, url, under)
        if url and url != work.document.values.get("store"):
            work.document.values["cache"] = {"store": url}
    if "supported_call_types" in params:
        said.changed((*under, "supported_call_types"), "chat, completions, responses and embeddings, nothing else")
    if "namespace" in params:
        said.changed((*under, "namespace"), "keys in Redis begin with headgate:cache:")
    for key in ("max_connections", "gcp_service_account", "gcp_ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname"):
        if key in params:
            said.missing((*under, key), "not taken over", "parameters of the store's URL (docs/configuration.md)")
