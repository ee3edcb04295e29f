"""The names that Envoy and we must agree on: clusters, routes, files of the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headgate.settings import Settings, nth_address
from ratelimit.storage import MEMORY

EXTPROC_CLUSTER = "headgate_extproc"
METER_FILTER = "envoy.filters.http.lua"
REPLAY_FILTER = "headgate.replay"  # the filter that is told kept streams event by event
RATELIMIT_CLUSTER = "headgate_ratelimit"
ENVOY_ADMIN_CLUSTER = "headgate_envoy_admin"
LISTENER = "gateway"
STATS_LISTENER = "stats"
EMBEDDINGS_LISTENER = "embeddings"
ROUTES = "gateway"
STAT_PREFIX = "gateway"
ACCESS_LOG = "headgate"
OWNER = "owner.pid"


def worker_cluster(worker: int, workers: int) -> str:
    """The Envoy cluster of one worker alone."""
    return f"{EXTPROC_CLUSTER}_{worker}" if workers > 1 else EXTPROC_CLUSTER


def replay_cluster(worker: int) -> str:
    """The Envoy cluster of the worker that replays an answer: of its own, so that they can be counted."""
    return f"headgate_replay_{worker}"


def provider_secret(name: str) -> str:
    """The Envoy secret of a key (`extproc.targets.Channel.secret`): an older definition keeps what it was given."""
    return f"credential_{name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts meet: sockets and Envoy's dynamic files below one private folder."""

    folder: Path

    @property
    def bootstrap(self) -> Path:
        return self.folder / "bootstrap.json"

    @property
    def listeners(self) -> Path:
        return self.folder / "lds.json"

    @property
    def routes(self) -> Path:
        return self.folder / "rds.json"

    @property
    def clusters(self) -> Path:
        return self.folder / "cds.json"

    def secret(self, name: str) -> Path:
        return self.folder / f"sds_{name}.json"

    @property
    def last_good(self) -> Path:
        """A copy of the configuration in force, for a sidecar that starts while the file is broken."""
        return self.folder / "last-good.yaml"

    @property
    def checked(self) -> Path:
        """A copy of the configuration that Envoy has been made ready for: the sidecar takes it from here."""
        return self.folder / "checked.yaml"

    @property
    def started(self) -> Path:
        """A copy of the configuration that everything was started with: what is fixed while running stands in it."""
        return self.folder / "started.yaml"

    @property
    def envoy_start(self) -> Path:
        """How Envoy is to be started and stopped, for those who do it in our place."""
        return self.folder / "envoy-start.json"

    @property
    def owner(self) -> Path:
        """Holds the supervisor's process id: a folder whose owner is gone may be removed."""
        return self.folder / OWNER

    @property
    def envoy_admin(self) -> Path:
        return self.folder / "envoy-admin.sock"

    @property
    def embeddings(self) -> Path:
        """Where Envoy takes our own calls for embeddings."""
        return self.folder / "embeddings.sock"

    def extproc(self, settings: Settings, worker: int = 0) -> str:
        """Where a worker serves ext_proc and the access log."""
        return nth_address(settings.services.extproc or f"unix://{self.folder / 'extproc.sock'}", worker)

    def ratelimit(self, settings: Settings, worker: int = 0) -> str:
        """Where a worker serves the rate-limit service."""
        return nth_address(settings.services.ratelimit or f"unix://{self.folder / 'ratelimit.sock'}", worker)

    def extprocs(self, settings: Settings) -> list[str]:
        """An endpoint per worker: Envoy splits its calls evenly over them."""
        return [self.extproc(settings, worker) for worker in range(settings.workers)]

    def ratelimits(self, settings: Settings) -> list[str]:
        """An endpoint per worker, or the first worker's alone: it owns the embedded store, so limits stay exact."""
        owners = 1 if settings.store == MEMORY else settings.workers
        return [self.ratelimit(settings, worker) for worker in range(owners)]

    def worker_admin(self, worker: int) -> str:
        """Where a worker tells the process above it how it is."""
        return f"unix://{self.folder / f'admin-{worker}.sock'}"
