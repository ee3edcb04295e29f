"""When an answer is whole and as the model meant it. Only such answers are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from extproc.cache.unfit import Reason, Unfit
from extproc.cache.usage import Usage

# `length` is whole: the maximum is part of the question, and the same question ends there again. `content_filter` is
# not, and neither is what a provider calls its own failures (OpenRouter: `error`, vLLM: `abort`).
_FINISHED = frozenset({"stop", "length", "tool_calls", "function_call"})
_FAILED = frozenset({"response.failed", "response.incomplete", "response.cancelled"})
_DONE = b"[DONE]"
_ABSENT = msgspec.Raw(b"null")


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Choices(msgspec.Struct):
    """A chat or a completion, or a chunk of one."""

    choices: list[_Choice] = []
    error: msgspec.Raw = _ABSENT
    usage: msgspec.Raw = _ABSENT


class _Response(msgspec.Struct):
    status: str = ""
    error: msgspec.Raw = _ABSENT
    incomplete_details: msgspec.Raw = _ABSENT
    usage: msgspec.Raw = _ABSENT


class _Event(msgspec.Struct):
    """Of a response's stream."""

    type: str = ""
    response: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


class _Embeddings(msgspec.Struct):
    data: list[msgspec.Raw] = []
    error: msgspec.Raw = _ABSENT
    usage: msgspec.Raw = _ABSENT


_CHOICES = msgspec.json.Decoder(_Choices)
_RESPONSE = msgspec.json.Decoder(_Response)
_EVENT = msgspec.json.Decoder(_Event)
_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)


def _is_null(raw: msgspec.Raw) -> bool:
    return bytes(raw) == b"null"


def _usage(raw: msgspec.Raw) -> Usage:
    return Usage() if _is_null(raw) else Usage.read(raw)


def _refuse_error(raw: msgspec.Raw) -> None:
    if not _is_null(raw):
        raise Unfit(Reason.ERROR)


def _chat(body: bytes) -> Usage:
    answer = _CHOICES.decode(body)
    _refuse_error(answer.error)
    if not answer.choices or any(choice.finish_reason not in _FINISHED for choice in answer.choices):
        raise Unfit(Reason.FINISH)
    return _usage(answer.usage)


def _response(body: bytes | msgspec.Raw) -> Usage:
    answer = _RESPONSE.decode(body)
    _refuse_error(answer.error)
    if answer.status != "completed" or not _is_null(answer.incomplete_details):
        raise Unfit(Reason.FINISH)
    return _usage(answer.usage)


def _embeddings(body: bytes) -> Usage:
    answer = _EMBEDDINGS.decode(body)
    _refuse_error(answer.error)
    if not answer.data:
        raise Unfit(Reason.FINISH)
    return _usage(answer.usage)


# Who reads a whole JSON answer, by operation. Raises `Unfit`, or what msgspec raises.
WHOLE: Mapping[str, Callable[[bytes], Usage]] = MappingProxyType(
    {"chat.completions": _chat, "completions": _chat, "responses": _response, "embeddings": _embeddings}
)


class Stream(Protocol):
    """Reads the events of one answer. `event` raises `Unfit`, or what msgspec raises."""

    usage: Usage
    complete: bool

    def event(self, name: bytes, data: bytes) -> None:
        """The next event."""


class ChunkStream:
    """A chat or a completion: whole with `[DONE]` behind a finish reason for every choice that was begun."""

    __slots__ = ("_finished", "complete", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.complete = False
        self._finished: dict[int, bool] = {}  # by the index of a choice

    def event(self, name: bytes, data: bytes) -> None:
        """The next event."""
        if self.complete:
            raise Unfit(Reason.MALFORMED)
        if name == b"error":
            raise Unfit(Reason.ERROR)
        if data == _DONE:
            if not self._finished or not all(self._finished.values()):
                raise Unfit(Reason.FINISH)
            self.complete = True
            return
        chunk = _CHOICES.decode(data)
        _refuse_error(chunk.error)
        for choice in chunk.choices:
            if choice.finish_reason:
                if choice.finish_reason not in _FINISHED:
                    raise Unfit(Reason.FINISH)
                self._finished[choice.index] = True
            else:
                self._finished.setdefault(choice.index, False)
        if not _is_null(chunk.usage):
            self.usage = self.usage.joined(Usage.read(chunk.usage))


class ResponseStream:
    """A response: whole with the event `response.completed`. Some servers send `[DONE]` behind it."""

    __slots__ = ("_done", "complete", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.complete = False
        self._done = False

    def event(self, name: bytes, data: bytes) -> None:
        """The next event."""
        if name == b"error":
            raise Unfit(Reason.ERROR)
        if self.complete:
            if data != _DONE or self._done:
                raise Unfit(Reason.MALFORMED)
            self._done = True
            return
        event = _EVENT.decode(data)
        _refuse_error(event.error)
        if event.type == "error":
            raise Unfit(Reason.ERROR)
        if event.type in _FAILED:
            raise Unfit(Reason.FINISH)
        if event.type == "response.completed":
            self.usage = _response(event.response)
            self.complete = True


STREAMS: Mapping[str, Callable[[], Stream]] = MappingProxyType(
    {"chat.completions": ChunkStream, "completions": ChunkStream, "responses": ResponseStream}
)
