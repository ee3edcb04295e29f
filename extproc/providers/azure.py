"""Azure OpenAI: two generations of paths, and the key in a header of its own.

The v1 API (no version in the query) names the deployment in the body, as OpenAI names its model. The dated API
names it in the path and wants `api-version`.
https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle
https://learn.microsoft.com/azure/ai-services/openai/reference
"""

from __future__ import annotations

from urllib.parse import quote

# What `api-version` may be on the v1 API; it is not needed there.
V1_VERSIONS = frozenset({"", "v1", "preview", "latest"})

# The operations of the dated API that name their deployment in the path. The others (`/responses`, `/files`) have
# it in the body.
_BY_DEPLOYMENT = frozenset(
    {
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/images/generations",
        "/images/edits",
        "/audio/speech",
        "/audio/transcriptions",
        "/audio/translations",
    }
)


class AzureOpenAI:
    """The dialect `azure-openai`: a base URL is the resource (`https://NAME.openai.azure.com`).

    A base path may also end in `/openai` or `/openai/v1`; which generation is used is up to `api_version` alone.
    """

    __slots__ = ()

    credential_header = "api-key"
    owned_parameters = frozenset({"api-version", "deployment"})

    def path(self, base_path: str, operation_path: str, model: str, api_version: str = "") -> str:
        """Where the operation is: below `/openai/v1`, or with a dated version below `/openai/deployments/MODEL`."""
        root = _root(base_path)
        version = f"api-version={quote(api_version, safe='')}" if api_version else ""
        if api_version in V1_VERSIONS:
            named = f"model={quote(model, safe='')}" if operation_path == "/realtime" and model else ""
            return _with(f"{root}/openai/v1{operation_path}", named, version)
        if operation_path in _BY_DEPLOYMENT:
            return _with(f"{root}/openai/deployments/{_segment(model)}{operation_path}", version)
        named = f"deployment={quote(model, safe='')}" if operation_path == "/realtime" and model else ""
        return _with(f"{root}/openai{operation_path}", named, version)

    def credential(self, key: str) -> str:
        """The value of `credential_header`."""
        return key


def _root(base_path: str) -> str:
    path = base_path.rstrip("/")
    return path.removesuffix("/v1").removesuffix("/openai") if path.endswith(("/openai", "/openai/v1")) else path


def _segment(name: str) -> str:
    """A name as one segment of a path.

    `.` and `..` cannot be one: even as `%2E` they mean a folder (https://url.spec.whatwg.org/#double-dot-path-segment).
    They are encoded twice, which names a deployment that cannot exist.
    """
    if name in (".", ".."):
        return name.replace(".", "%252E")
    return quote(name, safe="")


def _with(path: str, *parameters: str) -> str:
    query = "&".join(parameter for parameter in parameters if parameter)
    return f"{path}?{query}" if query else path
