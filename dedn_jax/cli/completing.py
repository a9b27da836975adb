"""What may follow a command line that is not finished yet: jobs, flags, recipes, config fields."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from dedn_jax.cli.data import SET_NAMES
from dedn_jax.config import base_config, flat_fields, recipe_names
from dedn_jax.config_ranges import BACKBONES, CHOICES

# Where bash ends a word; it replaces no more than what is behind the last of them.
_BREAKS = "=:"

SCRIPTS = {
    "bash": """\
_dedn() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion bash --line="${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o nospace -o bashdefault -o default -F _dedn dedn
""",
    "zsh": """\
_dedn() {
    local -a found
    found=("${(@f)$("${words[1]}" completion zsh --line="${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    [[ -n "${found[1]}" ]] && compadd -Q -S '' -- "${found[@]}" && return
    # Of --flag=path the path is completed.
    [[ "$PREFIX" == -*=* ]] && compset -P 1 '*='
    _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _dedn dedn
""",
}


def following(jobs: argparse._SubParsersAction, line: str, shell: str) -> list[str]:
    """The words with which a command line may go on; none where a file is expected.

    Args:
      jobs: all jobs.
      line: what was typed so far, from the program's name on.
      shell: bash or zsh.

    Returns:
      Whole words; for bash what is behind their last `=`. A word that is finished ends in a space.
    """
    *before, word = line.split(" ")
    before = [w for w in before if w][1:]
    found = [w for w in _words(jobs, before, word) if w.startswith(word)]
    cut = max(word.rfind(c) for c in _BREAKS) + 1 if shell == "bash" else 0
    return [w[cut:] for w in found]


def _words(jobs: argparse._SubParsersAction, before: list[str], word: str) -> Iterable[str]:
    parser: argparse.ArgumentParser | None = None
    inner: argparse._SubParsersAction | None = jobs
    for name in before:
        if inner is not None and name in inner.choices:
            parser = inner.choices[name]
            inner = _jobs_of(parser)
    if inner is not None:
        return [f"{name} " for name in inner.choices]
    assert parser is not None
    flags = {flag: a for a in _actions(parser) for flag in a.option_strings}
    if before[-1] in flags and flags[before[-1]].nargs != 0:
        return [f"{value} " for value in _values(before[-1], flags[before[-1]])]
    if parser.get_default("overrides") and word.startswith("--config."):
        return _fields(word)
    flag, given, _ = word.partition("=")
    if given:
        return [f"{flag}={value} " for value in _values(flag, flags.get(flag))]
    if not word.startswith("-"):
        return [f"{choice} " for a in _actions(parser) for choice in _of_place(a)]
    more = ["--config."] if parser.get_default("overrides") else []
    return [*(f"{f} " if a.nargs == 0 else f"{f}=" for f, a in flags.items() if f[1] == "-"), *more]


def _fields(word: str) -> Iterable[str]:
    """Fields of the config a level at a time, as files in folders; then their values."""
    fields = flat_fields(base_config().to_dict())
    name, given, _ = word.removeprefix("--config.").partition("=")
    if given:
        known: dict[str, Iterable[str]] = {**CHOICES, "backbone.name": BACKBONES}
        values = ("true", "false") if isinstance(fields.get(name), bool) else known.get(name, ())
        return [f"--config.{name}={value} " for value in values]
    depth = name.count(".") + 1
    parts = [(f.split("."), f) for f in fields]
    return dict.fromkeys(
        "--config." + (".".join(p[:depth]) + "." if len(p) > depth else f"{f}=") for p, f in parts
    )


def _values(flag: str, action: argparse.Action | None) -> Iterable[str]:
    if flag == "--config":
        return recipe_names()
    return [str(choice) for choice in action.choices or ()] if action else ()


def _of_place(action: argparse.Action) -> Iterable[str]:
    """The choices of an argument that is no flag."""
    if action.option_strings:
        return ()
    return SET_NAMES if action.dest == "name" else [str(choice) for choice in action.choices or ()]


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions


def _jobs_of(parser: argparse.ArgumentParser) -> argparse._SubParsersAction | None:
    found = (a for a in _actions(parser) if isinstance(a, argparse._SubParsersAction))
    return next(found, None)
