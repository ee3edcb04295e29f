"""What becomes of attempts: Envoy's logs in, the health of the targets out, and what people may see of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry

from extproc.accesslog import RequestRecord
from extproc.balance.attempt import Attempt, Reason, read
from extproc.balance.board import Board
from extproc.balance.health import Health
from extproc.balance.neighbours import Ended, Neighbours
from extproc.balance.standing import State, TargetReport
from extproc.policy import Model, Policy
from extproc.targets import OWN_KEY, SCALE, Target
from sidecar.metrics import Metrics

_log = structlog.get_logger("headgate")
_GENERATIONS = 8  # configurations whose clusters are still known: a long stream ends after many a reload
# An answer that began well and then broke off has these among its flags: the log of attempts tells of it.
_BROKEN = frozenset(
    {
        "upstream_connection_termination",
        "upstream_remote_reset",
        "upstream_request_timeout",
        "stream_idle_timeout",
        "local_reset",
        "upstream_protocol_error",
        "upstream_max_stream_duration_reached",
    }
)
_SWITCHED = 101  # a WebSocket that was opened went well, however it ended
# All that an attempt with a client's own key says of a target: anything else may be about that key.
_OF_THE_ENDPOINT = frozenset({Reason.CONNECT, Reason.DNS, Reason.TLS})


class TargetWatch:
    """Feeds `health` from Envoy's logs and tells others the news. `unix_time` is for providers that name a date."""

    def __init__(
        self, health: Health, metrics: Metrics, policy: Callable[[], Policy], unix_time: Callable[[], float]
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._policy = policy
        self._unix_time = unix_time
        self._known: Mapping[str, Target] = {}
        self._routes: Mapping[str, Model] = {}
        self._generations: deque[tuple[Mapping[str, Target], Mapping[str, Model]]] = deque(maxlen=_GENERATIONS)
        self._worker: int | None = None
        self._neighbours: Neighbours | None = None
        self._boards: list[Board] = []

    def take(self, policy: Policy) -> None:
        """This policy is in force from now on."""
        every = (*policy.models.values(), *policy.passthroughs.values())
        self._generations.append((policy.targets(), {model.route: model for model in every}))
        self._known = {cluster: target for one, _ in self._generations for cluster, target in one.items()}
        self._routes = {route: model for _, one in self._generations for route, model in one.items()}
        self._health.keep(choice for model in every for choice in model.pool.choices)

    def targets(self) -> Mapping[str, Target]:
        """The targets by their clusters, those of former configurations included."""
        return self._known

    def share(self, board: Board) -> None:
        """Tell `board`, too."""
        self._boards.append(board)

    def join(self, worker: int, neighbours: Neighbours) -> None:
        """This is worker `worker` of several."""
        self._worker, self._neighbours = worker, neighbours
        self.share(neighbours)

    def start(self) -> None:
        """Hear what others say. Needs a running loop."""
        for board in self._boards:
            try:
                board.start()
            except OSError as error:
                _log.error("targets_not_shared", reason=str(error), file=error.filename)

    async def close(self) -> None:
        """Hear no more."""
        for board in self._boards:
            await board.close()

    # what happens

    def forwarded(self, cluster: str) -> None:
        """A request goes on, to `cluster` first."""
        self._health.began(cluster)

    def failed(self, entries: Sequence[HTTPAccessLogEntry]) -> None:
        """Attempts have failed."""
        now = self._unix_time()
        for entry in entries:
            attempt = read(entry, now)
            own = attempt.cluster.endswith(OWN_KEY)
            attempt = attempt._replace(cluster=attempt.cluster.partition("+")[0])
            self._count(attempt)
            if not own or attempt.reason in _OF_THE_ENDPOINT:
                self._health.failed(attempt)
        self._tell()

    def finished(self, records: Sequence[RequestRecord]) -> None:
        """Requests have ended."""
        elsewhere: dict[int, list[Ended]] = {}
        for record in records:
            first = self._first(record)
            if record.worker is None or record.worker == self._worker:
                self._health.ended(first, record.seconds)
            elif first:
                elsewhere.setdefault(record.worker, []).append(Ended(first, record.seconds))
            if not record.cluster:
                continue
            broken = _BROKEN.intersection(record.flags) and record.status != _SWITCHED
            if record.status < 400 and not broken:
                self._health.succeeded(record.cluster, record.answered_seconds, record.seconds)
                self._metrics.attempts.labels(record.provider, record.target_model or "none", "ok").inc()
        if self._neighbours is not None:
            for worker, ended in elsewhere.items():
                self._neighbours.ended(worker, ended)

    def _first(self, record: RequestRecord) -> str:
        """The cluster that was to be tried first; with no attempt at all, a limit has refused the request meanwhile."""
        model = self._routes.get(record.route.partition("+")[0]) if record.attempts != 1 else None
        if model is None:
            return record.cluster
        index = int(record.first_group.partition("+")[0]) if record.first_group[:1].isdigit() else 0
        return model.targets[index].cluster if index < len(model.targets) else record.cluster

    def _count(self, attempt: Attempt) -> None:
        target = self._known.get(attempt.cluster)
        if target is not None:
            labels = (target.provider, target.model or "none", str(attempt.reason))
            self._metrics.attempts.labels(*labels).inc()

    def _tell(self) -> None:
        notices = self._health.news()
        for notice in notices:
            _log.warning("target_left_out", **notice._asdict())
        if notices:
            for board in self._boards:
                board.publish(notices)

    # what people see

    def status(self) -> Mapping[str, list[Mapping[str, Any]]]:
        """Every target of every model: its state and why, its share, how fast it is."""
        reports = self._health.snapshot()
        policy = self._policy()
        return {
            name: [_shown(target, reports.get(target.cluster)) for target in model.targets]
            for name, model in (*policy.models.items(), *((f"/p/{k}/", v) for k, v in policy.passthroughs.items()))
        }

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        for family in (
            self._metrics.target_available,
            self._metrics.target_seconds_left,
            self._metrics.target_in_flight,
        ):
            family.clear()
        for cluster, report in self._health.snapshot().items():
            target = self._known.get(cluster)
            if target is None:
                continue
            labels = (target.provider, target.model or "none", cluster)
            standing = report.standing
            self._metrics.target_available.labels(*labels).set(float(standing.state in (State.AVAILABLE, State.TRIAL)))
            self._metrics.target_seconds_left.labels(*labels).set(standing.seconds_left or 0.0)
            self._metrics.target_in_flight.labels(*labels).set(float(report.in_flight))


def _shown(target: Target, report: TargetReport | None) -> Mapping[str, Any]:
    shown: dict[str, Any] = {
        "provider": target.provider,
        "model": target.model,
        "endpoint": target.channel.base_url,
        "key": target.channel.key if target.channel.has_key else None,
        "priority": target.priority,
        "weight": round(target.weight / SCALE, 3),
        "target": target.cluster,
    }
    if report is not None:
        left = report.standing.seconds_left
        first_byte = report.first_byte_seconds
        shown.update(
            state=str(report.standing.state),
            why=report.standing.why,
            seconds_left=None if left is None else round(left, 1),
            first_byte_ms=None if first_byte is None else round(first_byte * 1e3, 1),
            served=report.served,
            failed=report.failed,
            share=round(report.share, 3),
            in_flight=report.in_flight,
        )
    return shown
