"""RLS' messages as Envoy 1.40 sends them.

The generated classes of xds-protos do not know `RateLimitDescriptor.is_negative_hits` yet (field 4, since Envoy 1.38).
The request is built here from their descriptors, with that field, in a pool of its own; on the wire nothing differs.
"""

from __future__ import annotations

from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["RateLimitRequest", "RateLimitResponse"]

RateLimitResponse = rls_pb2.RateLimitResponse
_FIELD = "is_negative_hits"
_NUMBER = 4


def _with_negative_hits() -> Any:
    """The request's class, whose descriptors have the field."""
    pool = descriptor_pool.DescriptorPool()
    done: set[str] = set()

    def add(file: Any) -> None:
        if file.name in done:
            return
        done.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        copy = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(copy)
        for message in copy.message_type:
            mine = file.package == "envoy.extensions.common.ratelimit.v3" and message.name == "RateLimitDescriptor"
            if mine and _FIELD not in {field.name for field in message.field}:
                kind = descriptor_pb2.FieldDescriptorProto
                message.field.add(name=_FIELD, number=_NUMBER, type=kind.TYPE_BOOL, label=kind.LABEL_OPTIONAL)
        pool.Add(copy)

    add(rls_pb2.DESCRIPTOR)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("envoy.service.ratelimit.v3.RateLimitRequest"))


RateLimitRequest = _with_negative_hits()
