"""Rule files that cannot be used, and what is said of them: envoyproxy/ratelimit's words, after the file's name."""

from __future__ import annotations

BROKEN: dict[str, str] = {
    "": "config file cannot have empty domain",
    "descriptors: []": "config file cannot have empty domain",
    "domain: d\nfoo: 1": "config error, unknown key 'foo'",
    "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, rpu: 1}}]": "config error, unknown key 'rpu'",
    "domain: d\n1: 2": "config error, key is not of type string: 1",
    "domain: d\ndescriptors: [1]": "config error, yaml file contains list of type other than map: 1",
    "domain: d\ndescriptors: [{value: a}]": "descriptor has empty key",
    "domain: d\ndescriptors: [{key: a}, {key: a}]": "duplicate descriptor composite key 'd.a'",
    "domain: d\ndescriptors: [{key: a_b}, {key: a, value: b}]": "duplicate descriptor composite key 'd.a_b'",
    "domain: d\ndescriptors: [{key: a, descriptors: [{key: b}, {key: b}]}]": "duplicate descriptor composite key 'd.a.b'",
    "domain: d\ndescriptors: [{key: a, rate_limit: {unit: foo}}]": "invalid rate limit unit 'foo'",
    "domain: d\ndescriptors: [{key: a, rate_limit: {}}]": "invalid rate limit unit ''",
    "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, unlimited: true}}]": (
        "should not specify rate limit unit when unlimited"
    ),
    "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, name: x, replaces: [{name: x}]}}]": (
        "replaces should not contain name of same descriptor"
    ),
    "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, replaces: [{name: ''}]}}]": (
        "should not have an empty replaces entry"
    ),
}

# In words of our own, because the YAML reader is another one, or because the rule is newer.
OTHERWISE: dict[str, str] = {
    "domain: [": "error loading config file: ",
    "x": "error loading config file: ",
    "[]": "error loading config file: ",
    "domain: d\ndescriptors: x": "error loading config file: ",
    "domain: d\ndescriptors: [{key: a, rate_limit: 5}]": "error loading config file: ",
    "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: -1}}]": "error loading config file: ",
    "domain: d\ndescriptors: [{key: a, value: b, share_threshold: true}]": (
        "share_threshold can only be used with wildcard values"
    ),
}

USABLE: tuple[str, ...] = (
    "domain: d",
    "domain: 5\ndescriptors: [{key: 404, value: no}]",
    "domain: d\ndescriptors: [{key: a, rate_limit: }]",
    "domain: d\ndescriptors: [{key: a, value: 'x*', share_threshold: true}]",
    "domain: d\ndescriptors: [{key: a, rate_limit: {unlimited: true}}]",
    "domain: d\ndescriptors: [{key: a, rate_limit: {unit: WeeK, requests_per_unit: 0}}]",
)
