"""What `dedn completion` offers, and its script in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dedn_jax.cli.main import main
from dedn_jax.config import recipe_names

ROOT = Path(__file__).resolve().parent.parent.parent


def offered(capsys: pytest.CaptureFixture[str], line: str, shell: str = "zsh") -> list[str]:
    assert main(["completion", shell, f"--line={line}"]) == 0
    return capsys.readouterr().out.splitlines()


def test_jobs_and_jobs_of_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"train ", "demo ", "data ", "info "} <= set(offered(capsys, "dedn "))
    assert offered(capsys, "dedn  tra") == ["train "]
    assert "build " in offered(capsys, "dedn data ")
    assert offered(capsys, "dedn data bui") == ["build "]
    assert offered(capsys, "dedn data build fol") == ["folder "]


def test_flags_and_their_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert offered(capsys, "dedn train --work") == ["--workdir="]
    assert offered(capsys, "dedn train --conf") == ["--config=", "--config."]
    assert offered(capsys, "dedn train --distr") == ["--distributed "]
    assert offered(capsys, "dedn info --js") == ["--json "]
    assert offered(capsys, "dedn completion ") == ["bash ", "zsh "]
    among = [f"--among={kind} " for kind in ("all", "seen", "unseen")]
    assert offered(capsys, "dedn predict --among=") == among
    assert offered(capsys, "dedn predict --among un") == ["unseen "]
    assert offered(capsys, "dedn train --workdir=") == []  # files
    assert offered(capsys, "dedn predict pict") == []


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{name} " for name in recipe_names()]
    assert "cub_gzsl " in names
    assert offered(capsys, "dedn train --config ") == names
    assert offered(capsys, "dedn train --config=cub_z") == ["--config=cub_zsl "]
    assert offered(capsys, "dedn train --config=cub_z", "bash") == ["cub_zsl "]
    assert offered(capsys, "dedn train --config=runs/") == []


def test_fields_of_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    first = offered(capsys, "dedn train --config=base --config.")
    assert {"--config.train.", "--config.data.", "--config.seed="} <= set(first)
    assert len(first) < 20
    assert "--config.train.epochs=" in offered(capsys, "dedn train --config.train.")
    assert offered(capsys, "dedn train --config.train.epo", "bash") == ["--config.train.epochs="]
    assert offered(capsys, "dedn demo --config.model.experts=", "bash") == [
        "both ",
        "coarse ",
        "fine ",
    ]
    assert "--config.backbone.name=resnet101 " in offered(
        capsys, "dedn train --config.backbone.name=resnet"
    )
    assert offered(capsys, "dedn train --config.no.such=") == []
    assert offered(capsys, "dedn info --config.") == []


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a `dedn` on the path."""
    dedn = tmp_path / "bin" / "dedn"
    dedn.parent.mkdir()
    dedn.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dedn_jax "$@"\n')
    dedn.chmod(0o755)
    path = f"{dedn.parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_in_bash(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = (
        capsys.readouterr().out
        + """
        complete -p dedn
        COMP_LINE="dedn train --config=cub_z and more"; COMP_POINT=25; COMP_WORDS=(dedn train)
        _dedn; printf '%s|' "${COMPREPLY[@]}"
    """
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "complete -o bashdefault -o default -o nospace -F _dedn dedn",
        "cub_zsl |",
    ]


# Types lines and Tab into a zsh on a terminal of its own; prints what the line was made of them.
TYPING = r"""
zmodload zsh/zpty || exit 9
zpty typist zsh -f -i
zpty -w typist 'PS1=; TERM=dumb; stty cols 200; unset zle_bracketed_paste
    eval "$(dedn completion zsh)"; line() { print -r -- "<$BUFFER>"; BUFFER=; zle .accept-line }
    zle -N line; bindkey "^X" line; print READ""Y'
zpty -r typist found '*READY*' || exit 8
for typed in "$@"; do
    zpty -wn typist "$typed"$'\t\x18'
    zpty -r typist found '*<*>*' || exit 7
    print -r -- "${${found##*<}%%>*}"
done
zpty -d typist
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_in_zsh(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "pictures" / "some").mkdir(parents=True)
    made = {
        "dedn predi": "dedn predict ",
        "dedn data bui": "dedn data build ",
        "dedn train --config=cub_z": "dedn train --config=cub_zsl ",
        "dedn train --config.train.epo": "dedn train --config.train.epochs=",
        "dedn demo --config.model.experts=co": "dedn demo --config.model.experts=coarse ",
        "dedn data check CU": "dedn data check CUB ",
        "dedn data build folder --root=pict": "dedn data build folder --root=pictures/",
        "dedn predict --workdir=runs/a=b pict": "dedn predict --workdir=runs/a=b pictures/",
    }
    done = subprocess.run(
        ["zsh", "-f", "-c", TYPING, "zsh", *made],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [*made.values()]
