"""Rule files: envoyproxy/ratelimit's YAML, and what we add to it.

    domain: mesh
    descriptors:
      - key: tenant
        value: team-a
        rate_limit: {unit: minute, requests_per_unit: 60}
        limits: [10/s, {requests_per_unit: 1000000, unit: day, time_zone: Europe/Rome}]
        descriptors: []

All files are read together, all or nothing. `key` and `value` keep the text of the file: `404`, `no` and `0x10` stay
those words. docs/ratelimit.md explains every key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ratelimit.rules import BUCKETS, SETTLE, Algorithm, Mode, Node, OnError, Rate, Rule, RuleSet, Unit
from ratelimit.windows import MAX_AMOUNT, parse_window
from ratelimit.yaml_text import MAX_FILE_BYTES, Located, YamlTextError, read_yaml
from sidecar.errors import ConfigError, Problem

# What envoyproxy/ratelimit knows, and what only we do.
_THEIRS = (
    "domain key value descriptors rate_limit unit requests_per_unit unlimited shadow_mode quota_mode name replaces "
    "detailed_metric value_to_metric share_threshold metadata"
)
_OURS = "limits algorithm burst atomic strict on_error local_share lease time_zone calendar"
KNOWN = frozenset(f"{_THEIRS} {_OURS}".split())

# YAML 1.1's words, which envoyproxy/ratelimit's reader takes; absent is false.
_TRUE = frozenset({"true", "yes", "on", "y"})
_FALSE = frozenset({"false", "no", "off", "n", ""})
_MOST_DIGITS = 20
_MOST_DESCRIPTORS = 500_000  # aliases of aliases would make any number of them
_DEEPEST = 100


class _FileError(Exception):
    """What is wrong with the file at hand, in envoyproxy/ratelimit's words where it has any, and on which line."""

    line = 0


@contextmanager
def _within(mapping: Mapping[str, Any]) -> Iterator[None]:
    """Whatever is wrong here begins on this mapping's line, unless one inside of it has said so."""
    try:
        yield
    except _FileError as error:
        error.line = error.line or (mapping.line if isinstance(mapping, Located) else 0)
        raise


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The name that errors show, and YAML text or what such text says (every scalar as text)."""

    name: str
    content: str | Mapping[str, Any]


def load(path: Path, *, merge: bool = False) -> RuleSet:
    """The rules of one file, or of every `*.yaml` and `*.yml` in a folder (names that begin with a dot aside).

    Raises `ConfigError`, also for a folder without any: a mistaken path must not mean that nothing is limited.
    """
    files = rule_files(path)
    if not files:
        raise ConfigError([Problem(str(path), "", "holds no rule file", "put a *.yaml or *.yml file there")])
    return build((RuleFile(file.name, read_text(file)) for file in files), merge=merge)


def rule_files(path: Path) -> list[Path]:
    """The file, or those of the folder, that `load` reads."""
    return sorted(_files(path)) if path.is_dir() else [path]


def stamp(path: Path) -> object:
    """What changes when one of the files that `load` reads comes, goes or changes."""
    found: list[tuple[str | int, ...]] = []
    try:
        for file in rule_files(path):
            status = file.stat()
            # The last but one changes with the file's mode alone.
            found.append((file.name, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))
    except OSError as error:
        return str(error)
    return tuple(found)


def read_text(file: Path, name: str = "") -> str:
    """The text of a rule file. Raises `ConfigError`, also for what is too large or no text."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise _problem(name or file.name, f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _problem(name or file.name, str(error)) from error


def build(files: Iterable[RuleFile], *, merge: bool = False) -> RuleSet:
    """The rules of all files. With `merge` several files may add to one domain.

    Raises `ConfigError` for the first file that cannot be used, `<name>: <what is wrong>`.
    """
    domains: dict[str, _Domain] = {}
    for file in files:
        try:
            content = read_yaml(file.content) if isinstance(file.content, str) else dict(file.content)
            _check_keys(content, set())
            name = _text(content, "domain")
            if not name:
                raise _FileError("config file cannot have empty domain")
            if name in domains and not merge:
                raise _FileError(f"duplicate domain '{name}' in config file")
            domains.setdefault(name, _Domain(name)).add(content)
        except RecursionError as error:
            raise _problem(file.name, "nested too deeply") from error
        except YamlTextError as error:
            if error.plain:
                raise ConfigError([Problem(file.name, "", str(error))]) from error
            raise _problem(file.name, str(error)) from error
        except _FileError as error:
            raise ConfigError([Problem(file.name, "", str(error), line=error.line)]) from error
    return RuleSet({name: tuple(domain.nodes) for name, domain in domains.items()})


def _problem(name: str, text: str) -> ConfigError:
    return ConfigError([Problem(name, "", f"error loading config file: {text}")])


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix in (".yaml", ".yml") and not file.name.startswith(".") and file.is_file():
            yield file


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _FileError(f"error loading config file: {key} must be a string")
    return value


def _flag(mapping: Mapping[str, Any], key: str, path: str) -> bool:
    word = _text(mapping, key).lower()
    if word not in _TRUE | _FALSE:
        raise _FileError(f"error loading config file: {key} of '{path}' is neither true nor false: {word}")
    return word in _TRUE


def _number(mapping: Mapping[str, Any], key: str, path: str, most: int) -> int:
    text = _text(mapping, key).replace("_", "") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS) or int(text) > most:
        raise _FileError(f"error loading config file: {key} of '{path}' is no whole number up to {most}: {text[:60]}")
    return int(text)


def _check_keys(mapping: Mapping[Any, Any], seen: set[int], depth: int = 0) -> None:
    """Every mapping once, however many aliases name it."""
    if depth > _DEEPEST:
        raise _FileError("error loading config file: nested too deeply")
    if id(mapping) in seen:
        return
    seen.add(id(mapping))
    for key, value in mapping.items():
        if key not in KNOWN:
            with _within(mapping):
                raise _FileError(f"config error, unknown key '{key}'")
        if key == "metadata":
            continue
        if isinstance(value, dict):
            _check_keys(value, seen, depth + 1)
        if isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    _check_keys(entry, seen, depth + 1)
                elif key != "limits":
                    raise _FileError(f"config error, yaml file contains list of type other than map: {entry}")


class _Domain:
    """The tree of one domain while files add to it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: set[str] = set()
        self._count = 0
        self.nodes: list[Node] = []

    def add(self, content: Mapping[str, Any]) -> None:
        self.nodes += self._nodes(content, self._name, self._seen, 0, settles=False)

    def _nodes(
        self, parent: Mapping[str, Any], path: str, seen: set[str], depth: int, *, settles: bool
    ) -> Iterator[Node]:
        listed = parent.get("descriptors") or []
        if not isinstance(listed, list):
            raise _FileError("error loading config file: descriptors must be a list")
        if depth > _DEEPEST:
            raise _FileError("error loading config file: nested too deeply")
        for entry in listed:
            self._count += 1
            if self._count > _MOST_DESCRIPTORS:
                raise _FileError(f"error loading config file: more than {_MOST_DESCRIPTORS} descriptors")
            with _within(entry):
                node = self._node(entry, path, seen, depth, settles=settles)
            yield node

    def _node(self, entry: Mapping[str, Any], path: str, seen: set[str], depth: int, *, settles: bool) -> Node:
        key, value = _text(entry, "key"), _text(entry, "value")
        if not key:
            raise _FileError("descriptor has empty key")
        final = f"{key}_{value}" if value else key
        own = f"{path}.{final}"
        if final in seen:
            raise _FileError(f"duplicate descriptor composite key '{own}'")
        seen.add(final)
        if settles and key == SETTLE:
            raise _FileError(f"descriptor key '{SETTLE}' is reserved below an atomic limit")
        rules = _rules(entry, own)
        shared = _flag(entry, "share_threshold", own)
        if shared and "*" not in value:
            raise _FileError(
                f"share_threshold can only be used with wildcard values (containing '*'), but found key '{final}'"
            )
        metadata = entry.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise _FileError(f"error loading config file: metadata of '{own}' must be a mapping")
        children = self._nodes(entry, own, set(), depth + 1, settles=any(rule.mode is Mode.RESERVE for rule in rules))
        return Node(
            key,
            value or None,
            rules[0] if rules else None,
            tuple(children),
            rules[1:],
            shared,
            _flag(entry, "value_to_metric", own),
            metadata,
        )


def _rules(entry: Mapping[str, Any], path: str) -> tuple[Rule, ...]:
    """The limits of a descriptor: `rate_limit`, then `limits`."""
    rules: list[Rule] = []
    limit = entry.get("rate_limit")
    if limit is not None and limit != "":
        if not isinstance(limit, dict):
            raise _FileError(f"error loading config file: rate_limit of '{path}' must be a mapping")
        rules.append(_rule(limit, entry, path, path, several=False))
    listed = entry.get("limits") or []
    if not isinstance(listed, list):
        raise _FileError(f"error loading config file: limits of '{path}' must be a list")
    for number, one in enumerate(listed):
        if isinstance(one, str):
            try:
                rate = Rate.parse(one)
            except ValueError as error:
                raise _wrong(error, f"limits of '{path}'") from None
            one = {"requests_per_unit": str(rate.amount), "unit": f"{rate.count}{rate.unit.name.lower()}"}
        elif not isinstance(one, dict):
            raise _FileError(f"error loading config file: limits of '{path}' are rates like 10/s, or mappings")
        rules.append(_rule(one, entry, path, f"{path}[{number}]", several=True))
    windows = [(rule.rate.window, rule.algorithm) for rule in rules if rule.several]
    if len(set(windows)) != len(windows):
        raise _FileError(f"error loading config file: limits of '{path}' hold one window twice")
    return tuple(rules)


def _wrong(error: ValueError, where: str) -> _FileError:
    message, _, mend = str(error).partition(" | ")
    return _FileError(f"error loading config file: {where}: {message}" + (f" ({mend})" if mend else ""))


def _choice(limit: Mapping[str, Any], key: str, words: Iterable[str], path: str) -> str:
    word = _text(limit, key).lower()
    if word and word not in words:
        raise _FileError(f"error loading config file: {key} of '{path}' is {', '.join(words)}: not '{word[:60]}'")
    return word


def _rule(limit: Mapping[str, Any], entry: Mapping[str, Any], path: str, label: str, *, several: bool) -> Rule:
    name, unit = _text(limit, "name"), _text(limit, "unit")
    unlimited = _flag(limit, "unlimited", path)
    window = _window(unit)
    if unlimited and window is not None:
        raise _FileError("should not specify rate limit unit when unlimited")
    if not unlimited and window is None:
        raise _FileError(f"invalid rate limit unit '{unit}'")
    amount = _number(limit, "requests_per_unit", path, MAX_AMOUNT)
    plain = Rule(
        Rate(MAX_AMOUNT, Unit.SECOND),
        name=name,
        label=label,
        unlimited=unlimited,
        shadow=_flag(entry, "shadow_mode", path),
        quota=_flag(entry, "quota_mode", path),
        replaces=_replaces(limit, name),
        detailed=_flag(entry, "detailed_metric", path),
        several=several,
    )
    if window is None:
        return plain
    count, of = window
    zone = _text(limit, "time_zone") or ("UTC" if _flag(limit, "calendar", path) else "")
    try:
        rate = Rate(amount, of, count, zone)
    except ValueError as error:
        raise _wrong(error, f"rate_limit of '{path}'") from None
    algorithm = Algorithm(_choice(limit, "algorithm", [one.value for one in Algorithm], path) or "fixed_window")
    rule = replace(
        plain,
        rate=rate,
        mode=Mode.RESERVE if _flag(limit, "atomic", path) else Mode.CONSUME,
        algorithm=algorithm,
        burst=_number(limit, "burst", path, MAX_AMOUNT),
        strict=_flag(limit, "strict", path),
        on_error=OnError(_choice(limit, "on_error", [one.value for one in OnError], path) or "error"),
        local_share=_share(limit, path),
        lease=_number(limit, "lease", path, MAX_AMOUNT),
    )
    _check_together(rule, path)
    return rule


def _check_together(rule: Rule, path: str) -> None:
    """What cannot be meant together."""
    fixed = rule.algorithm is Algorithm.FIXED_WINDOW
    wrong = ""
    if rule.burst and rule.algorithm not in BUCKETS:
        wrong = "burst belongs to token_bucket and gcra"
    elif rule.lease and not fixed:
        wrong = "lease belongs to fixed_window"
    elif rule.rate.zone and not fixed:
        wrong = "a calendar belongs to fixed_window"
    elif rule.algorithm is Algorithm.SLIDING_LOG and rule.rate.amount > 1_000_000:
        wrong = "a sliding_log keeps every call: at most 1000000 (sliding_window takes any number)"
    if wrong:
        raise _FileError(f"error loading config file: rate_limit of '{path}': {wrong}")


def _window(unit: str) -> tuple[int, Unit] | None:
    """A unit's name, any case, or a number and a unit: `30s`."""
    if unit.upper() in Unit.__members__:
        return 1, Unit[unit.upper()]
    return parse_window(unit) if unit[:1].isdigit() else None


def _share(limit: Mapping[str, Any], path: str) -> float:
    text = _text(limit, "local_share")
    if not text:
        return 0.0
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise _FileError(
            f"error loading config file: local_share of '{path}' is a part of 1, like 0.25: not '{text[:60]}'"
        )
    return share


def _replaces(limit: Mapping[str, Any], name: str) -> tuple[str, ...]:
    listed = limit.get("replaces") or []
    if not isinstance(listed, list):
        raise _FileError("error loading config file: replaces must be a list")
    names = [_text(one, "name") for one in listed]
    if any(not one for one in names):
        raise _FileError("should not have an empty replaces entry")
    if name in names:
        raise _FileError("replaces should not contain name of same descriptor")
    return tuple(names)
