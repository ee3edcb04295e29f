"""One question to a rate-limit service over gRPC: for operators, and to see what a limit does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from ratelimit.rules import Entries
from ratelimit.server import SERVICE
from ratelimit.wire import RateLimitRequest, RateLimitResponse
from sidecar.errors import ConfigError, Problem, RpcError, StatusCode


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files. Empty paths: the system's authorities, no certificate of our own."""

    authority: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. With `hits` None the service counts one for each descriptor."""

    domain: str
    descriptors: tuple[Entries, ...]
    hits: int | None = None

    def message(self) -> Any:
        """As RLS has it."""
        message = RateLimitRequest(domain=self.domain)
        for entries in self.descriptors:
            descriptor = message.descriptors.add()
            for key, value in entries:
                descriptor.entries.add(key=key, value=value)
            if self.hits is not None:
                descriptor.hits_addend.value = self.hits
        return message


def parse_entries(text: str) -> Entries:
    """`key=value,key=value`; a value may be empty, hold further `=`, and commas written as `\\,`.

    Raises `ValueError` (`what | mend`).
    """
    pieces = [piece.replace("\\,", ",") for piece in re.split(r"(?<!\\),", text)]
    entries = [piece.partition("=") for piece in pieces]
    if any(not key or not separator for key, separator, _ in entries):
        raise ValueError(f"'{text}' is no list of entries | write key=value,key=value")
    return tuple((key, value) for key, _, value in entries)


def ask(address: str, question: Question, tls: ClientTls | None = None, timeout: float = 5.0) -> Any:
    """The service's answer, a `RateLimitResponse`.

    Raises `RpcError` when the call fails or takes longer than `timeout` seconds, `ConfigError` for TLS files that
    cannot be read.
    """
    with _channel(address, tls) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ShouldRateLimit",
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
        try:
            return call(question.message(), timeout=timeout)
        except grpc.RpcError as error:
            raise RpcError(StatusCode(error.code().value[0]), error.details() or "no reason given") from error


def _channel(address: str, tls: ClientTls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address)
    files = [_file(path) for path in (tls.authority, tls.key, tls.certificate)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*files))


def _file(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise ConfigError([Problem(path, "", f"cannot be read: {error.strerror}", "name a PEM file")]) from error


def names(entries: Sequence[tuple[str, str]]) -> str:
    """Entries as a person writes them."""
    return ", ".join(f"{key}={value}" for key, value in entries)
