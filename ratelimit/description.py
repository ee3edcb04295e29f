"""What Envoy is told of a call besides the verdict, as dynamic metadata (`RESPONSE_DYNAMIC_METADATA`).

    {domain, descriptors: [{entries: ["key=value"], limit?, hitsAddend?}], hitsAddend?, metadata?}

`metadata` is merged from the rules whose descriptors passed; the first one that has a key keeps it.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format, struct_pb2

from ratelimit.decision import Decision, LimitRequest
from ratelimit.rules import Descriptor, RuleSet


def describe(rules: RuleSet, request: LimitRequest, decision: Decision) -> bytes:
    """The fields of a google.protobuf.Struct, encoded."""
    fields: dict[str, Any] = {
        "domain": request.domain,
        "descriptors": [_descriptor(one) for one in request.descriptors],
    }
    if request.hits_addend:
        fields["hitsAddend"] = request.hits_addend
    merged: dict[str, Any] = {}
    for descriptor, status in zip(request.descriptors, decision.statuses, strict=True):
        match = None if status.over else rules.match(request.domain, descriptor)
        if match is not None and match.metadata:
            merged = {**match.metadata, **merged}
    if merged:
        fields["metadata"] = merged
    struct = struct_pb2.Struct()
    json_format.ParseDict(fields, struct)
    return bytes(struct.SerializeToString())


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    fields: dict[str, Any] = {"entries": [f"{key}={value}" for key, value in descriptor.entries]}
    if descriptor.override is not None:
        limit = descriptor.override
        amount = f"requests_per_unit:{limit.amount} " if limit.amount else ""  # as a message's text, without what is 0
        fields["limit"] = f"{amount}unit:{limit.unit.name}"
    if descriptor.hits is not None:
        fields["hitsAddend"] = abs(descriptor.hits)
    return fields
