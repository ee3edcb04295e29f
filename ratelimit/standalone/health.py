"""Whether the service is healthy: the parts that it needs, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

STORE, RULES, RUNNING = "store", "rules", "running"


class Health:
    """Healthy while every part is. `changed` is called when that changes, not before."""

    def __init__(self, parts: Mapping[str, bool], changed: Callable[[bool], None] = lambda _healthy: None) -> None:
        self._parts = dict(parts)
        self._changed = changed

    @property
    def healthy(self) -> bool:
        """Whether every part is well."""
        return all(self._parts.values())

    @property
    def parts(self) -> Mapping[str, bool]:
        """Each part by name, and whether it is well."""
        return dict(self._parts)

    def report(self, part: str, *, well: bool) -> None:
        """How a part is from now on."""
        before = self.healthy
        self._parts[part] = well
        if self.healthy is not before:
            self._changed(self.healthy)
