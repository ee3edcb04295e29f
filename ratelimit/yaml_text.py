"""YAML whose scalars stay the text of the file, and whose keys must be text. Below `metadata` it is YAML as usual.

Aliases cost nothing (what they name is shared, not copied); a cycle is an error. A key that stands twice in one mapping
is an error: the first would be lost.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_FILE_BYTES = 16 << 20
_DEEPEST = 1_000  # levels: libyaml's own recursion has no end but the stack's, and that ends the process
_BRACKET = re.compile(r"[\[\]{}]")
_INDENT = re.compile(rf"^[ \t?:-]{{{2 * _DEEPEST}}}", re.MULTILINE)  # a level in a line takes two characters of these
_STRING = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
_FREE = "metadata"  # the key whose value is free: numbers stay numbers
_MOST_FREE = 10_000  # values in one of them, with those that aliases repeat
_MOST_NUMBER = 1e300  # in a Struct numbers are doubles; not a number and infinity are none
_DEEPEST_FREE = 20  # a reader of a google.protobuf.Struct need not go deeper than 100 messages, three for a level


class Located(dict[str, Any]):
    """A mapping that knows the line of the file in which it begins."""

    __slots__ = ("line",)

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


class YamlTextError(Exception):
    """What cannot be read. `plain`: the message says all by itself, without "error loading"."""

    def __init__(self, message: str, *, plain: bool = False) -> None:
        self.plain = plain
        super().__init__(message)


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where the wheel has it: ten times faster


class _TextLoader(_Base):  # type: ignore[misc] # one of two classes
    """Scalars as text, null as None, mappings and lists."""


def _scalar(loader: Any, node: yaml.ScalarNode) -> str | None:
    if node.tag != _STRING and loader.resolve(yaml.ScalarNode, node.value, (True, False)) != node.tag:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        raise YamlTextError(f"line {node.start_mark.line + 1}: '{node.value[:60]}' is no {kind}")
    return None if node.tag == _NULL else str(node.value)


def _sequence(loader: Any, node: yaml.SequenceNode) -> Any:
    items: list[Any] = []
    yield items
    items.extend(loader.construct_object(one) for one in node.value)


def _mapping(loader: Any, node: yaml.MappingNode) -> Any:
    mapping = Located(node.start_mark.line + 1)
    yield mapping
    own: set[str] = set()
    for key, _ in node.value:
        if key.tag == _MERGE:
            continue
        if not isinstance(key, yaml.ScalarNode) or key.tag != _STRING:
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a mapping or a list"
            raise YamlTextError(f"config error, key is not of type string: {shown}", plain=True)
        if key.value in own:
            raise YamlTextError(f"line {key.start_mark.line + 1}: key '{key.value}' stands twice in one mapping")
        own.add(key.value)
    loader.flatten_mapping(node)  # what is merged comes first, so that own keys win
    for key, value in node.value:
        free = key.value == _FREE
        mapping[key.value] = _free(loader, value, [_MOST_FREE], 0) if free else loader.construct_object(value)


def _free(loader: Any, node: yaml.Node, left: list[int], depth: int) -> Any:
    """What JSON can say of a node: dates and the like stay text. `left` counts the values that may still come."""
    left[0] -= 1
    if left[0] < 0 or depth > _DEEPEST_FREE:
        raise YamlTextError(f"line {node.start_mark.line + 1}: {_FREE} holds too much, or too deep")
    if isinstance(node, yaml.SequenceNode):
        return [_free(loader, one, left, depth + 1) for one in node.value]
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        return {_free_key(key): _free(loader, value, left, depth + 1) for key, value in node.value}
    assert isinstance(node, yaml.ScalarNode)
    assert isinstance(node, yaml.ScalarNode)  # there is no other kind
    text = _scalar(loader, node)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "bool":
        return loader.construct_yaml_bool(node)
    if kind in ("int", "float"):
        number = loader.construct_yaml_int(node) if kind == "int" else loader.construct_yaml_float(node)
        return number if abs(number) < _MOST_NUMBER else text
    return text


def _free_key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlTextError(f"line {node.start_mark.line + 1}: a key in {_FREE} is a mapping or a list")
    return str(node.value)


_TextLoader.add_constructor(None, yaml.SafeLoader.construct_undefined)
for _tag in ("str", "null", "bool", "int", "float", "timestamp", "binary", "value"):
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _scalar)
_TextLoader.add_constructor("tag:yaml.org,2002:seq", _sequence)
_TextLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(text: str) -> dict[str, Any]:
    """The document as a mapping; an empty one is an empty mapping. Raises `YamlTextError`."""
    if len(text) > MAX_FILE_BYTES:
        raise YamlTextError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    if _too_deep(text):
        raise YamlTextError("nested too deeply")
    try:
        content = yaml.load(text, Loader=_TextLoader)  # noqa: S506 - it makes text, lists and mappings alone
    except (yaml.YAMLError, ValueError) as error:
        raise YamlTextError(str(error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise YamlTextError("it must hold a domain and its descriptors")
    return content


def _too_deep(text: str) -> bool:
    """Whether the text may be nested too deeply to be read; brackets inside of strings count, too."""
    if _INDENT.search(text):
        return True
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > _DEEPEST:
            return True
    return False
