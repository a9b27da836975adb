"""What is installed: versions, devices, caches, extras."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dedn_jax.errors import one_line
from dedn_jax.user_cache import user_cache_dir
from dedn_jax.version import __version__

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_NAME = "dedn-jax"
_PACKAGE = Path(__file__).parent
# Libraries that compute, and what to import of them.
PACKAGES = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax-checkpoint": "orbax.checkpoint",
    "grain": "grain",
    "numpy": "numpy",
}


def installation() -> dict[str, Any]:
    """What `dedn info --json` prints; whatever cannot be used is told as text in its place.

    Returns:
      `versions` by name; `problems` of packages; `devices`, with a `problem` where JAX finds none;
      `caches`: folders and their bytes; `extras`: what each lacks, nothing where it is installed.
    """
    problems = _broken() | _missing()
    return {
        "package": str(_PACKAGE),
        "versions": _versions(),
        "problems": problems,
        "devices": _devices(),
        "caches": _caches(),
        "extras": {extra: _lacking(extra) for extra in _requirements() if extra},
    }


def installation_text(found: dict[str, Any]) -> str:
    """What `installation` returns, for people."""
    lines = [f"{name:<17} {version}" for name, version in found["versions"].items()]
    lines += [f"{name:<17} {problem}" for name, problem in found["problems"].items()]
    lines += [f"{'code':<17} {found['package']}", "", "Devices"]
    devices = found["devices"]
    if "problem" in devices:
        lines.append(f"  none that JAX can use: {devices['problem']}")
    else:
        lines += [f"  {count} x {kind}" for kind, count in devices.items()]
    lines += ["", "Caches"]
    for folder, size in found["caches"].items():
        lines.append(f"  {folder}  {size / 1e6:.1f} MB")
    lines += ["", "Extras"]
    for extra, lacking in found["extras"].items():
        how = f"pip install '{_NAME}[{extra}]'  (lacks {', '.join(lacking)})"
        lines.append(f"  {extra:<15} {how if lacking else 'installed'}")
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    found = {_NAME: __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _broken() -> dict[str, str]:
    """Of `PACKAGES` those that cannot be imported, and why."""
    found = {}
    for name, module in PACKAGES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a damaged package may raise anything
            found[name] = f"cannot be imported: {type(error).__name__}: {one_line(error)}"
    return found


def _missing() -> dict[str, str]:
    """What this package requires, and is not there or has another version."""
    how = f"not as required; run: pip install '{_NAME}'"
    return dict.fromkeys(_lacking(""), how)


def _devices() -> dict[str, Any]:
    """The number of each kind, or a `problem`."""
    found: dict[str, int] = {}
    try:
        import jax

        for device in jax.devices():
            kind = f"{device.device_kind} ({device.platform})"
            found[kind] = found.get(kind, 0) + 1
    except Exception as error:  # of a damaged JAX, or of a platform that cannot be used
        asked = os.environ.get("JAX_PLATFORMS")
        return {"problem": (f"JAX_PLATFORMS={asked}: " if asked else "") + one_line(error)}
    return found


def _caches() -> dict[str, int]:
    """Folders that this package writes to between runs, and the bytes in them."""
    found: dict[str, int] = {}
    if own := user_cache_dir():
        # One entry each for compiled programs, demo pictures and copies of what is in buckets.
        inside = sorted(path for path in own.glob("*") if path.is_dir())
        found |= {str(folder): _size(folder) for folder in inside or [own]}
    if compiled := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        found[compiled] = _size(Path(compiled))
    return found


def _size(folder: Path) -> int:
    total = 0
    for inside, _, names in os.walk(folder):  # what cannot be read counts for nothing
        for name in names:
            try:
                total += os.lstat(os.path.join(inside, name)).st_size
            except OSError:
                continue
    return total


def _requirements() -> dict[str, list[str]]:
    """What this package requires, by extra; without one under ""."""
    file = _PACKAGE.parent / "pyproject.toml"
    if file.is_file():  # a checkout, which may not be installed
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return {"": project["dependencies"], **project["optional-dependencies"]}
    try:
        extras = importlib.metadata.metadata(_NAME).get_all("Provides-Extra") or []
        return {extra: [str(r) for r in _required(_NAME, extra)] for extra in ["", *extras]}
    except (importlib.metadata.PackageNotFoundError, ImportError):
        return {}


def _required(name: str, extra: str) -> Iterator[Requirement]:
    """What a package that is installed requires for an extra, or without one."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires(name) or []:
        one = Requirement(text)
        asked = one.marker is None or one.marker.evaluate({"extra": extra})
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        if asked and not (extra and always):
            one.marker = None
            yield one


def _lacking(extra: str) -> list[str]:
    """Requirements of an extra that nothing installed meets; the first of each chain."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging"]
    return [
        missing for text in _requirements().get(extra, ()) for missing in _unmet(Requirement(text))
    ]


def _unmet(one: Requirement) -> Iterator[str]:
    """`one`, if it is not installed as required; else what its own extras lack."""
    try:
        version = importlib.metadata.version(one.name)
    except importlib.metadata.PackageNotFoundError:
        yield one.name
        return
    if not one.specifier.contains(version, prereleases=True):
        yield f"{one.name}{one.specifier}, found {version}"
        return
    for extra in one.extras:
        for inner in _required(one.name, extra):
            yield from _unmet(inner)
