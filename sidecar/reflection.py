"""grpc.reflection.v1alpha, so that grpcurl and its like work, for any engine."""

from __future__ import annotations

from collections.abc import Sequence

from grpc_reflection.v1alpha import reflection, reflection_pb2

from sidecar.rpc import DONE, Service, Step, StreamMethod


class _Reflection:
    """Answers one message after the other; grpcio-reflection knows the answers."""

    def __init__(self, answers: reflection.ReflectionServicer) -> None:
        self._answers = answers

    def on_message(self, message: reflection_pb2.ServerReflectionRequest) -> Step:
        return Step(tuple(self._answers.ServerReflectionInfo(iter([message]), None)))

    def on_end(self) -> Step:
        return DONE

    def on_close(self) -> None:
        return


def reflection_service(names: Sequence[str]) -> Service:
    """The service that describes the services of these names."""
    answers = reflection.ReflectionServicer([*names, reflection.SERVICE_NAME])
    request = reflection_pb2.ServerReflectionRequest
    return Service(
        reflection.SERVICE_NAME, (StreamMethod("ServerReflectionInfo", request, lambda _context: _Reflection(answers)),)
    )
