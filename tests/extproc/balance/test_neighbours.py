"""Workers tell each other, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from extproc.balance.board import Board
from extproc.balance.neighbours import Ended, Neighbours
from extproc.balance.notice import Kind, Notice
from extproc.balance.standing import State
from tests.extproc.balance.boards import until
from tests.extproc.balance.factories import Clock, eject, healthy, limited

NOTICE = Notice(Kind.COOLING, "a", 30.0, "rate_limited (429)")


class Worker:
    """One worker's sockets, and what it hears."""

    def __init__(self, folder: Path, number: int, workers: int = 2) -> None:
        self.notices: list[Notice] = []
        self.endings: list[tuple[str, float, int]] = []

        def ended(*ending: object) -> None:
            self.endings.append(ending)  # type: ignore[arg-type]

        self.board = Neighbours(folder, number, workers, self.notices.append, ended)


async def with_two(folder: Path, run: Callable[[Worker, Worker], object]) -> tuple[Worker, Worker]:
    one, other = Worker(folder, 0), Worker(folder, 1)
    one.board.start()
    other.board.start()
    run(one, other)
    return one, other


async def close(*workers: Worker) -> None:
    for worker in workers:
        await worker.board.close()


async def test_a_notice_goes_to_all_others_and_not_to_oneself(tmp_path: Path) -> None:
    workers = [Worker(tmp_path, number, 3) for number in range(3)]
    for worker in workers:
        worker.board.start()
    workers[1].board.publish([NOTICE])
    await until(lambda: bool(workers[0].notices and workers[2].notices), "both hear")
    assert [worker.notices for worker in workers] == [[NOTICE], [], [NOTICE]]
    await close(*workers)
    assert not list(tmp_path.iterdir())


async def test_a_cool_down_and_an_ejection_arrive_in_the_others_health(tmp_path: Path) -> None:
    clock = Clock()
    healths = [healthy(clock), healthy(clock)]
    boards: list[Board] = [
        Neighbours(tmp_path, number, 2, health.heard, health.ended) for number, health in enumerate(healths)
    ]
    for board in boards:
        board.start()
    healths[0].failed(limited("a", 30))
    eject(healths[0], "b")
    boards[0].publish(healths[0].news())
    await until(lambda: healths[1].standing("b").state is State.EJECTED, "the other hears")
    assert healths[1].standing("a").seconds_left == 30
    assert healths[1].news() == ()
    for board in boards:
        await board.close()


async def test_endings_go_to_the_worker_that_decided(tmp_path: Path) -> None:
    one, other = await with_two(tmp_path, lambda one, _: one.board.ended(1, [Ended("a", 2.5, 3)]))
    one.board.ended(0, [Ended("b", 1.0)])
    one.board.ended(7, [Ended("c", 1.0)])
    await until(lambda: bool(other.endings), "the other hears")
    assert (one.endings, other.endings) == ([("b", 1.0, 1)], [("a", 2.5, 3)])
    await close(one, other)


async def test_a_neighbour_that_is_away_is_no_error(tmp_path: Path) -> None:
    one, other = Worker(tmp_path, 0), Worker(tmp_path, 1)
    one.board.publish([NOTICE])  # not started
    one.board.start()
    one.board.publish([NOTICE])
    other.board.start()
    await close(other)
    one.board.publish([NOTICE])
    again = Worker(tmp_path, 1)
    again.board.start()
    one.board.publish([NOTICE._replace(subject="b")])
    await until(lambda: bool(again.notices), "the new one hears")
    assert [notice.subject for notice in again.notices] == ["b"]
    await close(one, again)


async def test_a_path_left_over_is_taken_and_the_next_ones_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as old:
        old.bind(str(tmp_path / "health-0.sock"))
    first, second = Worker(tmp_path, 0), Worker(tmp_path, 0)
    first.board.start()
    second.board.start()
    await close(first)
    assert (tmp_path / "health-0.sock").exists()
    await close(second)


async def test_many_notices_arrive_though_the_neighbour_reads_late(tmp_path: Path) -> None:
    many = [NOTICE._replace(subject=str(number), reason="x" * 1_000) for number in range(3_000)]
    one, other = await with_two(tmp_path, lambda one, _: one.board.publish(many))
    await until(lambda: len(other.notices) == 3_000, "all arrive")
    assert len(other.notices[0].reason) == 200
    await close(one, other)


async def test_what_cannot_be_read_is_ignored(tmp_path: Path) -> None:
    worker = Worker(tmp_path, 0)
    worker.board.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for datagram in (b"", b"x", b"\xff", b"[[],[]]", b'[[],[["a",-1,1]]]', b'[[],[["a",1e400,1]]]', b'[["a"]]'):
            stranger.sendto(datagram, str(tmp_path / "health-0.sock"))
        stranger.sendto(b'[[["cooling","a",30.0,"rate_limited (429)"]],[]]', str(tmp_path / "health-0.sock"))
    await until(lambda: bool(worker.notices), "the good one arrives")
    assert (worker.notices, worker.endings) == ([NOTICE], [])
    await close(worker)


async def test_the_folder_must_be_private(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        Worker(folder, 0).board.start()


def test_so_on_the_loop_of_the_product(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = await with_two(tmp_path, lambda one, _: one.board.publish([NOTICE]))
        await until(lambda: bool(other.notices), "the other hears")
        await close(one, other)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
