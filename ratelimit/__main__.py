"""`python -m ratelimit`: the rate-limit service alone, over rule files in envoyproxy/ratelimit's YAML."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ratelimit import settings
from ratelimit.limiter import Limiter
from ratelimit.server import rate_limit_service
from ratelimit.storage import open_store
from sidecar.lifecycle import run, serve
from sidecar.reload import Current
from sidecar.server import Engine, GrpcServer


async def _run(rules_path: Path, listen: str, store_url: str, engine: Engine, grace: float) -> None:
    rules = Current(settings.load(rules_path))
    store = open_store(store_url)
    server = GrpcServer([rate_limit_service(Limiter(store, time.time), rules.get)], listen=listen, engine=engine)
    try:
        await serve(server, grace=grace, reload=lambda: rules.swap(settings.load(rules_path)))
    finally:
        await store.close()


def main() -> int:
    """Run it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ratelimit", description=__doc__)
    parser.add_argument(
        "--rules", type=Path, required=True, help="a rule file, or a folder of them; SIGHUP reads again"
    )
    parser.add_argument("--listen", default="127.0.0.1:8081", help="host:port or unix:///path")
    parser.add_argument(
        "--store",
        default="memory://",
        help="memory://, redis://…, rediss://…, unix://…, redis+sentinel://…, redis+cluster://…",
    )
    parser.add_argument("--engine", choices=("native", "grpcio"), default="native", help="what carries the service")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds for running calls when stopping")
    arguments = parser.parse_args()
    return run(_run(arguments.rules, arguments.listen, arguments.store, arguments.engine, arguments.grace))


if __name__ == "__main__":
    sys.exit(main())
