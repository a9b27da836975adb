"""The command line from argparse, and the config from `configs/base.py`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dedn_jax.cli.main import make_parser
from dedn_jax.config_fields import config_fields


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds both pages."""
    files.append(File.generated(config, "reference/cli.md", content=_command_line()))
    files.append(File.generated(config, "reference/config.md", content=_config()))
    return files


def _command_line() -> str:
    parts = [
        "# Command line\n\nWhat `--help` says. Jobs that take `--config` take every field of the "
        "[config](config.md) as a flag.\n"
    ]
    for prog, parser in _jobs(make_parser()):
        about = (parser.description or "").replace("<", "&lt;")
        parts.append(f"\n## {prog}\n\n{about}\n\n{_flags(parser)}")
    return "\n".join(parts)


def _jobs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every job and its parser, jobs of jobs in the place of their parent."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield parser.prog, parser
    for action in inner:
        for job in action.choices.values():
            yield from _jobs(job)


def _flags(parser: argparse.ArgumentParser) -> str:
    rows = ["| flag | | default |", "| --- | --- | --- |"]
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(action.option_strings)
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        flag = " ".join(part for part in (names, value) if part)
        about = formatter._expand_help(action) if action.help else ""
        default = action.default
        shown = "required" if action.required and names else _shown(default)
        rows.append(f"| `{_cell(flag)}` | {_cell(about)} | {_cell(shown)} |")
    return "\n".join(rows)


def _shown(default: object) -> str:
    nothing = default is None or default is False or default in ("", argparse.SUPPRESS)
    return "" if nothing else f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _config() -> str:
    lines = [
        "# Config\n\nEvery field, as `configs/base.py` has it. On the command line "
        '`--config.train.epochs=40`, from Python `load_config(recipe, {"train.epochs": 40})`. '
        "`dedn train --help-config` prints this list.\n"
    ]
    fields = config_fields()
    section = None
    for name, default, comment in fields:
        if default is None:
            lines.append(f"\n## {name}\n\n{comment}\n")
            section = name
            continue
        if name.rpartition(".")[0] != section or lines[-1].startswith("\n## "):
            lines += ["| field | default | |", "| --- | --- | --- |"]
            section = name.rpartition(".")[0]
        value = str(default).lower() if isinstance(default, bool) else default
        lines.append(f"| `{name}` | {f'`{value}`' if value != '' else ''} | {_cell(comment)} |")
    return "\n".join(lines)
