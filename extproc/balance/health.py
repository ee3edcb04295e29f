"""What this process knows of every target: may it be used, how fast is it, how busy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from extproc.balance.attempt import Attempt, Reason
from extproc.balance.average import FadingAverage
from extproc.balance.choice import Choice
from extproc.balance.circuit import Circuit, Phase
from extproc.balance.in_flight import InFlight
from extproc.balance.notice import Kind, Notice
from extproc.balance.settings import HealthSettings
from extproc.balance.standing import AVAILABLE, TRIAL, Rank, Standing, State, TargetReport, Use
from extproc.balance.turns import Turns
from extproc.balance.window import Window

_OF_THE_ENDPOINT = frozenset((Reason.CONNECT, Reason.DNS, Reason.TLS))
# A client can bring about any other 4xx: that must not take a target away from everybody.
_OF_THE_CLUSTER = frozenset((Reason.RESET, Reason.TIMEOUT, Reason.OVERLOADED, Reason.SERVER_ERROR))
_SAME = 0.1  # seconds: a cool-down that ends so little later is the same
_DEFAULT = HealthSettings()


class _Endpoint:
    """What holds for every target of one address."""

    __slots__ = ("circuit", "down")

    def __init__(self, settings: HealthSettings) -> None:
        self.circuit = Circuit(settings)
        self.down: str | None = None  # what the active check says against it


class _Target:
    """One cluster."""

    __slots__ = ("back", "circuit", "counts", "endpoint", "first_byte", "guess", "in_flight", "quiet", "why")

    def __init__(self, settings: HealthSettings, endpoint: _Endpoint) -> None:
        self.endpoint = endpoint
        self.circuit = Circuit(settings)
        self.back = 0.0  # when its cool-down ends; 0 when there is none
        self.quiet = 0.0  # when its last cool-down ends or has ended
        self.why = ""  # it cools
        self.guess = 0.0  # the last cool-down that no answer named, until a success
        self.first_byte = FadingAverage(settings.latency_fade)
        self.counts = Window(10, 30.0)
        self.in_flight = InFlight()


class Health:
    """The state of all targets. It outlives reloads: `keep` says which targets there are; others are ignored.

    `clock` is in seconds and never goes back. Not for more than one thread.
    """

    def __init__(self, clock: Callable[[], float], settings: HealthSettings = _DEFAULT) -> None:
        self._clock = clock
        self._settings = settings
        self._targets: dict[str, _Target] = {}
        self._endpoints: dict[str, _Endpoint] = {}
        self._addresses: dict[str, str] = {}  # of the clusters' endpoints
        self._turns: dict[tuple[str, ...], Turns] = {}
        self._news: dict[tuple[Kind, str], Notice] = {}
        self._version = 1
        self._next_end = math.inf  # when the first cool-down or ejection ends

    def keep(self, choices: Iterable[Choice]) -> None:
        """These are all the targets there are. What is known of others is forgotten."""
        addresses = {choice.cluster: choice.endpoint for choice in choices}
        for address in addresses.values():
            if address not in self._endpoints:
                self._endpoints[address] = _Endpoint(self._settings)
        for cluster, address in addresses.items():
            target = self._targets.get(cluster)
            if target is None:
                self._targets[cluster] = _Target(self._settings, self._endpoints[address])
            else:
                target.endpoint = self._endpoints[address]
        for cluster in self._targets.keys() - addresses.keys():
            del self._targets[cluster]
        for address in self._endpoints.keys() - set(addresses.values()):
            del self._endpoints[address]
        self._turns = {key: turns for key, turns in self._turns.items() if self._targets.keys() >= set(key[1:])}
        self._addresses = addresses
        self._version += 1

    # what happens to requests

    def failed(self, attempt: Attempt) -> None:
        """An attempt has failed."""
        target = self._targets.get(attempt.cluster)
        if target is None or attempt.reason is Reason.CANCELLED:
            return
        now = self._now()
        began = now - attempt.seconds
        target.counts.add(now, failed=True)
        reason = attempt.reason
        why = f"{reason} ({attempt.status})" if attempt.status else str(reason)
        if reason in _OF_THE_ENDPOINT:
            address = self._addresses[attempt.cluster]
            self._fail(Kind.UNREACHABLE, address, target.endpoint.circuit, now, began, why)
            return
        if attempt.status and target.endpoint.circuit.succeeded(now, began):
            self._version += 1  # it was reached
        if reason is Reason.RATE_LIMITED or (reason is Reason.OVERLOADED and attempt.retry_after is not None):
            self._cool(attempt.cluster, target, now, began, attempt.retry_after, why)
        if reason in _OF_THE_CLUSTER:
            self._fail(Kind.EJECTED, attempt.cluster, target.circuit, now, began, why)

    def succeeded(self, cluster: str, first_byte_seconds: float | None = None, seconds: float = 0.0) -> None:
        """A request was served by `cluster` within `seconds`; the first byte came after `first_byte_seconds`."""
        target = self._targets.get(cluster)
        if target is None:
            return
        now = self._now()
        target.counts.add(now, failed=False)
        target.guess = 0.0
        if first_byte_seconds is not None:
            target.first_byte.add(now, first_byte_seconds)
        began = now - seconds
        restored = target.circuit.succeeded(now, began)
        if target.endpoint.circuit.succeeded(now, began) or restored:
            self._version += 1

    def began(self, cluster: str) -> None:
        """A request was sent on its way, with `cluster` as its first target."""
        target = self._targets.get(cluster)
        if target is not None:
            target.in_flight.began(self._clock())

    def ended(self, cluster: str, seconds: float = 0.0, count: int = 1) -> None:
        """`count` requests have ended that had `cluster` as their first target, and took about `seconds`."""
        target = self._targets.get(cluster)
        if target is not None:
            target.in_flight.ended(self._clock(), seconds, count)

    # what others say

    def cooled(self, cluster: str, seconds: float, reason: str) -> None:
        """Somebody else was told to wait `seconds`. This never shortens a cool-down, and is no news to pass on."""
        target = self._targets.get(cluster)
        if target is not None:
            self._cool_until(target, self._now() + min(seconds, self._settings.longest_cool_down), reason)

    def heard(self, notice: Notice) -> None:
        """Another process has learned something."""
        if notice.kind is Kind.COOLING:
            self.cooled(notice.subject, notice.seconds, notice.reason)
            return
        subject: _Target | _Endpoint | None
        if notice.kind is Kind.EJECTED:
            subject = self._targets.get(notice.subject)
        else:
            subject = self._endpoints.get(notice.subject)
        now = self._now()
        seconds = min(notice.seconds, self._settings.longest_ejection)
        if subject is not None and subject.circuit.told(now, seconds, notice.reason):
            self._ends(subject.circuit.until)

    def checked(self, endpoint: str, up: bool, reason: str = "") -> None:
        """The active health check says whether `endpoint` is up. After it was down it is on trial."""
        subject = self._endpoints.get(endpoint)
        if subject is None or up is (subject.down is None):
            return
        now, was = self._now(), subject.down
        subject.down = None if up else reason or "the health check fails"
        if was is not None and subject.circuit.phase is Phase.AVAILABLE:
            subject.circuit.try_out(now)
            subject.circuit.why = f"was down: {was}"
        self._version += 1

    def news(self) -> tuple[Notice, ...]:
        """What this process itself has learned since it was last asked, for others. One for each subject."""
        if not self._news:
            return ()
        news = tuple(self._news.values())
        self._news.clear()
        return news

    # what an order needs

    @property
    def version(self) -> int:
        """Another number whenever the rank of any target has changed."""
        if self._next_end != math.inf:
            self._now()
        return self._version

    def rank(self, choice: Choice) -> Rank:
        """How the target is to be used, as of the last look at `version`."""
        target = self._targets.get(choice.cluster)
        if target is None:
            return AVAILABLE
        endpoint, circuit = target.endpoint, target.circuit
        if endpoint.down is not None:
            return Rank(Use.OUT, math.inf)
        back = target.back
        for one in (circuit, endpoint.circuit):
            if one.phase is Phase.EJECTED and one.until > back:
                back = one.until
        if back:
            return Rank(Use.OUT, back)
        return TRIAL if Phase.TRIAL in (circuit.phase, endpoint.circuit.phase) else AVAILABLE

    def grants(self, cluster: str) -> bool:
        """Whether the next request may try this one first, though it is on trial. Asking takes the grant."""
        target = self._targets.get(cluster)
        if target is None:
            return True
        now = self._now()
        circuits = (target.circuit, target.endpoint.circuit)
        if not all(circuit.may_try(now) for circuit in circuits):
            return False
        for circuit in circuits:
            circuit.tries(now)
        return True

    def in_flight(self, cluster: str) -> int:
        """Requests that this process has sent to `cluster` and that have not ended."""
        target = self._targets.get(cluster)
        return 0 if target is None else target.in_flight.count(self._clock())

    def first_byte(self, cluster: str) -> float | None:
        """Seconds to the first byte, a fading average; None when never measured."""
        target = self._targets.get(cluster)
        return None if target is None else target.first_byte.value

    def turns(self, key: tuple[str, ...]) -> Turns:
        """The turns of one pool, by its name and its clusters."""
        turns = self._turns.get(key)
        if turns is None:
            turns = self._turns[key] = Turns()
        return turns

    # what people see

    def standing(self, cluster: str) -> Standing:
        """The state of `cluster`, and why."""
        now = self._now()
        target = self._targets.get(cluster)
        if target is None:
            return Standing(State.AVAILABLE)
        endpoint = target.endpoint
        if endpoint.down is not None:
            return Standing(State.DOWN, endpoint.down)
        out = [(target.back, State.COOLING, target.why)] if target.back else []
        circuits = (endpoint.circuit, target.circuit)
        out += [(one.until, State.EJECTED, one.why) for one in circuits if one.phase is Phase.EJECTED]
        if out:
            back, state, why = max(out)
            return Standing(state, why, back - now)
        for one in circuits:
            if one.phase is Phase.TRIAL:
                return Standing(State.TRIAL, one.why)
        return Standing(State.AVAILABLE)

    def snapshot(self) -> Mapping[str, TargetReport]:
        """Every target, by its cluster."""
        now = self._now()
        tallies = {cluster: target.counts.tally(now) for cluster, target in self._targets.items()}
        served = sum(tally.served for tally in tallies.values())
        return {
            cluster: TargetReport(
                cluster,
                self.standing(cluster),
                target.first_byte.value,
                tallies[cluster].served,
                tallies[cluster].failed,
                tallies[cluster].served / served if served else 0.0,
                target.in_flight.count(now),
            )
            for cluster, target in self._targets.items()
        }

    # how it is done

    def _now(self) -> float:
        """The time, after everything has happened that was to happen by then."""
        now = self._clock()
        if now >= self._next_end:
            self._pass(now)
        return now

    def _pass(self, now: float) -> None:
        ends = [math.inf]
        for target in self._targets.values():
            if target.back and now >= target.back:
                target.back = 0.0
            elif target.back:
                ends.append(target.back)
        circuits = [target.circuit for target in self._targets.values()]
        circuits += [endpoint.circuit for endpoint in self._endpoints.values()]
        for circuit in circuits:
            circuit.passes(now)
            if circuit.phase is Phase.EJECTED:
                ends.append(circuit.until)
        self._next_end = min(ends)
        self._version += 1

    def _ends(self, moment: float) -> None:
        """Something is left out from now until `moment`."""
        self._next_end = min(self._next_end, moment)
        self._version += 1

    def _fail(self, kind: Kind, subject: str, circuit: Circuit, now: float, began: float, why: str) -> None:
        if circuit.failed(now, began, why):
            self._ends(circuit.until)
            self._news[kind, subject] = Notice(kind, subject, circuit.until - now, circuit.why)

    def _cool(self, cluster: str, target: _Target, now: float, began: float, asked: float | None, why: str) -> None:
        settings = self._settings
        if asked is not None:
            seconds = min(max(asked, settings.shortest_cool_down), settings.longest_cool_down)
        elif began < target.quiet:
            return  # sent before the cool-down had ended: it says nothing new
        else:
            seconds = min(2 * target.guess or settings.cool_down, settings.longest_guess)
            target.guess = seconds
        if self._cool_until(target, now + seconds, why):
            self._news[Kind.COOLING, cluster] = Notice(Kind.COOLING, cluster, seconds, why)

    def _cool_until(self, target: _Target, moment: float, why: str) -> bool:
        if moment <= target.back + _SAME or moment <= self._clock() + _SAME:
            return False
        target.back = target.quiet = moment
        target.why = why
        self._ends(moment)
        return True
