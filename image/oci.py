"""Packs a file system into an OCI image archive (image-spec v1), the same bytes for the same files.

`docker load`, `podman load`, `skopeo copy oci-archive:…` and registries take it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from image.rootfs import HOME, USER

# The chart's image.
NAME = f"ghcr.io/headgate/headgate:{version('headgate')}"
_OWNED = ("run/headgate",)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def pack(root: Path, when: int) -> bytes:
    """The one layer: every file in order, owned by root, all of one time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as layer:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            entry = layer.gettarinfo(path, name)
            assert entry is not None, f"{path} is neither a file nor a folder nor a link: was something run in there?"
            owner = USER if name in _OWNED else 0
            entry.uid = entry.gid = owner
            entry.uname = entry.gname = ""
            entry.mtime = when
            if entry.isreg():
                with path.open("rb") as stream:
                    layer.addfile(entry, stream)
            else:
                layer.addfile(entry)
    return raw.getvalue()


def archive(root: Path, target: Path, *, reference: str, when: int, level: int = 6) -> str:
    """Write the archive; returns the digest of the manifest, by which the image is known."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        described = {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
        blobs[blob_name(described)] = data
        return described

    raw = pack(root, when)
    layer = blob(gzip.compress(raw, level, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    config = {
        "architecture": _MACHINES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "Env": [f"PATH={HOME}/bin"],
            "Entrypoint": [f"{HOME}/bin/headgate"],
            "WorkingDir": "/",
            "Labels": {"org.opencontainers.image.title": "headgate", "org.opencontainers.image.licenses": "Apache-2.0"},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(raw).hexdigest()}"]},
    }
    described = blob(json.dumps(config, sort_keys=True).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described,
        "layers": [layer],
    }
    entry = blob(json.dumps(manifest, sort_keys=True).encode(), manifest["mediaType"])  # type: ignore[arg-type]
    # The second is the name that containerd (and with it kind) gives it.
    entry["annotations"] = {"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference}
    # For a `docker load` that knows no OCI layout, as `docker save` writes it.
    docker = {"Config": blob_name(described), "RepoTags": [reference], "Layers": [blob_name(layer)]}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}, sort_keys=True).encode(),
        "manifest.json": json.dumps([docker], sort_keys=True).encode(),
        **blobs,
    }
    with tarfile.open(target, "w") as whole:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), when
            whole.addfile(info, io.BytesIO(data))
    return str(entry["digest"])


def blob_name(described: Mapping[str, Any]) -> str:
    """Where a described blob lies in the archive."""
    return "blobs/" + str(described["digest"]).replace(":", "/")


def main() -> None:
    """`python -m image.oci FOLDER ARCHIVE [--reference NAME:TAG]`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--reference", default=NAME, help="what it is called where it is loaded")
    parser.add_argument("--level", type=int, default=6, help="of gzip")
    given = parser.parse_args()
    when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    print(archive(given.folder, given.archive, reference=given.reference, when=when, level=given.level))


if __name__ == "__main__":
    main()
