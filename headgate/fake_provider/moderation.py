"""Moderations in OpenAI's wire format."""

from __future__ import annotations

from headgate.fake_provider.answer import Answer, whole
from headgate.fake_provider.asked import Asked
from headgate.fake_provider.behaviour import Behaviour

_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def answer(asked: Asked, behaviour: Behaviour) -> Answer:
    """One result for each input: harmless, or flagged for violence when the behaviour says so."""
    found = asked.fields.get("input")
    bad = behaviour.flagged
    result = {
        "flagged": bad,
        "categories": {name: bad and name == "violence" for name in _CATEGORIES},
        "category_scores": {name: 0.9 if bad and name == "violence" else 0.001 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    many = len(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else 1
    model = asked.model or "omni-moderation-latest"
    return whole({"id": "modr-fake", "model": model, "results": [result] * many}, behaviour)
