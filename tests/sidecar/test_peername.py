"""Which names of a certificate are the one that is wanted."""

from __future__ import annotations

import pytest

from sidecar import peername


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("envoy.mesh", ["envoy.mesh"]),
        ("Envoy.MESH.", ["envoy.mesh"]),
        ("envoy.mesh", ["other", "*.mesh"]),
        ("10.0.0.1", ["10.0.0.1"]),
        ("::1", ["0:0:0:0:0:0:0:1"]),
        ("spiffe://mesh/ns/a", ["envoy", "spiffe://mesh/ns/a"]),
    ],
)
def test_it_is(wanted: str, names: list[str]) -> None:
    assert peername.fits(wanted, names)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("envoy.mesh", []),
        ("envoy.mesh", ["envoy.mesh.evil", "envoy", "mesh", "*.envoy.mesh", "*"]),
        ("a.envoy.mesh", ["*.mesh"]),
        (".mesh", ["*.mesh"]),
        ("mesh", ["*.mesh"]),
        ("10.0.0.1", ["10.0.0.10", "*.0.0.1"]),
        ("spiffe://mesh/ns/a", ["spiffe://mesh/ns/A", "spiffe://mesh/ns/a/b"]),
        ("envoy", ["spiffe://envoy"]),
    ],
)
def test_it_is_not(wanted: str, names: list[str]) -> None:
    assert not peername.fits(wanted, names)


def test_no_certificate_has_no_name() -> None:
    assert peername.of_certificate(None) == []
