"""What there is to choose from, and what a request says about how to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Choice:
    """One target of a model: one Envoy cluster.

    Connections fail for all targets of an `endpoint` (an address). `account` is the provider's key, `model` the
    provider's name for the model. A lower `priority` is tried first. Costs are for a million tokens.
    """

    cluster: str
    provider: str
    endpoint: str
    account: str
    model: str
    priority: int = 0
    weight: int = 1
    input_cost: float = 0.0
    output_cost: float = 0.0


class Hints(NamedTuple):
    """What one request brings: chance (0 <= draw < 1), what ties it to others like it, and its expected tokens.

    Requests with the same `affinity` are to go to the same target; empty when there is none.
    """

    draw: float
    affinity: bytes = b""
    prompt_tokens: int = 0
    completion_tokens: int = 0
