"""Secrets for an Envoy that we do not run: in its configuration, or in files that it watches (SDS).

Files fit a mounted Kubernetes Secret: Envoy watches the folder, so a new key is taken without a restart
(envoy.config.core.v3.PathConfigSource, `watched_directory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headgate.render.secrets import SECRET_TYPE, secret, service_secrets
from headgate.render.values import Json
from headgate.settings import Settings

SECRET_PREFIX = "headgate_"  # noqa: S105 - of the names of our secrets


@dataclass(frozen=True, slots=True)
class Secrets:
    """How Envoy learns the providers' keys and our services' certificates.

    `values` has the credentials by `Channel.secret`. With `folder` they stand in SDS files there (`sds_files` writes
    them), and nothing of them is in the configuration; without it they are static secrets.
    """

    values: Mapping[str, str]
    folder: str = ""

    def source(self, name: str) -> Json:
        """What a credential or a TLS context says of the secret that is called `name` (`SecretSource`)."""
        stable = secret_name(name)
        if not self.folder:
            return {"name": stable}
        return {"name": stable, "sds_config": watched(f"{self.folder}/{secret_file(name)}", self.folder)}


def secret_name(name: str) -> str:
    """The name of a secret in an Envoy that is not ours: it stays when the provider's definition changes."""
    if name.startswith(SECRET_PREFIX):
        return name
    stem, at, rest = name.partition("@")
    return f"{SECRET_PREFIX}{stem}.{rest.rpartition('.')[2]}" if at else f"{SECRET_PREFIX}{name}"


def secret_file(name: str) -> str:
    """The SDS file of a secret below its folder. A lawful key of a Kubernetes Secret."""
    return f"{secret_name(name).removeprefix(SECRET_PREFIX)}.yaml"


def watched(path: str, folder: str) -> Json:
    """A dynamic resource file in a folder whose files may be links that are swapped together (a mounted Secret)."""
    source = {"path": path, "watched_directory": {"path": folder}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def all_secrets(settings: Settings, values: Mapping[str, str]) -> list[Json]:
    """Every secret by its name in an Envoy that is not ours (envoy.extensions.transport_sockets.tls.v3.Secret)."""
    made = [*(secret(name, value) for name, value in values.items()), *service_secrets(settings)]
    return [{**one, "name": secret_name(one["name"])} for one in made]


def sds_files(settings: Settings, values: Mapping[str, str]) -> dict[str, Json]:
    """What stands in each SDS file, by the file's name. It holds the keys."""
    return {
        secret_file(one["name"]): {"resources": [{"@type": SECRET_TYPE, **one}]}
        for one in all_secrets(settings, values)
    }
