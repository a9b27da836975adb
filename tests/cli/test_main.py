"""The `dedn` command: help without JAX, mistakes in one line, exit statuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dedn_jax
from dedn_jax.cli import evaluate, runs
from dedn_jax.cli import main as cli
from dedn_jax.cli.main import main
from dedn_jax.data.prepared.reader import open_prepared
from dedn_jax.data.sources.word_vectors import read_word_vectors
from dedn_jax.errors import InputError
from dedn_jax.training.interrupt import Interrupted
from tests.made_up import picture_folder

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = ("jax", "flax", "torch", "numpy", "orbax", "grain", "tensorflow")
_HELP = """
import contextlib, io, json, sys
from dedn_jax.cli.main import main

def run(*argv):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            status = main(list(argv))
        except SystemExit as end:
            status = end.code
    return [status, out.getvalue()]

first = run("--help")
jobs = sys.argv[1].split(",")
print(json.dumps({"": first, **{job: run(job, "--help") for job in jobs}}))
print(json.dumps(sorted(sys.modules)))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def all_jobs() -> dict[str, str]:
    """The jobs and their options, as the parser has them."""
    parser = cli.make_parser()
    action = next(a for a in parser._actions if a.dest == "job")
    return {name: sub.format_help() for name, sub in action.choices.items()}  # type: ignore[union-attr]


def test_help_of_every_job_without_jax() -> None:
    jobs = all_jobs()
    assert {"train", "evaluate", "demo", "export", "compare"} <= set(jobs)
    done = python("-c", _HELP, ",".join(jobs))
    assert done.returncode == 0, done.stderr
    helps, modules = (json.loads(line) for line in done.stdout.splitlines())
    for job, (status, text) in helps.items():
        assert status == 0
        assert text.startswith("usage: dedn")
        if job:
            assert job in helps[""][1]
            assert "--" in text
    assert not {m.split(".")[0] for m in modules} & set(HEAVY)


def test_importing_the_package_imports_no_jax() -> None:
    done = python("-c", "import dedn_jax, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not {m.split(".")[0] for m in done.stdout.split()} & set(HEAVY)


def test_a_reader_of_standard_output_that_ends() -> None:
    """As `head` does: no message, and the status of SIGPIPE."""
    script = """if 1:
        import argparse, sys
        from dedn_jax.cli import main
        parser = argparse.ArgumentParser()
        parser.set_defaults(overrides=False, run=lambda *_: [print(i) for i in range(10**6)])
        main.make_parser = lambda: parser
        sys.argv = ["dedn"]
        main.console()
    """
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 128 + 13


def test_names_that_the_terminal_has_no_letters_for() -> None:
    script = """if 1:
        import argparse, sys
        from dedn_jax.cli import main
        parser = argparse.ArgumentParser()
        parser.set_defaults(overrides=False, run=lambda *_: print("Häher"))
        main.make_parser = lambda: parser
        sys.argv = ["dedn"]
        main.console()
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"H\\xe4her\n", b"")


def test_module_and_version() -> None:
    done = python("-m", "dedn_jax", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"dedn-jax {dedn_jax.__version__}\n",
        "",
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--config=base"], "required: --workdir"),
        (
            ["train", "--config=base", "--workdir=w", "--epochs=3"],
            "unrecognized arguments: --epochs",
        ),
        # An override in two words would leave its value over.
        (
            ["train", "--config=base", "--workdir=w", "--config.seed", "3"],
            "unrecognized arguments: 3",
        ),
        (["evaluate", "--workdir=w", "--batch-size=many"], "invalid int value: 'many'"),
        (["export", "--workdir=w"], "required: --out"),
    ],
)
def test_unknown_and_missing_flags(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["train", "--config=cup_gzsl", "--workdir={w}"],
            "no recipe 'cup_gzsl'; give a Python file",
        ),
        (["train", "--config=base", "--workdir={w}"], "config.data.path is empty"),
        (
            ["train", "--config=base", "--workdir={w}", "--config.data.path=nowhere.hdf5"],
            "nowhere.hdf5",
        ),
        (["train", "--config=base", "--workdir={w}", "--config.train.epoch=3"], "train.epoch"),
        (["train", "--config=base", "--workdir={w}", "--config.train.epochs=0"], "at least 1"),
        (["train", "--config=base", "--workdir={w}", "--config.train.epochs=x"], "cannot apply"),
        (["evaluate", "--workdir={w}"], "holds no run (no config.json)"),
        (["evaluate", "--workdir={w}", "--batch-size=0"], "--batch-size=0, expected at least 1"),
        (["export", "--workdir={w}", "--out={w}/model.pt"], "holds no run (no config.json)"),
        (["compare", "--reference-dir={w}", "--steps=0"], "--steps=0, expected at least 1"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    assert cli.main([a.format(w=workdir) for a in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dedn: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.err.endswith("\n")
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (InputError("a.hdf5: labels are missing"), 2, "dedn: a.hdf5: labels are missing\n"),
        (Interrupted(15, "stopped at step 3"), 143, "dedn: stopped at step 3\n"),
        (Interrupted(2, "stopped at step 3"), 130, "dedn: stopped at step 3\n"),
        (FloatingPointError("loss not finite"), 1, "dedn: loss not finite\n"),
        (
            OSError(28, "No space left on device", "/x/y"),
            2,
            "dedn: /x/y: No space left on device; make room, and give the command again\n",
        ),
        (OSError("odd"), 2, "dedn: odd\n"),
    ],
)
def test_exit_status(
    error: Exception,
    status: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(evaluate, "_evaluate", fail)
    assert cli.main(["evaluate", "--workdir=w"]) == status
    assert capsys.readouterr() == ("", printed)


def test_a_mistake_of_ours_keeps_its_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(evaluate, "_evaluate", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["evaluate", "--workdir=w"])


def test_overrides_reach_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(runs, "_train", lambda args, overrides: seen.extend([args, overrides]))
    flags = ["--config.seed=3", "--config.train.epochs=2"]
    assert cli.main(["train", "--config=base", flags[0], "--workdir=w", flags[1]]) == 0
    args, overrides = seen
    assert args.workdir == Path("w")  # type: ignore[attr-defined]
    assert args.config == "base"  # type: ignore[attr-defined]
    assert overrides == flags


def test_data_wordvectors_and_training_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "glove.txt").write_text("blue 1 2\nwing 3 4\nlong 5 6\nleg 7 8\n")
    (tmp_path / "names.txt").write_text("1 has_wing_color::blue\n2 longleg\n")
    out = tmp_path / "vectors.npy"
    flags = [f"--glove={tmp_path}/glove.txt", f"--attributes={tmp_path}/names.txt", f"--out={out}"]
    assert main(["data", "wordvectors", *flags]) == 0
    text = capsys.readouterr().out
    assert "2 vectors of 2" in text
    assert "'longleg' is not in the file; taken as long + leg" in text
    assert "'has_wing_color::blue': not in the file, left out: color" in text
    np.testing.assert_allclose(read_word_vectors(out, 2), [[2, 3], [6, 7]])
    assert main(["data", "wordvectors", *flags[:2], f"--out={tmp_path}/glove.txt"]) == 2
    assert "ends in .npy" in capsys.readouterr().err


def test_data_check_on_real_splits(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--splits-only", f"--xlsa17={shared_data}/xlsa17/data"]
    assert main(["data", "check", "AWA2", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "AWA2: as published"
    assert [line.rsplit(maxsplit=1) for line in lines[1:6]] == [
        ["trainval images", "23527"],
        ["test-seen images", "5882"],
        ["test-unseen images", "7913"],
        ["classes", "50"],
        ["attributes", "85"],
    ]
    assert "published" not in " ".join(lines[1:])
    flags = [f"--root={shared_data}/cub40", f"--word-vectors={shared_data}/w2v/CUB_attribute.pkl"]
    assert main(["data", "check", "CUB", *flags]) == 0
    text = capsys.readouterr().out
    assert text.startswith("CUB: not the published splits\n")
    assert re.search(r"^trainval images +600 +published +7057$", text, re.M)
    assert text.count("trainval") == 1
    assert f"word vectors: {shared_data}/w2v/CUB_attribute.pkl\n" in text
    assert "attribute names: " in text
    assert "960 pictures" in text
    assert main(["data", "check", "NABirds", *flags]) == 2


# Of the drawn classes: with six attributes of two values some are like others.
ALIKE = (
    "another class's attributes but for scale, so that nothing tells them apart: "
    "'class 4 like class 3', 'class 7 like class 5'"
)


def test_data_build_says_once_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = picture_folder(tmp_path / "mine", pictures=3)
    vectors = tmp_path / "vectors.npy"
    np.save(vectors, np.arange(12.0).reshape(6, 2))
    command = ["data", "build", "folder", f"--root={mine}", f"--out={tmp_path}/out"]
    command.append(f"--word-vectors={vectors}")
    folder = tmp_path / "out" / "mine" / "1.0.0"
    for first in (f"Wrote {folder};", f"{folder} is built already;"):
        assert main(command) == 0
        printed = capsys.readouterr()
        lines = printed.out.splitlines()
        assert lines[:2] == [
            f"word vectors: {vectors}",
            f"attribute names: {mine}/attributes.csv",
        ]
        assert lines[2] == "test pictures: drawn, 0.2 of every seen class, seed 0"
        assert lines[3] == ALIKE
        assert lines[4].startswith(first)
        assert len(lines) == 5
        assert "built already" not in printed.err
    found = open_prepared(folder).annotations
    np.testing.assert_array_equal(found.word_vectors, np.arange(12).reshape(6, 2))


def test_data_check_of_own_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = picture_folder(tmp_path / "mine", pictures=3)
    assert main(["data", "check", "folder", f"--root={mine}", "--splits-only"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(maxsplit=1) for line in lines[:7]] == [
        ["trainval images", "12"],
        ["test-seen images", "6"],
        ["test-unseen images", "6"],
        ["classes", "8"],
        ["attributes", "6"],
        ["seen classes", "6"],
        ["unseen classes", "2"],
    ]
    assert lines[7].startswith("word vectors: hashed from the names; no ")
    assert lines[8] == f"attribute names: {mine}/attributes.csv"
    assert lines[9:] == ["test pictures: drawn, 0.2 of every seen class, seed 0", ALIKE]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"), ("a\r\u202eb", r"a\r\u202eb"), ("é 鳥", "é 鳥")],
)
def test_names_do_not_command_a_terminal(
    name: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", "check", f"{tmp_path}/{name}"]) == 2
    assert capsys.readouterr().err == (
        f"dedn: {tmp_path}/{shown}: no such folder, expected a feature store\n"
    )


def test_no_job_is_answered_with_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "draw the built-in data set, train" in printed.err
