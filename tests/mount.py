"""Folders as the kubelet mounts them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path


class Mount:
    """A ConfigMap or Secret as a folder: names are links into `..data`, which is swapped whole."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self._generations = itertools.count(1)
        folder.mkdir()
        self.swap(files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def swap(self, files: Mapping[str, str]) -> None:
        """Other content, in one move."""
        generation = self.folder / f"..generation-{next(self._generations)}"
        generation.mkdir()
        for name, text in files.items():
            (generation / name).write_text(text)
        link = self.folder / "..data-new"
        link.symlink_to(generation.name)
        link.replace(self.folder / "..data")
