"""A question that may also be answered by meaning."""

from __future__ import annotations

from dataclasses import dataclass, field

from extproc.cache.key import make_key
from extproc.cache.question import Question
from extproc.semantic import frame
from extproc.semantic.frame import Framed, Unfit
from extproc.semantic.rules import SemanticRules


@dataclass(slots=True)
class Learned:
    """What is found out about a question on its way, for when its answer is kept."""

    place: bytes = b""  # where its vector belongs
    vector: bytes = b""


@dataclass(slots=True, kw_only=True)
class SemanticQuestion(Question):
    """`tenant`, `marks` and `salt` are those of its exact key, but for the tenant, which is of the semantic scope."""

    semantic: SemanticRules
    canonical: bytes
    tenant: str
    marks: tuple[str, ...]
    salt: bytes
    learned: Learned = field(default_factory=Learned, compare=False)

    def framed(self) -> Framed | Unfit:
        """Its text and its frame, or why it has none."""
        rules = self.semantic
        return frame.read(self.operation, self.canonical, allow_tools=rules.allow_tools, max_text=rules.max_text)

    def place(self, framed: Framed, dimensions: int) -> bytes:
        """Where the vectors of this frame are: 32 bytes that differ where anything but the words of the text differs.

        So nothing has to be filtered: what is searched holds nobody else's, and no other frame's questions.
        """
        rules = self.semantic
        marks = (*self.marks, "semantic", *rules.embeddings.marks, str(dimensions), *framed.numbers)
        return make_key(rules.scope, self.tenant, self.operation, self.key.model, framed.frame, marks, self.salt).digest
