"""Where a dialect has its operations, and how it wants the key. Bodies have the same shape in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol
from urllib.parse import quote, unquote_plus

from extproc.providers.azure import AzureOpenAI


class Dialect(Protocol):
    """The differences that Envoy executes: a path and a header."""

    @property
    def credential_header(self) -> str:
        """The header that carries the provider's key, in lower case."""

    @property
    def owned_parameters(self) -> frozenset[str]:
        """Query parameters that are never the client's to say, in lower case."""

    def path(self, base_path: str, operation_path: str, model: str, api_version: str = "") -> str:
        """The path of an operation at the provider, with the query that it needs.

        `base_path` is the path of the base URL, `operation_path` begins with a slash (`/chat/completions`),
        `model` is the target's name for the model, unencoded.
        """

    def credential(self, key: str) -> str:
        """The value of `credential_header`."""


class OpenAI:
    """The dialect `openai`: a base URL ends where the operations begin (`https://api.openai.com/v1`).

    https://platform.openai.com/docs/api-reference/authentication
    """

    __slots__ = ()

    credential_header = "authorization"
    owned_parameters: frozenset[str] = frozenset()

    def path(self, base_path: str, operation_path: str, model: str, api_version: str = "") -> str:
        """The operation below the base path. A WebSocket has no body, so its model is in the query."""
        path = base_path.rstrip("/") + operation_path
        return f"{path}?model={quote(model, safe='')}" if operation_path == "/realtime" and model else path

    def credential(self, key: str) -> str:
        """The key as a bearer token."""
        return f"Bearer {key}"


DIALECTS: Mapping[str, Dialect] = MappingProxyType({"openai": OpenAI(), "azure-openai": AzureOpenAI()})

# A request leaves without any of these but the one that the gateway sets.
CREDENTIAL_HEADERS = tuple(sorted({dialect.credential_header for dialect in DIALECTS.values()}))


def with_query(path: str, query: str, owned: frozenset[str] = frozenset()) -> str:
    """`path` (which may hold a query) with the client's `query` behind it, as the client wrote it.

    Parameters that `path` sets already, and those in `owned`, are left out of the client's. Names are compared
    decoded and without case, as Azure reads them.
    """
    if not query:
        return path
    bare, mark, ours = path.partition("?")
    taken = owned | {_name(parameter) for parameter in ours.split("&")} if mark else owned
    theirs = [parameter for parameter in query.split("&") if _name(parameter) not in taken] if taken else [query]
    both = "&".join([ours, *theirs] if ours else theirs)
    return f"{bare}?{both}" if both else bare


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0]).lower()
