"""The providers of a new configuration while it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from extproc.settings import ProviderSettings
from headgate.importing.document import Document
from headgate.importing.secrets import Secrets, resolved


@dataclass(slots=True)
class Providers:
    """The providers so far: what shares address, key and rest shares one."""

    document: Document
    secrets: Secrets
    _names: dict[str, str] = field(default_factory=dict)

    def name(self, wanted: str, settings: dict[str, Any]) -> str:
        """The provider with these settings, by its name or a new one like `wanted`."""
        signature = repr(settings)
        if signature in self._names:
            return self._names[signature]
        wanted = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:56] or "provider"
        taken = set(self._names.values())
        name = next(one for one in (wanted, *(f"{wanted}-{n}" for n in range(2, 10_000))) if one not in taken)
        self._names[signature] = name
        self.document.values.setdefault("providers", {})[name] = settings
        return name


def fault(settings: dict[str, Any], secrets: Secrets) -> str:
    """What of a provider's block cannot be used; "" when all can."""
    try:
        ProviderSettings.model_validate(resolved(settings, secrets))
    except ValidationError as error:
        where = error.errors(include_url=False, include_input=False)[0]["loc"]
        return str(where[0]) if where else "provider"
    return ""
