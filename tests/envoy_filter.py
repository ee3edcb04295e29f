"""Applies an Istio EnvoyFilter to a static bootstrap, as pilot applies it to what it makes of a gateway.

Only what our EnvoyFilter uses: ADD of clusters and virtual hosts, INSERT_BEFORE and MERGE of filters, MERGE of
listeners (pilot/pkg/networking/core/envoyfilter: clusters, then listeners from the outside in, then routes).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


def apply(bootstrap: Json, envoy_filter: Json) -> Json:
    """The bootstrap with every patch in it. Raises `AssertionError` when one changes nothing."""
    made = copy.deepcopy(bootstrap)
    for patch in envoy_filter["spec"]["configPatches"]:
        assert patch["match"]["context"] == "GATEWAY"
        assert _apply(made, patch), patch
    return made


def _apply(bootstrap: Json, patch: Json) -> bool:
    value = copy.deepcopy(patch["patch"]["value"])
    match, listeners = patch["match"], bootstrap["static_resources"]["listeners"]
    what = (patch["applyTo"], patch["patch"]["operation"])
    if what == ("CLUSTER", "ADD"):
        bootstrap["static_resources"]["clusters"].append(value)
        return True
    if what == ("LISTENER", "MERGE"):
        found = [one for one in listeners if _port(one) == match["listener"]["portNumber"]]
        for listener in found:
            merge(listener, value)
        return bool(found)
    if what == ("VIRTUAL_HOST", "ADD"):
        hosts = list(_route_configurations(listeners, match["routeConfiguration"]))
        for host in hosts:
            host["virtual_hosts"].append(value)
        return bool(hosts)
    return _apply_filter(listeners, match["listener"]["filterChain"], what, value)


def _apply_filter(listeners: list[Json], match: Json, what: tuple[str, str], value: Json) -> bool:
    managers = list(_filters(listeners, match))
    for one in managers:
        if what == ("NETWORK_FILTER", "MERGE"):
            assert one["name"] == value["name"]
            merge(one["typed_config"], value["typed_config"])
            continue
        filters = one["typed_config"]["http_filters"]
        index = [each["name"] for each in filters].index(match["filter"]["subFilter"]["name"])
        if what == ("HTTP_FILTER", "INSERT_BEFORE"):
            filters.insert(index, copy.deepcopy(value))
        else:
            assert what == ("HTTP_FILTER", "MERGE")
            merge(filters[index]["typed_config"], value["typed_config"])
    return bool(managers)


def _port(listener: Json) -> int:
    return int(listener["name"].rpartition("_")[2])  # the test moves the address to a free one


def _filters(listeners: list[Json], match: Json) -> Iterator[Json]:
    for listener in listeners:
        for chain in listener["filter_chains"]:
            if match["sni"] in chain.get("filter_chain_match", {}).get("server_names", ()):
                yield from (one for one in chain["filters"] if one["name"] == match["filter"]["name"])


def _route_configurations(listeners: list[Json], match: Json) -> Iterator[Json]:
    for listener in listeners:
        for chain in listener["filter_chains"]:
            config = chain["filters"][0]["typed_config"]["route_config"]
            # https.PORT.PORTNAME.GATEWAY.NAMESPACE (model.ParseGatewayRDSRouteName)
            parts = config["name"].split(".")
            if len(parts) == 5 and f"{parts[4]}/{parts[3]}" == match["gateway"]:
                yield config


def merge(into: Json, value: Json) -> None:
    """As protobuf merges messages: lists are joined, scalars replaced."""
    for key, one in value.items():
        if isinstance(one, dict) and isinstance(into.get(key), dict):
            merge(into[key], one)
        elif isinstance(one, list) and isinstance(into.get(key), list):
            into[key] = [*into[key], *one]
        else:
            into[key] = one
