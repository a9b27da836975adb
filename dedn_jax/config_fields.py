"""What each field of a config means: its default and the comment beside it in `configs/base.py`."""

from __future__ import annotations

import ast
import io
import textwrap
import tokenize
from typing import NamedTuple

from dedn_jax.config import base_config, base_file, flat_fields

_WIDTH, _INDENT = 100, 44  # characters


class ConfigField(NamedTuple):
    """A field, or a section that has a comment of its own.

    Attributes:
      name: such as `train.epochs`.
      default: of `configs/base.py`; None for a section.
      comment: what the file says of it; "" where the name says it all.
    """

    name: str
    default: object
    comment: str


def config_fields() -> list[ConfigField]:
    """Every field of `configs/base.py` in the order of the file."""
    source = base_file().read_text(encoding="utf-8")
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    comments = _comments(source)
    defaults = flat_fields(base_config().to_dict())
    return list(_assigned(functions["get_config"], "", functions, comments, defaults))


def fields_text() -> str:
    """All fields by section, as flags of the command line."""
    lines: list[str] = []
    section = ""
    for name, default, comment in config_fields():
        if default is None:
            about = f": {comment}" if comment else ""
            lines += ["", f"{name}{about}"]
            section = name
            continue
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            lines += ["", section]
        value = str(default).lower() if isinstance(default, bool) else default
        lines += _columns(f"  --config.{name}={value}", comment)
    return "\n".join(lines)


def _columns(flag: str, about: str) -> list[str]:
    """A flag and what it is about, side by side where there is room."""
    texts = textwrap.wrap(about, _WIDTH - _INDENT)
    if len(flag) >= _INDENT or not texts:
        return [flag, *(" " * _INDENT + text for text in texts)]
    return [f"{flag:<{_INDENT}}{texts[0]}", *(" " * _INDENT + text for text in texts[1:])]


def _assigned(
    function: ast.FunctionDef,
    prefix: str,
    functions: dict[str, ast.FunctionDef],
    comments: dict[int, tuple[str, bool]],
    defaults: dict[str, object],
) -> list[ConfigField]:
    """The fields that a function sets on the config that it returns."""
    found = []
    for node in function.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
            continue
        # Without the variable: `config.train.epochs` is `train.epochs`.
        name = prefix + ast.unparse(node.targets[0]).partition(".")[2]
        comment = _comment(node, comments)
        if name in defaults:
            found.append(ConfigField(name, defaults[name], comment))
        elif isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in functions:
            inner = functions[ast.unparse(node.value.func)]
            about = (ast.get_docstring(inner) or "").partition("\n")[0]
            found.append(ConfigField(name, None, about))
            found += _assigned(inner, f"{name}.", functions, comments, defaults)
        else:
            found.append(ConfigField(name, None, comment))
    return found


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """The comment of every line, and whether it has the line to itself."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.lstrip().startswith("#")
            found[token.start[0]] = (token.string.lstrip("# "), alone)
    return found


def _comment(node: ast.Assign, comments: dict[int, tuple[str, bool]]) -> str:
    """What is said above an assignment and beside it."""
    first = node.lineno
    while comments.get(first - 1, ("", False))[1]:
        first -= 1
    last = node.end_lineno or node.lineno
    return " ".join(comments[line][0] for line in range(first, last + 1) if line in comments)
