"""`helm` and `kubectl` for the commands of a page: the real ones, and a `Node` for what a cluster would do with objects.

Without a cluster Helm renders and checks as it does (`template`, `lint`, `install --dry-run=client`); with one (`make kube`)
every command that does not need a running pod goes there, too. A rollout is done when the command returns.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.helm.chart import Json, documents
from tests.helm.node import Node, Pod
from tests.helm.tools import tools
from tests.page import ROOT, programs

Answer = tuple[int, str]
# A Service's port below 1024 is not for everybody.
PORT = "8080"


@dataclass(slots=True)
class Revision:
    """What one `helm install`, `upgrade` or `rollback` has put there."""

    number: int
    objects: list[Json]
    tests: list[Json]


@dataclass
class StandIn:
    """Answers for one release in one namespace. `kubeconfig`: that of a real API server, to be asked as well."""

    node: Node
    folder: Path
    kubeconfig: Path | None = None
    revisions: list[Revision] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    running: dict[str, list[Pod]] = field(default_factory=dict)
    rolled_out: bool = True

    def __enter__(self) -> StandIn:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        here = f"env PYTHONPATH={ROOT} {sys.executable} -m tests.helm.stand_in {self._server.server_address[1]}"
        programs(self.folder / "bin", {name: f"{here} {name}" for name in ("helm", "kubectl")})
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, program: str, words: list[str], stdin: str, folder: Path) -> Answer:
        """What a command says, and its exit status."""
        self.asked.append(shlex.join([program, *words]))
        if program == "kubectl" and words[:1] == ["-n"]:
            words = [*words[2:], *words[:2]] if "--" not in words else words[2:]
        name = f"_{program}_{words[0].replace('-', '_')}"
        handler: Callable[[list[str], str, Path], Answer] | None = getattr(self, name, None)
        assert handler is not None, f"{program} {words[0]} is not known here"
        return handler(words, stdin, folder)

    # --- Helm

    def _helm_template(self, words: list[str], stdin: str, folder: Path) -> Answer:
        return self._run(tools().helm, words, folder, stdin)

    _helm_lint = _helm_template

    def _helm_install(self, words: list[str], stdin: str, folder: Path) -> Answer:
        code, said = self._real(tools().helm, words, folder) or self._run(
            tools().helm, ["install", *words[1:], "--dry-run=client"], folder
        )
        if code:
            return code, said
        code, text = self._run(
            tools().helm, ["template", *words[1:], "--set", f"service.port={PORT}", "--kube-version", "1.34"], folder
        )
        assert code == 0, text
        everything = documents(text)
        tests = [one for one in everything if one["kind"] == "Pod"]
        self._put(Revision(len(self.revisions) + 1, [one for one in everything if one not in tests], tests))
        return 0, said.partition("\nNOTES:\n")[2] or said

    _helm_upgrade = _helm_install

    def _helm_rollback(self, words: list[str], stdin: str, folder: Path) -> Answer:
        self._real(tools().helm, words, folder)
        wanted = next((int(word) for word in words if word.isdigit()), self.revisions[-1].number - 1)
        then = self.revisions[wanted - 1]
        self._put(Revision(len(self.revisions) + 1, then.objects, then.tests))
        return 0, "Rollback was a success! Happy Helming!\n"

    def _helm_history(self, words: list[str], stdin: str, folder: Path) -> Answer:
        return self._real(tools().helm, words, folder) or (0, "".join(f"{one.number}\n" for one in self.revisions))

    def _helm_test(self, words: list[str], stdin: str, folder: Path) -> Answer:
        said, worst = "", 0
        for test in self.revisions[-1].tests:
            pod = self.node.start(test["spec"], test["metadata"]["labels"])
            code = max(pod.wait().values())
            said += f"TEST SUITE:     {test['metadata']['name']}\nPhase:          {'Failed' if code else 'Succeeded'}\n"
            said += pod.log("test") if code else ""
            worst = max(worst, code)
        return worst, said

    def _helm_uninstall(self, words: list[str], stdin: str, folder: Path) -> Answer:
        self._real(tools().helm, words, folder)
        self._put(Revision(len(self.revisions) + 1, [], []))
        return 0, f'release "{words[1]}" uninstalled\n'

    def _put(self, revision: Revision) -> None:
        before = {_name(one): one for one in self.revisions[-1].objects} if self.revisions else {}
        self.revisions.append(revision)
        self.node.apply(revision.objects)
        wanted = {_name(one): one for one in revision.objects if one["kind"] == "Deployment"}
        # Others first: what Headgate speaks with.
        for name, one in sorted(wanted.items(), key=lambda pair: pair[0] == "Deployment/headgate"):
            if name not in before or before[name]["spec"]["template"] != one["spec"]["template"]:
                self._roll(name, one)
        for name in [one for one in self.running if one not in wanted]:
            for pod in self.running.pop(name):
                pod.delete()

    def _roll(self, name: str, deployment: Json) -> None:
        """One new pod is ready, then one old pod ends; a new one that is never ready ends nobody."""
        old = self.running.get(name, [])
        new: list[Pod] = []
        for _ in range(deployment["spec"].get("replicas", 1)):
            pod = self.node.deploy(deployment)
            try:
                pod.until_ready()
            except AssertionError as error:
                self.rolled_out = False
                print(error, file=sys.stderr)
                return
            new.append(pod)
            if old:
                old.pop(0).delete()
        for pod in old:
            pod.delete()
        self.running[name] = new
        self.rolled_out = True

    # --- kubectl

    def _kubectl_create(self, words: list[str], stdin: str, folder: Path) -> Answer:
        if "--dry-run=client" in words:
            return self._run(tools().kubectl, words, folder)
        return self._real(tools().kubectl, words, folder) or self._run(
            tools().kubectl, [*words, "--dry-run=client"], folder
        )

    def _kubectl_label(self, words: list[str], stdin: str, folder: Path) -> Answer:
        return self._real(tools().kubectl, words, folder) or (0, "namespace labeled\n")

    def _kubectl_apply(self, words: list[str], stdin: str, folder: Path) -> Answer:
        done = self._real(tools().kubectl, words, folder, stdin)
        objects = documents(stdin)
        if done is None or done[0] == 0:
            self.node.apply(objects)
        return done or (0, "".join(f"{_name(one)} configured\n" for one in objects))

    def _kubectl_delete(self, words: list[str], stdin: str, folder: Path) -> Answer:
        names = [word for word in words[2:] if not word.startswith("-")]
        for one in names:
            self.node.objects.pop((words[1].title(), one), None)
        return self._real(tools().kubectl, [*words, "--wait=false"], folder) or (0, f"{names} deleted\n")

    def _kubectl_rollout(self, words: list[str], stdin: str, folder: Path) -> Answer:
        if words[1] == "restart":
            self._real(tools().kubectl, words, folder)
            name = words[2].replace("deployment", "Deployment")
            self._roll(name, next(one for one in self.revisions[-1].objects if _name(one) == name))
            return 0, "restarted\n"
        return (0, "successfully rolled out\n") if self.rolled_out else (1, "exceeded its progress deadline\n")

    def _pod(self) -> Pod:
        return next(pod for pod in self.running["Deployment/headgate"] if not pod.terminating)

    def _kubectl_exec(self, words: list[str], stdin: str, folder: Path) -> Answer:
        command = words[words.index("--") + 1 :]
        if command[1:2] == ["status"]:
            command += ["--admin", "127.0.0.1:10001"]  # which `Node` makes this pod's
        done = self._pod().exec(words[words.index("-c") + 1], command)
        return done.returncode, done.stdout + done.stderr

    def _kubectl_logs(self, words: list[str], stdin: str, folder: Path) -> Answer:
        return 0, self._pod().log(words[words.index("-c") + 1])

    def _kubectl_port_forward(self, words: list[str], stdin: str, folder: Path) -> Answer:
        return 0, f"{self._pod().address}:10000"

    # ---

    def _real(self, program: Path, words: list[str], folder: Path, stdin: str = "") -> Answer | None:
        """What the cluster says; None where there is none. Raises `AssertionError` when it refuses."""
        if self.kubeconfig is None:
            return None
        code, said = self._run(program, words, folder, stdin)
        assert code == 0, f"{words}: {said}"
        return code, said

    def _run(self, program: Path, words: list[str], folder: Path, stdin: str = "") -> Answer:
        known = {**os.environ, "KUBECONFIG": str(self.kubeconfig or folder / "no-kubeconfig"), "HOME": str(self.folder)}
        done = subprocess.run(
            [program, *words],
            cwd=folder,
            env=known,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            try:
                code, said = stand_in.answer(asked["program"], asked["words"], asked["stdin"], Path(asked["folder"]))
            except Exception as error:  # the page's command fails with it
                code, said = 1, f"{type(error).__name__}: {error}\n"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps([code, said]).encode())

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def forward(port: int, address: str) -> None:
    """As `kubectl port-forward` does: to one pod, until it is killed or the pod ends."""
    host, _, target = address.rpartition(":")
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            client, _ = server.accept()
            try:
                pod = socket.create_connection((host, int(target)), 5)
            except OSError:
                sys.exit("lost connection to pod")
            threading.Thread(target=_copy, args=(client, pod), daemon=True).start()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with one, other:
        while True:
            for ready in select.select([one, other], [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                (other if ready is one else one).sendall(data)


def main() -> None:
    """`python -m tests.helm.stand_in PORT PROGRAM WORDS…`"""
    port, program, *words = sys.argv[1:]
    stdin = sys.stdin.read() if words[:1] == ["apply"] or "-f -" in " ".join(words) else ""
    asked = json.dumps({"program": program, "words": words, "stdin": stdin, "folder": str(Path.cwd())}).encode()
    with urlopen(f"http://127.0.0.1:{port}", asked, timeout=300) as answer:
        code, said = json.load(answer)
    if "port-forward" in words and code == 0:
        forward(int(re.findall(r"(\d+):\d+", shlex.join(words))[0]), said)
    (sys.stderr if code else sys.stdout).write(said)
    sys.exit(code)


if __name__ == "__main__":
    main()
