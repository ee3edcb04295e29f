"""envoyproxy/ratelimit's files and variables: what serves them, and what of them is better said in `headgate.yaml`.

The files are read by `python -m ratelimit` as they are, so nothing of them has to be written anew. Two things have a
place in `headgate.yaml`: the Redis, and limits of single API keys.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headgate.importing.document import Document
from headgate.importing.report import Entry, Ledger, leaves
from headgate.importing.result import Result
from headgate.importing.secrets import Secrets
from ratelimit.lint import lint
from ratelimit.rules import Node
from ratelimit.settings import RuleFile, build
from ratelimit.standalone import environment
from ratelimit.yaml_text import read_yaml
from sidecar.configfile import ConfigFile, KeyPath, parse
from sidecar.errors import ConfigError

_KEYS = frozenset({"authorization", "api_key", "api-key", "apikey", "x-api-key", "x_api_key"})
_BEARER = re.compile(r"(?i)bearer\s+")
_MARK = "imported-secret"
_LOGIN = re.compile(r"(://[^:/@,]*:)[^@,]+(@)")
_SERVED = "served as it is by `python -m ratelimit`"
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
CLUSTER = """\
clusters:
  - name: ratelimit
    type: STRICT_DNS
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: ratelimit
      endpoints:
        - lb_endpoints:
            - endpoint: {{address: {address}}}"""


def read_variables(text: str, name: str) -> ConfigFile:
    """A file of `NAME=value` lines, as a container is given it. What is no such line is passed over."""
    values: dict[str, Any] = {}
    lines: dict[KeyPath, int] = {(): 1}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match:
            value = match.group(2).strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            values[match.group(1)] = value[1:-1] if quoted else value
            lines[(match.group(1),)] = number
    return ConfigFile(name, values, lines, text)


def convert(
    files: Sequence[tuple[str, str]], where: str, variables: ConfigFile | None = None, *, merge: bool = False
) -> Result:
    """The rule files (name and text) and the variables of a deployment. `where` is the folder that the files are in.

    Raises `ConfigError` for files that the service could not use, in envoyproxy/ratelimit's words.
    """
    rules = build([RuleFile(name, text) for name, text in files], merge=merge)
    document, secrets = Document(), Secrets()
    reports: dict[str, tuple[Entry, ...]] = {}
    settings, url = _environment(variables, secrets, reports)
    if url:
        document.values["store"] = url
    keys: dict[str, dict[str, Any]] = {}
    for name, text in files:
        file = parse(text, name, {}, deferred=("*",), folder=Path())
        said = Ledger(file)
        content = read_yaml(text)
        nodes = build([RuleFile(name, text)]).domains[str(content["domain"])]
        moved = _keys(content, nodes, keys)
        for path in leaves(file.values):
            if path[:2] in moved and path[2:]:
                said.kept(path, "also written as `limits.requests` of a key: the same requests pass")
            else:
                said.kept(path, _SERVED)
        reports[name] = said.entries()
    if keys:
        document.values["keys"] = list(keys.values())
        note = "Keys that had a limit of their own. Standing here they may also use every model: see `models`."
        document.note(("keys",), note)
    document.header = [
        "From envoyproxy/ratelimit's files by `headgate import ratelimit`: what of them has a place in headgate.yaml.",
        "The rules themselves are read as they are, by `python -m ratelimit`.",
    ]
    notes = [*(f"look at this: {one}" for one in lint(rules)), *_how(where, variables, settings)]
    return Result(document, reports, secrets.variables, tuple(notes))


def _keys(content: Mapping[str, Any], nodes: Sequence[Node], keys: dict[str, dict[str, Any]]) -> set[KeyPath]:
    """Adds the limits that are one key's; the places of their descriptors."""
    moved: set[KeyPath] = set()
    for index, node in enumerate(nodes):
        entry = content["descriptors"][index]
        if node.key.lower() not in _KEYS or not _one_key(node):
            continue
        digest = hashlib.sha256(_BEARER.sub("", node.value or "", count=1).encode()).hexdigest()
        assert node.rule is not None
        rate = node.rule.rate
        window = rate.unit.name.lower() if rate.count == 1 else rate.window
        made = {"name": f"key-{digest[:8]}", "sha256": digest, "limits": {"requests": f"{rate.amount}/{window}"}}
        if digest not in keys and entry is not None:
            keys[digest] = made
            moved.add(("descriptors", index))
    return moved


def _one_key(node: Node) -> bool:
    """Whether this is one fixed window of one key, which counts requests and may deny."""
    rule = node.rule
    if rule is None or node.children or node.also or not node.value or "*" in node.value or not rule.plain:
        return False
    return not (rule.unlimited or rule.shadow or rule.quota or rule.replaces or rule.rate.zone or rule.lease)


def _environment(
    file: ConfigFile | None, secrets: Secrets, reports: dict[str, tuple[Entry, ...]]
) -> tuple[environment.Environment | None, str]:
    """What the variables mean, and the store's URL with references in place of passwords."""
    if file is None:
        return None, ""
    said = Ledger(file)
    given = {name: str(value) for name, value in file.values.items()}
    usable, found = _hidden(given), None
    while found is None:
        try:
            found = environment.read(usable)
        except ConfigError as error:
            wrong = [problem for problem in error.problems if problem.place in usable]
            for problem in wrong:
                said.missing((problem.place,), problem.message, problem.mend)
                del usable[problem.place]
            if not wrong:
                raise
    warned = {warning.partition(":")[0]: warning.partition(": ")[2] for warning in found.warnings}
    known = set(environment.names())
    for name in given:
        if said.mentioned((name,)):
            continue
        if name in warned:
            said.missing((name,), warned[name])
        elif name in environment.NOT_SERVED:
            said.changed((name,), "means nothing here, and need not be taken out")
        elif name.startswith("REDIS_PERSECOND") and found.stores.per_second:
            said.changed((name,), "read by `python -m ratelimit`; headgate.yaml has one store for all windows")
        elif name in known:
            said.kept((name,), "read by the same name")
        else:
            said.missing((name,), "is none of envoyproxy/ratelimit's variables")
    reports[file.name] = said.entries()
    return found, _store(found.stores.url, given, secrets)


def _hidden(given: Mapping[str, str]) -> dict[str, str]:
    """The variables with a mark in place of every password."""
    hidden = dict(given)
    for name, value in given.items():
        if name.startswith("REDIS_") and name.endswith("AUTH") and value:
            user, separator, _ = value.partition(":")
            hidden[name] = f"{user}:{_MARK}" if separator else _MARK
        elif name.startswith("REDIS_") and name.endswith("URL"):
            hidden[name] = _LOGIN.sub(rf"\g<1>{_MARK}\g<2>", value)
    return hidden


def _store(url: str, given: Mapping[str, str], secrets: Secrets) -> str:
    """The URL with variables for its passwords. One that holds nothing else is referred to as it is."""
    for place, parameter in (("REDIS_SENTINEL_AUTH", f"sentinel_password={_MARK}"), ("REDIS_AUTH", _MARK)):
        if parameter in url:
            own = given.get(place, "")
            name = place if own and ":" not in own else place.replace("AUTH", "PASSWORD")
            url = url.replace(parameter, parameter.replace(_MARK, secrets.variable(name)))
    return "" if url == environment.MEMORY else url


def _how(where: str, file: ConfigFile | None, settings: environment.Environment | None) -> list[str]:
    """The command, the environment, Envoy's cluster."""
    if file is None or settings is None:
        notes = [f"run it:\n  python -m ratelimit --rules {where} --listen 0.0.0.0:8081 --store memory://"]
        notes.append("name the variables of your deployment with --env to have them checked, and the Redis taken over")
        listen = "0.0.0.0:8081"
    else:
        notes = [f"run it, with {file.name} as it is:\n  set -a; . {file.name}; set +a; python -m ratelimit"]
        listen = settings.listen
    if listen.startswith("unix://"):
        address = f"{{pipe: {{path: {listen.removeprefix('unix://')}}}}}"
    else:
        address = f"{{socket_address: {{address: ratelimit, port_value: {listen.rpartition(':')[2]}}}}}"
    notes.append(f"Envoy's cluster, as before:\n{CLUSTER.format(address=address)}")
    return notes
