"""Tests on other versions: `make test-matrix`, or `nox -s newest -- tests/training`.

Pythons that are not installed are skipped; continuous integration has all of them.
"""

import nox

nox.options.default_venv_backend = "uv|venv"
PYTHONS = ["3.11", "3.12", "3.13"]


def _test(session: nox.Session) -> None:
    # What is named may lie in one half alone; the other then has no tests, which is pytest's 5.
    codes = [0, 5] if session.posargs else [0]
    for half in ("--quick", "--as-users"):
        run = ("pytest", half, "-n", "3", "--dist", "worksteal", *session.posargs)
        session.run(*run, success_codes=codes)


@nox.session(python=PYTHONS)
def pinned(session: nox.Session) -> None:
    """What requirements.txt pins, which is what `make` installs."""
    session.install("-r", "requirements.txt", "-r", "requirements-dev.txt")
    session.install("--no-deps", "-e", ".")
    _test(session)


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """The newest releases that pyproject.toml allows."""
    session.install("--upgrade", "-e", ".[dev]")
    _test(session)


@nox.session(python=PYTHONS[0], venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """The oldest releases that pyproject.toml allows."""
    session.install("--resolution=lowest-direct", "-e", ".[dev]")
    _test(session)
