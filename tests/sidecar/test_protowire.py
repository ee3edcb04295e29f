"""What we write by hand is what protobuf reads."""

from __future__ import annotations

import math
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from sidecar.protowire import integer, number, piece, struct_number, struct_of, struct_text, struct_true

names = st.text(max_size=40)


@given(st.integers(0, 2**64 - 1))
def test_integers(value: int) -> None:
    assert UInt64Value.FromString(integer(1, value)).value == value


@given(st.binary(max_size=40_000))
def test_bytes(value: bytes) -> None:
    assert BytesValue.FromString(piece(1, value)).value == value


def test_field_numbers_come_from_the_descriptor() -> None:
    field = number(HeaderValue, "raw_value")
    assert HeaderValue.FromString(piece(field, b"x")) == HeaderValue(raw_value=b"x")


def test_fields_beyond_the_first_fifteen() -> None:
    assert piece(16, b"x") == b"\x82\x01\x01x"


@given(st.dictionaries(names, st.text(max_size=200)), st.dictionaries(names, st.floats(allow_nan=False)), names)
def test_structs(texts: dict[str, str], numbers: dict[str, float], name: str) -> None:
    inner = b"".join(
        [
            *(struct_text(f"t{key}", value) for key, value in texts.items()),
            *(struct_number(f"n{key}", value) for key, value in numbers.items()),
            struct_true("yes"),
        ]
    )
    read: Any = Struct.FromString(struct_of(name, inner))[name]
    expected = {f"t{key}": value for key, value in texts.items()} | {f"n{key}": value for key, value in numbers.items()}
    assert dict(read) == {**expected, "yes": True}


def test_numbers_that_are_none_pass() -> None:
    read: Any = Struct.FromString(struct_number("x", math.inf))["x"]
    assert math.isinf(read)
