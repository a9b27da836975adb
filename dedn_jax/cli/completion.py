"""`dedn completion`."""

# Modules are imported when their job runs: `dedn --help` need not wait for the config.

from __future__ import annotations

import argparse
from typing import Any

_DESCRIPTION = """\
Prints a script with which a shell completes jobs, flags, recipes and fields of the config. In
~/.bashrc:  eval "$(dedn completion bash)"   in ~/.zshrc:  eval "$(dedn completion zsh)" """


def add_completion(jobs: Any) -> None:
    """Adds `dedn completion` to the jobs."""
    completion = jobs.add_parser(
        "completion",
        help="a script that completes command lines, for bash or zsh",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.add_argument(
        "--line", metavar="TEXT", help="print with what this command line may go on; for the script"
    )
    completion.set_defaults(run=_completion, overrides=False, jobs=jobs)


def _completion(args: argparse.Namespace, _: list[str]) -> None:
    from dedn_jax.cli.completing import SCRIPTS, following

    if args.line is None:
        print(SCRIPTS[args.shell], end="")
        return
    for word in following(args.jobs, args.line, args.shell):
        print(word)
