"""`python -m ratelimit`: the rate-limit service alone.

Without arguments it is what envoyproxy/ratelimit's environment variables say. Arguments win over them. With --rules,
what no variable names is not envoyproxy/ratelimit's default but the least that serves: counters in memory, gRPC on
127.0.0.1:8081, and no HTTP.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratelimit.standalone import environment
from ratelimit.standalone.environment import MEMORY, Environment, HttpAddresses
from ratelimit.standalone.service import serve
from ratelimit.standalone.stores import Stores
from sidecar.errors import ConfigError
from sidecar.lifecycle import run
from sidecar.server import Engine


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line asked for; None for what it did not."""

    rules: Path | None = None
    listen: str | None = None
    store: str | None = None
    engine: Engine = "native"
    grace: float = 10.0


def combined(arguments: Arguments, variables: Mapping[str, str]) -> Environment:
    """The environment with the arguments laid over it. Raises `ConfigError`."""
    if arguments.store is not None:  # the variables of the store that is not used may say anything
        variables = {name: value for name, value in variables.items() if not name.startswith("REDIS_")}
        variables = {**variables, "BACKEND_TYPE": "memory"}
    elif arguments.rules is not None and not variables.keys() & {"REDIS_URL", "BACKEND_TYPE"}:
        variables = {**variables, "BACKEND_TYPE": "memory"}
    found = environment.read(variables)
    if arguments.store is not None:
        found = replace(found, stores=Stores(arguments.store or MEMORY))
    if arguments.rules is not None:
        alone = {"GRPC_HOST", "GRPC_PORT", "GRPC_UDS"} & variables.keys()
        found = replace(
            found,
            rules=arguments.rules,
            listen=found.listen if alone else "127.0.0.1:8081",
            log_level=found.log_level if "LOG_LEVEL" in variables else "info",
            log_format=found.log_format if "LOG_FORMAT" in variables else "auto",
        )
    if arguments.listen is not None:
        found = replace(found, listen=arguments.listen)
    if arguments.rules is not None or arguments.listen is not None:
        found = replace(found, http=_named(found.http, variables))
    return found


def _named(http: HttpAddresses, variables: Mapping[str, str]) -> HttpAddresses:
    """Only the servers whose ports a variable names."""
    return replace(
        http,
        api=http.api if "PORT" in variables else "",
        debug=http.debug if "DEBUG_PORT" in variables else "",
    )


def run_service(arguments: Arguments) -> int:
    """Run it. Returns the exit status."""
    try:
        found = combined(arguments, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return run(serve(found, engine=arguments.engine, grace=arguments.grace))


def main(given: Sequence[str] | None = None) -> int:
    """Run it with these arguments. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ratelimit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rules", type=Path, help="a rule file, or a folder of them; changes are seen, SIGHUP reads again"
    )
    parser.add_argument("--listen", help="host:port or unix:///path")
    parser.add_argument(
        "--store", help="memory://, redis://…, rediss://…, unix://…, redis+sentinel://…, redis+cluster://…"
    )
    parser.add_argument("--engine", choices=("native", "grpcio"), default="native", help="what carries the service")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds for running calls when stopping")
    return run_service(Arguments(**vars(parser.parse_args(given))))


if __name__ == "__main__":
    sys.exit(main())
