"""Rules from a directory: names, layouts, changes, and files that are none."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ratelimit import settings
from ratelimit.rules import RuleSet
from ratelimit.sources import directory as module
from ratelimit.sources import watching
from ratelimit.sources.directory import Directory, DirectorySource, load
from ratelimit.sources.path import PathSource
from sidecar.errors import ConfigError
from tests.ratelimit.sources.recorder import running


def rules(domain: str, amount: int = 1) -> str:
    return f"domain: {domain}\ndescriptors: [{{key: k, rate_limit: {{unit: day, requests_per_unit: {amount}}}}}]\n"


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def own(tmp_path: Path) -> Directory:
    """A directory that is ours alone."""
    write(tmp_path / "config" / "a.yaml", rules("a"))
    return Directory(tmp_path, watch_root=False)


def refusal(directory: Directory) -> str:
    with pytest.raises(ConfigError) as raised:
        load(directory)
    return str(raised.value)


def test_files_of_others_are_not_read_from_the_root(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "config" / "a.yaml", rules("a"))
    write(tmp_path / "sub" / "config" / "team" / "b.txt", rules("b"))
    write(tmp_path / "sub" / "config.c.yaml", rules("c"))  # the same name as config/c.yaml
    write(tmp_path / "sub" / "elsewhere" / "x.yaml", "domain: [")
    write(tmp_path / "sub" / "configs.yaml", "domain: [")
    write(tmp_path / "sub" / "config.d" / "d.yaml", rules("d"))
    (tmp_path / "sub" / "elsewhere").chmod(0)
    try:
        assert set(load(Directory(tmp_path, "sub")).domains) == {"a", "b", "c", "d"}
    finally:
        (tmp_path / "sub" / "elsewhere").chmod(0o700)


@pytest.mark.parametrize(
    ("watch_root", "path", "name"),
    [
        (True, "sub/config/x.yaml", "config.x.yaml"),
        (True, "sub/config/team/deep/x.yaml", "config.team.deep.x.yaml"),
        (False, "sub/config/x.yaml", "x.yaml"),
        (False, "sub/config/team/x.yaml", "team.x.yaml"),
    ],
)
def test_names_in_errors(tmp_path: Path, watch_root: bool, path: str, name: str) -> None:
    write(tmp_path / path, "domain: d\nfoo: 1\n")
    assert refusal(Directory(tmp_path, "sub", watch_root=watch_root)) == f"{name}: config error, unknown key 'foo'"


def test_all_or_nothing(own: Directory) -> None:
    write(own.folder / "b.yaml", rules("a"))
    assert refusal(own) == "b.yaml: duplicate domain 'a' in config file"
    write(own.folder / "b.yaml", rules("a").replace("key: k", "key: other"))
    assert set(load(replace(own, merge=True)).domains) == {"a"}


def test_dot_files(own: Directory) -> None:
    write(own.folder / ".hidden.yaml", rules("hidden"))
    write(own.folder / ".folder" / "x.yaml", rules("deeper"))
    write(own.folder / "..2026_01" / "a.yaml", rules("a"))
    assert set(load(own).domains) == {"a", "hidden", "deeper"}
    assert set(load(replace(own, ignore_dot_files=True)).domains) == {"a"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "config file cannot have empty domain"),
        (b"# nothing\n", "config file cannot have empty domain"),
        (b"\x00\x01\x02", "error loading config file: unacceptable character"),
        (b"\x7fELF\xff\xfe", "error loading config file: is not UTF-8 text (byte 4)"),
        (b"[" * 200_000, "error loading config file: nested too deeply"),
        (b"- " * 200_000, "error loading config file: nested too deeply"),
        (b"domain: d\ndescriptors: &d [{key: a, descriptors: *d}]", "error loading config file: nested too deeply"),
        (b"a: &a [x]\n", "config error, unknown key 'a'"),
        (b"x" * (module.MAX_FILE_BYTES + 1), f"is larger than {module.MAX_FILE_BYTES} bytes"),
        (b"domain: d\ndomain: e\n", "error loading config file: line 2: key 'domain' stands twice in one mapping"),
    ],
)
def test_files_that_are_none(own: Directory, content: bytes, says: str) -> None:
    write(own.folder / "b.yaml", content)
    assert refusal(own).startswith(f"b.yaml: {says}")


def test_a_file_of_fifty_megabytes_is_not_even_read(own: Directory) -> None:
    with (own.folder / "b.yaml").open("wb") as stream:
        stream.truncate(50 << 20)
    assert "is larger than" in refusal(own)


def test_files_that_cannot_be_read(own: Directory, tmp_path: Path) -> None:
    (own.folder / "broken").symlink_to(tmp_path / "nowhere")
    assert refusal(own) == "broken: cannot be read: No such file or directory (mend or remove it)"
    (own.folder / "broken").unlink()
    os.mkfifo(own.folder / "pipe")  # is no file, and reading it would wait for ever
    (own.folder / "circle").symlink_to(own.folder)
    assert set(load(own).domains) == {"a"}


def test_too_many_files(own: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 1)
    write(own.folder / "b.yaml", rules("b"))
    assert "holds more than 1 files" in refusal(own)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    text = refusal(Directory(tmp_path, "sub"))
    assert text == f"{tmp_path}/sub: cannot be read: No such file or directory (check the RUNTIME_ variables)"


async def test_changes_are_seen(own: Directory) -> None:
    async with running(DirectorySource(own, check_every=5)) as source:
        assert await source.rules() == ["a.k: 1"]
        write(own.folder / "a.yaml", rules("a", 2))
        assert await source.rules() == ["a.k: 2"]
        write(own.folder / "new" / "b.yaml", rules("b"))
        assert await source.rules() == ["a.k: 2", "b.k: 1"]
        (own.folder / "a.yaml").unlink()
        assert await source.rules() == ["b.k: 1"]
        write(own.folder / "c.yaml", "domain: [")
        assert (await source.refused()).startswith("c.yaml: error loading config file: ")
        (own.folder / "c.yaml").rename(own.folder.parent / "c.yaml")
        assert await source.rules() == ["b.k: 1"]
        assert source.nothing()


@pytest.mark.parametrize("turns", range(8))
async def test_it_ends_while_a_change_is_being_noticed(own: Directory, turns: int) -> None:
    source = DirectorySource(own, check_every=60)
    async with running(source) as taken:
        await taken.rules()
        await asyncio.sleep(0.05)
        source.reload()
        for _ in range(turns):
            await asyncio.sleep(0)


async def test_a_configmap_is_swapped(tmp_path: Path) -> None:
    """As the kubelet does it: a folder per version, `..data` links to one, every file links through `..data`."""

    def version(name: str, amount: int) -> None:
        write(mount / name / "mesh.yaml", rules("mesh", amount))
        (mount / "..data_tmp").symlink_to(name)
        (mount / "..data_tmp").rename(mount / "..data")

    mount = tmp_path / "config"
    version("..2026_01_01", 1)
    (mount / "mesh.yaml").symlink_to(Path("..data", "mesh.yaml"))
    async with running(DirectorySource(Directory(tmp_path, watch_root=False), check_every=60)) as source:
        assert await source.rules() == ["mesh.k: 1"]
        for amount in (2, 3):
            version(f"..2026_01_0{amount}", amount)
            assert await source.rules() == [f"mesh.k: {amount}"]


async def test_the_root_is_swapped(tmp_path: Path) -> None:
    """As a deployment does it: the root links to a version's folder."""

    def version(number: int) -> None:
        write(tmp_path / f"v{number}" / "sub" / "config" / "mesh.yaml", rules("mesh", number))
        (tmp_path / "next").symlink_to(tmp_path / f"v{number}")
        (tmp_path / "next").rename(tmp_path / "current")

    version(1)
    async with running(DirectorySource(Directory(tmp_path / "current", "sub"), check_every=60)) as source:
        for number in (1, 2, 3):
            assert await source.rules() == [f"mesh.k: {number}"]
            version(number + 1)
        assert await source.rules() == ["mesh.k: 4"]
        write(tmp_path / "v4" / "sub" / "config" / "mesh.yaml", rules("mesh", 40))  # and what is in it now is watched
        assert await source.rules() == ["mesh.k: 40"]


async def test_a_folder_that_comes_later(tmp_path: Path) -> None:
    async with running(DirectorySource(Directory(tmp_path / "r", "sub"), check_every=0.1)) as source:
        assert "cannot be read" in await source.refused()
        write(tmp_path / "r" / "sub" / "config" / "a.yaml", rules("a"))
        while not isinstance(came := await source.next(), RuleSet) or not came.domains:
            pass  # a folder that is there, and nothing in it yet
        assert set(came.domains) == {"a"}


async def test_a_file_system_that_tells_nothing(own: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_places: object, **_given: object) -> object:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(watching, "awatch", silent)
    async with running(DirectorySource(own, check_every=0.02)) as source:
        assert await source.rules() == ["a.k: 1"]
        write(own.folder / "a.yaml", rules("a", 2))
        assert await source.rules() == ["a.k: 2"]


async def test_asked_to_load_again(own: Directory) -> None:
    source = DirectorySource(own, check_every=60)
    async with running(source) as came:
        assert await came.rules() == ["a.k: 1"]
        source.reload()
        assert await came.rules() == ["a.k: 1"]
    path = PathSource(own.folder)
    async with running(path) as came:
        assert await came.rules() == ["a.k: 1"]
        write(own.folder / "a.yaml", "foo: 1")
        path.reload()
        assert await came.refused() == "a.yaml: config error, unknown key 'foo'"


@pytest.mark.parametrize("name", ["", "a.yaml"], ids=["a folder", "one file"])
async def test_a_named_path_is_watched(own: Directory, name: str) -> None:
    async with running(PathSource(own.folder / name, check_every=60)) as came:
        assert await came.rules() == ["a.k: 1"]
        write(own.folder / "a.yaml", rules("a", 2))
        assert await came.rules() == ["a.k: 2"]
        write(own.folder / "notes.txt", "nothing to us")
        write(own.folder / "a.yaml", "foo: 1")
        assert await came.refused() == "a.yaml: config error, unknown key 'foo'"
        write(own.folder / "a.yaml", rules("a", 3))
        assert await came.rules() == ["a.k: 3"]


def test_only_the_folder_of_a_named_path_is_watched(own: Directory) -> None:
    for path in (own.folder, own.folder / "a.yaml"):
        places = PathSource(path)._places()
        assert (own.folder.resolve(), False) in places
        assert not any(deep for _, deep in places)


def test_a_file_that_may_be_read_at_last_has_changed(own: Directory) -> None:
    file = own.folder / "a.yaml"
    before = settings.stamp(file)
    file.chmod(0o600)
    assert settings.stamp(file) != before


async def test_decisions_go_on_while_a_large_file_is_read(own: Directory) -> None:
    one = "- {{key: k{}, rate_limit: {{unit: day, requests_per_unit: 1}}}}\n"
    write(own.folder / "b.yaml", "domain: b\ndescriptors:\n" + "".join(one.format(number) for number in range(10_000)))
    loop, worst = asyncio.get_running_loop(), 0.0
    async with running(DirectorySource(own, check_every=60)) as source:
        loading = asyncio.create_task(source.next())
        while not loading.done():
            before = loop.time()
            await asyncio.sleep(0)
            worst = max(worst, loop.time() - before)
        assert not isinstance(await loading, ConfigError)
    assert worst < 0.5  # of what takes seconds in all
