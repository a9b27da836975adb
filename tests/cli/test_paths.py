"""Every flag and field that takes a path refuses storage that is not mounted, and `file:` works."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedn_jax.cli.arguments import path_flag
from dedn_jax.cli.main import main, make_parser
from dedn_jax.config import _PATHS, base_config, flat_fields

# No path: what people type there is a name, a number or a text.
_NO_PATHS = {
    *("--coordinator", "--profile", "--sha256", "--grid", "--topology", "--device", "--price"),
    *("--host", "--class", "--against", "--prompt", "--recipe", "--line", "name"),
}
# Read by `find_config`: a file, or the name of one.
_NAMES_OR_PATHS = {"--config", "--points"}


def _flags(parser: argparse.ArgumentParser, job: str = "") -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _flags(below, f"{job} {name}".strip())
        else:
            yield job, action


def _texts() -> list[tuple[str, str, argparse.Action]]:
    return [
        (job, (action.option_strings or [action.dest])[0], action)
        for job, action in _flags(make_parser())
        if action.nargs != 0 and action.choices is None and action.type in (None, str, path_flag)
    ]


def test_every_flag_is_a_path_or_known_to_be_none() -> None:
    """A new flag that takes a path has to be a `path_flag`."""
    texts = {(job, name) for job, name, action in _texts() if action.type is not path_flag}
    unknown = {(job, n) for job, n in texts if n not in _NO_PATHS | _NAMES_OR_PATHS}
    assert not unknown
    assert sum(action.type is path_flag for _, _, action in _texts()) >= 30


def test_flags_without_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a variable that is not set, as in `--workdir=$RUN`."""
    monkeypatch.chdir(tmp_path)
    for job, flag in (("train", "--workdir"), ("explain", "--out"), ("predict", "pictures")):
        given = "" if flag == "pictures" else f"{flag}="
        assert main([job, given]) == 2
        assert capsys.readouterr().err.startswith("dedn: an empty path; give the name of a file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["gs://bucket/a", "s3://bucket/a", "gs:/bucket/a", "https://x/a"])
def test_flags(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    for job, name, action in _texts():
        if action.type is not path_flag:
            continue
        flag = f"{name}={given}" if action.option_strings else given
        assert main([*job.split(), flag]) == 2, (job, name)
        printed = capsys.readouterr()
        assert printed.err.startswith(f"dedn: {given.split(':')[0]}://")
        assert "only a path on this machine, or mounted on it, works here" in printed.err
        assert printed.err.count("\n") == 1 and not printed.out


def _fields() -> list[str]:
    return [f for f, value in flat_fields(base_config().to_dict()).items() if value == ""]


def test_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for field in set(_fields()) - _PATHS:
        flag = f"--config.{field}=gs://bucket/a"
        assert main(["train", "--config=base", "--workdir=run", flag]) == 2
        printed = capsys.readouterr().err
        assert f"config.{field}=gs://bucket/a: only a path on this machine" in printed
        assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--config=https://x/a.py", "--points=https://x/a.py"])
def test_recipes(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    rest = [] if flag.startswith("--config") else ["--config=base", "--config.data.path=x"]
    assert main(["sweep", "--workdir=run", "--seeds=2", flag, *rest]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("dedn: https://x/a.py: only a path on this machine")
    assert printed.count("\n") == 1
