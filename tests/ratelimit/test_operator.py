"""What an operator may do to counters: on both stores, over HTTP, and from the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headgate.cli import app
from ratelimit.limiter import Limiter
from ratelimit.operator import Operator
from ratelimit.options import Options
from ratelimit.rules import Entries, RuleSet
from ratelimit.settings import RuleFile, build
from ratelimit.storage import Store
from tests.ratelimit.factories import Clock, House, caller
from tests.ratelimit.http.test_http import ASK, BrokenStore, served

USER: Entries = (("user", "ann"),)


def rules(domain: str) -> RuleSet:
    """A fixed window, and every other algorithm."""
    limits = ", ".join(
        f"{{requests_per_unit: 10, unit: hour, algorithm: {name}}}"
        for name in ("fixed_window", "sliding_window", "sliding_log", "token_bucket", "gcra")
    )
    return build([RuleFile("f", f"domain: {domain}\ndescriptors: [{{key: user, limits: [{limits}]}}]")])


async def test_looks_gives_back_charges_and_starts_anew(store: Store, clock: Clock, domain: str) -> None:
    made = rules(domain)
    operator = Operator(store, clock, Options(key_prefix="p:"))
    house = House(Limiter(store, clock, options=Options(key_prefix="p:")), made, domain)

    async def used() -> list[int]:
        return [one.used for one in await operator.inspect(made, domain, USER)]

    descriptor = caller()._replace(entries=USER, hits=4)
    await house.ask(descriptor)
    assert await used() == [4] * 5
    assert await used() == [4] * 5  # looking counts nothing
    assert [one.remaining for one in await operator.credit(made, domain, USER, 3)] == [9] * 5
    assert [one.used for one in await operator.charge(made, domain, USER, 12)] == [13] * 5
    assert (await house.ask(descriptor)).over
    before = await operator.reset(made, domain, USER)
    assert all(one.used >= 13 and one.key.startswith("p:") for one in before)
    assert await used() == [0] * 5
    assert not (await house.ask(descriptor)).over


async def test_credit_stops_at_nothing_in_use(store: Store, clock: Clock, domain: str) -> None:
    operator, made = Operator(store, clock), rules(domain)
    assert [one.used for one in await operator.credit(made, domain, USER, 1_000)] == [0] * 5


async def test_a_descriptor_without_limits_has_no_counters(store: Store, clock: Clock, domain: str) -> None:
    operator, made = Operator(store, clock), rules(domain)
    assert await operator.inspect(made, domain, (("other", "x"),)) == []
    assert await operator.reset(made, "unknown", USER) == []


ANN = "?domain=mesh&descriptor=user=a"


async def test_over_http() -> None:
    async with served() as one:
        for _ in range(3):
            await one.ask("/json", data=ASK)
        status, text = await one.ask(f"/explain{ANN}")
        found = json.loads(text)
        assert (status, found["conclusion"]) == (200, "limited to 2/minute")
        assert (found["counters"][0]["used"], found["counters"][0]["remaining"]) == (3, 0)
        status, text = await one.ask(f"/credit{ANN}&hits=2", method="POST")
        assert (status, json.loads(text)["counters"][0]["used"]) == (200, 1)
        status, text = await one.ask(f"/reset{ANN}", method="POST")
        assert (status, json.loads(text)["before"][0]["used"]) == (200, 1)
        assert json.loads((await one.ask(f"/inspect{ANN}"))[1])["counters"][0]["used"] == 0
        assert "/explain: " in (await one.ask("/"))[1]


@pytest.mark.parametrize(
    ("path", "method", "status", "words"),
    [
        ("/explain", "GET", 400, "name the domain"),
        ("/explain?domain=mesh", "GET", 400, "key=value"),
        ("/explain?domain=mesh&descriptor=x", "GET", 400, "key=value"),
        ("/reset" + ANN, "GET", 405, "use POST"),
        ("/credit" + ANN, "POST", 400, "hits is a number"),
        ("/credit" + ANN + "&hits=-1", "POST", 400, "hits is a number"),
        ("/credit" + ANN + "&hits=" + "9" * 30, "POST", 400, "hits is a number"),
    ],
)
async def test_what_cannot_be_answered_says_why(path: str, method: str, status: int, words: str) -> None:
    async with served() as one:
        answer = await one.ask(path, method=method)
        assert answer[0] == status
        assert words in json.loads(answer[1])["error"]


async def test_without_rules_or_a_store() -> None:
    async with served(text=None) as one:
        assert (await one.ask(f"/inspect{ANN}"))[0] == 503
    async with served(BrokenStore()) as one:
        status, text = await one.ask(f"/inspect{ANN}")
        assert status == 503
        assert "does not answer" in json.loads(text)["error"]


@pytest.mark.parametrize("caller", ["192.0.2.7", "127.0.0.6", "::ffff:127.0.0.1", ""])
async def test_counters_are_not_changed_from_elsewhere(monkeypatch: pytest.MonkeyPatch, caller: str) -> None:
    from aiohttp import web

    monkeypatch.setattr(web.Request, "remote", property(lambda _self: caller))
    async with served() as one:
        assert (await one.ask(f"/reset{ANN}", method="POST"))[0] == 403
        assert (await one.ask(f"/inspect{ANN}"))[0] == 200


async def run(*arguments: str) -> Any:
    """The command, beside the service that it asks."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["ratelimit", *arguments])


async def test_from_the_command_line() -> None:
    async with served() as one:
        url = f"--url=http://{one.debug.address}"
        await one.ask("/json", data=ASK)
        explained = await run("explain", "user=a", "--domain=mesh", url)
        assert explained.exit_code == 0
        assert "limited to 2/minute" in explained.output
        assert "1" in (await run("inspect", "user=a", "--domain=mesh", url)).output
        assert (await run("credit", "user=a", "--domain=mesh", "--hits=1", url)).exit_code == 0
        assert (await run("reset", "user=a", "--domain=mesh", url)).exit_code == 0
        assert "has no counter" in (await run("inspect", "other=a", "--domain=mesh", url)).output
        wrong = await run("inspect", "user", "--domain=mesh", url)
        assert (wrong.exit_code, "key=value" in wrong.output) == (1, True)
    gone = await run("inspect", "user=a", "--domain=mesh", url)
    assert (gone.exit_code, "cannot be asked" in gone.output) == (1, True)


def test_files_are_explained_and_linted_without_a_service(tmp_path: Path) -> None:
    limit = "rate_limit: {unit: day, requests_per_unit: 1}"
    (tmp_path / "rules.yaml").write_text(
        f"domain: d\ndescriptors: [{{key: a, value: '*', {limit}}}, {{key: a, {limit}}}]"
    )
    runner = CliRunner()
    explained = runner.invoke(app, ["ratelimit", "explain", "a=x", "--domain=d", f"--rules={tmp_path}"])
    assert "takes a=*, the first wildcard that matches" in explained.output
    linted = runner.invoke(app, ["ratelimit", "lint", str(tmp_path)])
    assert (linted.exit_code, "is never reached" in linted.output) == (1, True)
    (tmp_path / "rules.yaml").write_text(f"domain: d\ndescriptors: [{{key: a, {limit}}}]")
    assert runner.invoke(app, ["ratelimit", "lint", str(tmp_path)]).exit_code == 0
    (tmp_path / "rules.yaml").write_text("domain: [")
    assert runner.invoke(app, ["ratelimit", "lint", str(tmp_path)]).exit_code == 1
