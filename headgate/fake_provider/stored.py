"""What a provider keeps: files, and batches that run over them."""

from __future__ import annotations

from typing import Any

import msgspec

from headgate.fake_provider import replies
from headgate.fake_provider.answer import CREATED, Answer, encode, error, whole
from headgate.fake_provider.asked import Asked, BadRequestError
from headgate.fake_provider.behaviour import Behaviour

_ENDED = ("completed", "cancelled")


class Stored:
    """Files and batches by id. A batch moves one step each time it is looked at."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def clear(self) -> None:
        """Lose everything."""
        self._files.clear()
        self._batches.clear()

    def answer(self, asked: Asked, behaviour: Behaviour) -> Answer:
        """The answer to anything under /files and /batches."""
        kind, _, rest = asked.operation.partition("/")
        held: dict[str, Any] = self._files if kind == "files" else self._batches
        if rest and asked.item not in held:
            return error(404, f"No such {kind.removesuffix('s')}: {asked.item}", "not_found")
        made = {
            ("POST", "files"): self._upload,
            ("GET", "files"): self._list_files,
            ("GET", "files/item"): self._file,
            ("DELETE", "files/item"): self._delete,
            ("POST", "batches"): self._create,
            ("GET", "batches"): self._list_batches,
            ("GET", "batches/item"): self._look,
            ("POST", "batches/item/cancel"): self._cancel,
        }.get((asked.method, asked.operation))
        if (asked.method, asked.operation) == ("GET", "files/item/content"):
            return Answer(200, "application/octet-stream", (self._files[asked.item][1],))
        if made is None:
            return error(405, f"{asked.method} is not for {asked.path}")
        return whole(made(asked), behaviour)

    def _keep(self, filename: str, content: bytes, purpose: str) -> dict[str, Any]:
        made = {
            "id": f"file-{len(self._files) + 1}", "object": "file", "bytes": len(content), "created_at": CREATED,
            "filename": filename, "purpose": purpose, "status": "processed",
        }  # fmt: skip
        while made["id"] in self._files:
            made["id"] += "x"
        self._files[str(made["id"])] = (made, content)
        return dict(made)

    def _upload(self, asked: Asked) -> dict[str, Any]:
        upload = asked.files.get("file")
        if upload is None or "purpose" not in asked.fields:
            raise BadRequestError("file and purpose are needed.")
        return self._keep(upload.filename, upload.content, asked.fields["purpose"])

    def _list_files(self, asked: Asked) -> dict[str, Any]:
        return {"object": "list", "data": [made for made, _ in self._files.values()], "has_more": False}

    def _file(self, asked: Asked) -> dict[str, Any]:
        return dict(self._files[asked.item][0])

    def _delete(self, asked: Asked) -> dict[str, Any]:
        del self._files[asked.item]
        return {"id": asked.item, "object": "file", "deleted": True}

    def _create(self, asked: Asked) -> dict[str, Any]:
        source = asked.fields.get("input_file_id")
        if source not in self._files:
            raise BadRequestError(f"No such file: {source}")
        made = {
            "id": f"batch_{len(self._batches) + 1}", "object": "batch", "created_at": CREATED, "status": "validating",
            "endpoint": asked.fields.get("endpoint", "/v1/chat/completions"), "input_file_id": source,
            "completion_window": asked.fields.get("completion_window", "24h"), "output_file_id": None,
            "error_file_id": None, "metadata": asked.fields.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        self._batches[str(made["id"])] = made
        return dict(made)

    def _list_batches(self, asked: Asked) -> dict[str, Any]:
        return {"object": "list", "data": list(self._batches.values()), "has_more": False}

    def _look(self, asked: Asked) -> dict[str, Any]:
        batch = self._batches[asked.item]
        if batch["status"] == "cancelling":
            batch["status"] = "cancelled"
        elif batch["status"] not in _ENDED:
            self._run(batch)
        return dict(batch)

    def _cancel(self, asked: Asked) -> dict[str, Any]:
        batch = self._batches[asked.item]
        if batch["status"] not in _ENDED:
            batch["status"] = "cancelling"
        return dict(batch)

    def _run(self, batch: dict[str, Any]) -> None:
        _, content = self._files.get(batch["input_file_id"], ({}, b""))
        lines = []
        for number, line in enumerate(filter(None, content.splitlines())):
            try:
                one = msgspec.json.decode(line)
                asked = Asked("POST", one["url"], one["url"].removeprefix("/v1/"), "", {**one["body"], "stream": False})
                body = msgspec.Raw(replies.answer(asked, Behaviour()).pieces[0])
                given: dict[str, Any] = {"status_code": 200, "request_id": f"req_{number}", "body": body}
                lines.append({"id": f"batch_req_{number}", "custom_id": one.get("custom_id"), "response": given})
            except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
                batch["request_counts"]["failed"] += 1
        batch["request_counts"]["completed"] = len(lines)
        batch["request_counts"]["total"] = len(lines) + batch["request_counts"]["failed"]
        output = self._keep("output.jsonl", b"\n".join(encode(line) for line in lines), "batch_output")
        batch |= {"status": "completed", "output_file_id": output["id"]}
