"""Vectors of any endpoint that speaks OpenAI's embeddings: a running gateway, or a provider."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

_AT_ONCE = 64  # texts in one request
_PATIENCE = 60.0  # seconds


class EndpointError(Exception):
    """There are no vectors, and why."""


class _Item(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Answer(msgspec.Struct):
    data: list[_Item]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url` is the base URL, up to and with its version; `dimensions` are asked for where there are any."""

    url: str
    model: str
    key: str = ""
    dimensions: int | None = None

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """One for every text, in their order. Raises `EndpointError`."""
        found: list[list[float]] = []
        for start in range(0, len(texts), _AT_ONCE):
            found += self._some(texts[start : start + _AT_ONCE])
        return found

    def _some(self, texts: Sequence[str]) -> list[list[float]]:
        body: dict[str, object] = {"model": self.model, "input": list(texts)}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self.key}"} if self.key else {})
        url = f"{self.url.rstrip('/')}/embeddings"
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"'{self.url}' is not a base URL: write for example http://127.0.0.1:10000/v1")
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - looked at above
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as response:  # noqa: S310
                answer = msgspec.json.decode(response.read(), type=_Answer)
        except urllib.error.HTTPError as error:
            raise EndpointError(f"{url}: {error.code}: {error.read(300).decode(errors='replace')}") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise EndpointError(f"{url}: {error}") from None
        if sorted(item.index for item in answer.data) != list(range(len(texts))):
            raise EndpointError(f"{url}: {len(answer.data)} vectors for {len(texts)} texts")
        return [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
