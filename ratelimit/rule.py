"""One limit: what it allows, and how. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ratelimit.windows import Rate


class Mode(Enum):
    """How a rule counts (see the module's text)."""

    CONSUME = "consume"
    RESERVE = "reserve"


class Algorithm(Enum):
    """How hits over time become a verdict; each has a module in `ratelimit.algorithms` that states its weakness."""

    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    SLIDING_LOG = "sliding_log"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - no secret
    GCRA = "gcra"


BUCKETS = (Algorithm.TOKEN_BUCKET, Algorithm.GCRA)  # what passes at once is their size, and not the limit


class OnError(Enum):
    """What a rule means while the store does not answer."""

    ERROR = "error"  # the call fails; Envoy's `failure_mode_deny` decides
    OPEN = "open"  # the rule lets everything through
    CLOSED = "closed"  # the rule lets nothing through
    LOCAL = "local"  # this process counts for itself, up to its share of the limit


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit.

    `name` is shown to clients of the service. `label` names the limit in metrics, headers and reservations: it
    must come from configuration, never from a request, and differ between RESERVE rules that meet in a request.
    An `unlimited` rule never counts and is never replaced; its rate means nothing.

    `shadow` counts and reports but never denies; `quota` rules deny only when every quota rule of the call is over.
    `replaces` names the rules that this one puts out of force for a call that both match. `strict` has a check of 0
    hits denied when nothing is left. `burst` is what a TOKEN_BUCKET or GCRA lets through at once, 0 the amount.
    `local_share` is the part of the limit that a process allows by itself (`OnError.LOCAL`), 0 to 1.
    `lease` hits are taken from the store at once and given out by this process without asking again; 0 asks each time.
    `detailed` shows the values of every entry in the metrics. What a `final` rule reserves is told nobody: it is never
    settled.
    """

    rate: Rate
    mode: Mode = Mode.CONSUME
    name: str = ""
    label: str = ""
    unlimited: bool = False
    shadow: bool = False
    quota: bool = False
    replaces: tuple[str, ...] = ()
    detailed: bool = False
    algorithm: Algorithm = Algorithm.FIXED_WINDOW
    burst: int = 0
    strict: bool = False
    on_error: OnError = OnError.ERROR
    local_share: float = 0.0
    lease: int = 0
    final: bool = False
    several: bool = False  # one of several limits of its descriptor: its counter carries its window's name
    # What others keep with a rule because they need it again: encoded answers, by verdict.
    memo: dict[tuple[bool, int], bytes] = field(default_factory=dict, repr=False, compare=False)

    def __hash__(self) -> int:
        """Of what nearly always differs: rules are looked up with every decision."""
        return hash((self.label, self.name))

    @property
    def plain(self) -> bool:
        """Whether it counts every hit in a fixed window, and nothing about it is special."""
        return not (self.unlimited or self.strict or self.lease) and self.algorithm is Algorithm.FIXED_WINDOW
