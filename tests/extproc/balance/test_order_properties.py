"""Whatever has happened to the targets: what every order keeps to."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extproc.balance.attempt import Attempt, Reason
from extproc.balance.choice import Choice, Hints
from extproc.balance.notice import Kind, Notice
from extproc.balance.order import Pool
from extproc.balance.standing import Rank, State, Use
from extproc.balance.strategies import Strategy
from tests.extproc.balance.factories import Clock, choice, healthy

CLUSTERS = st.sampled_from("abcdefg")
ENDPOINTS = st.sampled_from(("x:1", "y:1", "z:1"))
SECONDS = st.floats(0, 400)
HINTS = st.builds(
    Hints, st.floats(0, 1, exclude_max=True), st.binary(max_size=3), st.integers(0, 1_000), st.integers(0, 1_000)
)


class Orders(RuleBasedStateMachine):
    """Targets that fail, cool, come back and go; after every step every strategy is asked."""

    @initialize(
        specs=st.lists(
            st.tuples(st.integers(0, 2), st.integers(0, 4), ENDPOINTS, st.floats(0, 9)), min_size=1, max_size=7
        ),
        attempts=st.integers(1, 9),
    )
    def begin(self, specs: list[tuple[int, int, str, float]], attempts: int) -> None:
        self.choices: list[Choice] = [
            choice(name, priority=priority, weight=weight, endpoint=endpoint, input_cost=cost)
            for name, (priority, weight, endpoint, cost) in zip("abcdefg", specs, strict=False)
        ]
        if not any(one.weight for one in self.choices):
            self.choices[0] = choice("a", priority=1)
        self.clock = Clock()
        self.health = healthy(self.clock, *self.choices)
        self.attempts = attempts
        self.pools = [Pool(self.choices, strategy, attempts) for strategy in Strategy]
        self.hints = Hints(0.5)
        self.seen: tuple[int, tuple[Rank, ...]] = (0, ())
        self.lefts: dict[str, tuple[State, float]] = {}

    @rule(
        cluster=CLUSTERS,
        reason=st.sampled_from(Reason),
        status=st.sampled_from((0, 429, 503)),
        wait=st.none() | SECONDS,
        seconds=st.floats(0, 90),
        times=st.integers(1, 12),
    )
    def fail(self, cluster: str, reason: Reason, status: int, wait: float | None, seconds: float, times: int) -> None:
        for _ in range(times):
            self.health.failed(Attempt(cluster, reason, status, wait, seconds))

    @rule(cluster=CLUSTERS, first=st.none() | st.floats(0, 9), seconds=st.floats(0, 90), times=st.integers(1, 25))
    def succeed(self, cluster: str, first: float | None, seconds: float, times: int) -> None:
        for _ in range(times):
            self.health.succeeded(cluster, first, seconds)

    @rule(kind=st.sampled_from(Kind), cluster=CLUSTERS, endpoint=ENDPOINTS, seconds=SECONDS)
    def hear(self, kind: Kind, cluster: str, endpoint: str, seconds: float) -> None:
        before = self.left()
        self.health.heard(Notice(kind, endpoint if kind is Kind.UNREACHABLE else cluster, seconds, "told"))
        after = self.left()
        assert all(after[name] >= seconds for name, seconds in before.items())

    def left(self) -> dict[str, float]:
        return {one.cluster: self.health.standing(one.cluster).seconds_left or 0.0 for one in self.choices}

    @rule(endpoint=ENDPOINTS, up=st.booleans())
    def check(self, endpoint: str, up: bool) -> None:
        self.health.checked(endpoint, up)

    @rule(cluster=CLUSTERS, begins=st.booleans(), seconds=st.floats(0, 700))
    def run_one(self, cluster: str, begins: bool, seconds: float) -> None:
        if begins:
            self.health.began(cluster)
        else:
            self.health.ended(cluster, seconds)

    @rule(seconds=st.floats(0, 130))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(hints=HINTS)
    def ask_otherwise(self, hints: Hints) -> None:
        self.hints = hints

    @invariant()
    def the_version_tells_of_every_change(self) -> None:
        version = self.health.version
        ranks = tuple(self.health.rank(one) for one in self.choices)
        if version == self.seen[0]:
            assert ranks == self.seen[1]
        self.seen = version, ranks
        for one, rank in zip(self.choices, ranks, strict=True):
            standing = self.health.standing(one.cluster)
            assert (rank.use is Use.AVAILABLE) == (standing.state is State.AVAILABLE)
            assert (rank.use is Use.TRIAL) == (standing.state is State.TRIAL)
            assert standing.seconds_left is None or 0 < standing.seconds_left <= 300
            assert bool(standing.why) == (rank.use is not Use.AVAILABLE)

    @invariant()
    def every_order_is_sound(self) -> None:
        _ = self.health.version
        ranks = {index: self.health.rank(one) for index, one in enumerate(self.choices) if one.weight}
        for pool in self.pools:
            order = pool.order(self.health, self.hints)
            assert len(order) == self.attempts
            assert set(order) <= set(ranks)
            distinct = order[: len(ranks)]
            assert len(set(distinct)) == len(distinct)
            assert all(order[place] == order[place % len(ranks)] for place in range(len(order)))
            if self.attempts >= len(ranks):
                assert set(distinct) == set(ranks)
            self.by_rank(distinct, ranks)

    def by_rank(self, order: tuple[int, ...], ranks: dict[int, Rank]) -> None:
        rest = order[1:] if ranks[order[0]].use is Use.TRIAL else order  # it may have been granted a try
        uses = [ranks[index].use is Use.OUT for index in rest]
        assert uses == sorted(uses)  # nothing that is out stands before what is not
        available = [self.choices[index].priority for index in rest if ranks[index].use is Use.AVAILABLE]
        assert available == sorted(available)
        known = [index for index, rank in ranks.items() if rank.use is Use.AVAILABLE]
        missing = {self.choices[index].priority for index in set(known) - set(order)}
        if missing and known:
            assert all(ranks[index].use is not Use.OUT for index in order)
            assert not available or max(available) <= min(missing)
        backs = [ranks[index].back for index in rest if ranks[index].use is Use.OUT]
        assert backs == sorted(backs)
        for place, index in enumerate(rest):
            if ranks[index].use is Use.TRIAL:
                behind = [other for other in rest[place + 1 :] if ranks[other].use is Use.AVAILABLE]
                assert all(self.choices[other].priority > self.choices[index].priority for other in behind)


Orders.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestOrders = Orders.TestCase
