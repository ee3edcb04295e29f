"""The tokens that an answer says it took, in the names of OpenAI, of its Responses, and of Anthropic."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

_OBJECT = msgspec.json.Decoder(dict[str, object])
_MOST = 1_000_000_000


class Usage(NamedTuple):
    """Tokens; None where the provider did not say."""

    total: int | None = None
    prompt: int | None = None
    completion: int | None = None

    @classmethod
    def read(cls, raw: msgspec.Raw) -> Usage:
        """A `usage` object. What is no number of tokens is passed over."""
        try:
            found = _OBJECT.decode(raw)
        except msgspec.MsgspecError:
            return cls()
        prompt = _first(found, "prompt_tokens", "input_tokens")
        total = _first(found, "total_tokens")
        if total is None and prompt is not None:
            # Anthropic: no total, and what came from its cache is counted apart.
            cached = (_first(found, "cache_read_input_tokens"), _first(found, "cache_creation_input_tokens"))
            prompt += sum(tokens or 0 for tokens in cached)
        return cls(total, prompt, _first(found, "completion_tokens", "output_tokens"))

    def joined(self, other: Usage) -> Usage:
        """Both together: a stream's numbers grow, so of each the larger one counts."""
        return Usage(
            _larger(self.total, other.total),
            _larger(self.prompt, other.prompt),
            _larger(self.completion, other.completion),
        )

    def summed(self) -> Usage:
        """With a total, where there is anything to sum up."""
        if self.total is not None or (self.prompt is None and self.completion is None):
            return self
        return Usage((self.prompt or 0) + (self.completion or 0), self.prompt, self.completion)


def _larger(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def _first(found: dict[str, object], *names: str) -> int | None:
    for name in names:
        value = found.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
            return value
    return None
