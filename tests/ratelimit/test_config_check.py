"""`python -m ratelimit.config_check`: the words and exit statuses of envoyproxy/ratelimit's config_check."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratelimit import config_check
from tests.ratelimit.rule_files import BROKEN, OTHERWISE, USABLE


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    status = config_check.main(arguments)
    return status, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("text", USABLE)
def test_usable(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert check(capsys, "-config_dir", str(tmp_path)) == (
        0,
        [
            "checking rate limit configs...",
            f"loading config directory: {tmp_path}",
            f"opening config file: {tmp_path}/x.yaml",
            "all rate limit configs ok",
        ],
    )


@pytest.mark.parametrize("text", [*BROKEN, *OTHERWISE])
def test_broken(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    status, lines = check(capsys, "--config_dir", str(tmp_path))
    assert status == 1
    start = f"error loading rate limit configs: {tmp_path}/x.yaml: "
    if text in BROKEN:
        assert lines[3:] == [start + BROKEN[text]]
    else:
        assert lines[3].startswith(start + OTHERWISE[text])


def test_domains_that_stand_twice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"domain: d\ndescriptors: [{{key: {name}}}]")
    status, lines = check(capsys, f"-config_dir={tmp_path}")
    assert status == 1
    assert lines[-1] == f"error loading rate limit configs: {tmp_path}/b: duplicate domain 'd' in config file"
    assert check(capsys, "-config_dir", str(tmp_path), "-merge_domain_configs")[0] == 0
    assert check(capsys, "-config_dir", str(tmp_path), "-merge_domain_configs=true")[0] == 0
    assert check(capsys, "-config_dir", str(tmp_path), "-merge_domain_configs=false")[0] == 1


def test_directories_that_cannot_be_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, lines = check(capsys, "-config_dir", str(tmp_path / "no"))
    assert (status, lines[-1]) == (
        1,
        f"error opening directory {tmp_path}/no: open {tmp_path}/no: no such file or directory",
    )
    assert check(capsys)[1][-1] == "error opening directory : open : no such file or directory"
    (tmp_path / "sub").mkdir()
    status, lines = check(capsys, "-config_dir", str(tmp_path))
    assert (status, lines[-1]) == (1, f"error reading file {tmp_path}/sub: read {tmp_path}/sub: is a directory")


def test_wrong_arguments() -> None:
    with pytest.raises(SystemExit) as raised:
        config_check.main(["-nope"])
    assert raised.value.code == 2


def test_an_empty_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check(capsys, "-config_dir", str(tmp_path))[0] == 0
