"""Providers' keys as Envoy secrets: the one place where a key is resolved."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from extproc.providers.dialect import DIALECTS
from extproc.targets import Channel, channels
from headgate.render.layout import provider_secret
from headgate.render.values import Json
from headgate.settings import Settings
from sidecar.configfile import ConfigFile, KeyPath, dotted, resolve
from sidecar.errors import ConfigError, Problem
from sidecar.tls import trusting

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105
REDACTED = "<redacted>"
SERVICE_CA = "services_ca"
SERVICE_CLIENT = "services_client"


def credentials(settings: Settings, file: ConfigFile, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What goes into the credential header for every key of every provider, by `Channel.secret`.

    Raises `ConfigError` when a reference leads nowhere or a key holds what no header may hold.
    """
    found: dict[str, str] = {}
    problems: list[Problem] = []
    for name, channel, written, path in _keys(settings):
        place, where = file.place(path), dotted(path)
        try:
            key = resolve(written, os.environ if environment is None else environment, Path(file.name).parent)
        except LookupError as error:
            problems.append(Problem(place, where, str(error.args[0]), str(error.args[1])))
            continue
        if key.startswith("$"):
            problems.append(Problem(place, where, "the key looks like a reference", "write ${NAME}"))
        elif not key.isascii() or not key.isprintable() or " " in key:
            problems.append(
                Problem(place, where, "the key holds spaces or control characters", "check how it was copied")
            )
        elif key:
            found[channel.secret] = DIALECTS[settings.providers[name].dialect].credential(key)
    if problems:
        raise ConfigError(problems)
    return found


def redacted(settings: Settings) -> dict[str, str]:
    """The same without the keys."""
    return {channel.secret: REDACTED for _, channel, _, _ in _keys(settings)}


def _keys(settings: Settings) -> Iterator[tuple[str, Channel, str, KeyPath]]:
    """Every key that is written down: its provider, a channel that uses it, the text, and where it stands."""
    for name, provider in settings.providers.items():
        by_number = {channel.key: channel for channel in channels(name, provider)}
        for number, key in enumerate(provider.credentials):
            written = key.get_secret_value()
            if written:
                place: KeyPath = ("api_keys", number) if provider.api_keys else ("api_key",)
                yield name, by_number[number], written, ("providers", name, *place)


def check_files(settings: Settings, file: ConfigFile) -> None:
    """Raise `ConfigError` when a certificate or key that Envoy is to read cannot be used."""
    problems: list[Problem] = []
    if settings.tls is not None:
        problems += _pair_problems(file, ("tls",), settings.tls.cert, settings.tls.key)
    service = settings.services.tls
    if service is not None:
        pairs = (("cert", service.cert, service.key), ("client_cert", service.client_cert, service.client_key))
        for field, cert, key in pairs:
            problems += _pair_problems(file, ("services", "tls", field), cert, key)
        for field, bundle in (("ca", service.ca), ("client_ca", service.client_ca)):
            problems += _ca_problems(file, ("services", "tls", field), bundle)
    for name, provider in settings.providers.items():
        problems += _ca_problems(file, ("providers", name, "tls", "ca"), provider.tls.ca)
    if problems:
        raise ConfigError(problems)


def _pair_problems(file: ConfigFile, path: KeyPath, cert: str, key: str) -> list[Problem]:
    if not cert:
        return []
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key or None)
    except (OSError, ValueError) as error:
        reason = f"the certificate or its key cannot be used: {error}"
        return [Problem(file.place(path), dotted(path), reason, "certificate and key are paths of PEM files")]
    return []


def _ca_problems(file: ConfigFile, path: KeyPath, bundle: str) -> list[Problem]:
    if not bundle:
        return []
    try:
        trusting(bundle)
    except (OSError, ValueError) as error:
        reason = f"the CA bundle cannot be used: {error}"
        return [Problem(file.place(path), dotted(path), reason, "it is the path of a PEM file")]
    return []


def secret(name: str, credential: str) -> Json:
    """An Envoy generic secret."""
    return {"name": provider_secret(name), "generic_secret": {"secret": {"inline_string": credential}}}


def tls_secret(settings: Settings) -> Json | None:
    """The listener's certificate, by path, so that Envoy reads the key and we do not."""
    if settings.tls is None:
        return None
    return {"name": "listener_certificate", "tls_certificate": _certificate(settings.tls.cert, settings.tls.key)}


def service_secrets(settings: Settings) -> list[Json]:
    """What Envoy trusts and shows towards our services, by path: read again when files are moved into their folders."""
    tls = settings.services.tls
    if tls is None:
        return []
    ca = Path(tls.ca or tls.cert).absolute()
    trusted: Json = {"trusted_ca": {"filename": str(ca)}, "watched_directory": {"path": str(ca.parent)}}
    found: list[Json] = [{"name": SERVICE_CA, "validation_context": trusted}]
    if tls.client_cert:
        found.append({"name": SERVICE_CLIENT, "tls_certificate": _certificate(tls.client_cert, tls.client_key)})
    return found


def _certificate(cert: str, key: str) -> Json:
    chain, private = Path(cert).absolute(), Path(key).absolute()
    return {
        "certificate_chain": {"filename": str(chain)},
        "private_key": {"filename": str(private)},
        "watched_directory": {"path": str(chain.parent)},
    }
