"""Fixtures for all tests."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import jax
import pytest

from tests.helpers.shared import shared_folder

if TYPE_CHECKING:
    from tests.helpers.picture_runs import PictureRuns

_ROOT = Path(__file__).resolve().parent.parent
_MAPPINGS = Path("/proc/self/maps")
# Packages that `make test` does not install; each is the name of a marker as well.
_OPTIONAL = {
    "torch": "needs PyTorch: make torch",
    "onnx": "needs jax2onnx and ONNX Runtime: make onnx",
    "gradio": "needs Gradio: make serve",
    "tokenizers": "needs tokenizers: make torch",
    "transformers": "needs transformers: make torch",
    "moto": "needs fake buckets: make bucket",
    "libtpu": "needs libtpu: pip install 'dedn-jax[tpu-plan]'",
    "jax_cuda12_plugin": "needs XLA for CUDA: pip install 'dedn-jax[gpu-plan]'",
}

# Compiled as users compile them: the model's numbers, those of the published code, and what is not
# finite.
_AS_USERS = (
    "interop/test_reference.py",
    "model/test_experts.py",
    "parity",
    "sweep/test_divergence.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Without either option, all tests run, compiled as users compile them."""
    group = parser.getgroup("dedn-jax")
    group.addoption(
        "--quick",
        action="store_true",
        help="without XLA's optimisations, the tests whose numbers do not depend on them",
    )
    group.addoption("--as-users", action="store_true", help="the tests that --quick leaves out")


def _compile_quickly() -> None:
    """Most tests run what they compile a few times: XLA takes a quarter of the time like this."""
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    flags.append("--xla_llvm_disable_expensive_passes=true")
    if jax.__version_info__ < (0, 11):  # its older way of writing loops, which 0.11 no longer has
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()


def pytest_configure(config: pytest.Config) -> None:
    """Every program is compiled once by all tests and their processes, and not once by each.

    Workers of pytest-xdist share the folder; so do sessions, if `DEDN_TEST_PROGRAMS` names one. JAX
    does not write to it atomically: what is read half written or was cut short fails to unpack, and
    is compiled with a warning that the command line hides.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        if named := os.environ.get("DEDN_TEST_PROGRAMS"):
            folder = str(Path(named).absolute())
        else:
            folder = tempfile.mkdtemp(prefix="dedn-jax-compiled-")
            config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        if config.option.quick:
            _compile_quickly()
    for name, value in {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for processes that tests start


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`--quick` and `--as-users`; `-m torch` imports only the modules that write the name."""
    as_users = any(collection_path.is_relative_to(_ROOT / "tests" / name) for name in _AS_USERS)
    if config.option.quick and as_users:
        return True
    if config.option.as_users and not as_users and collection_path.suffix == ".py":
        return True
    wanted = re.sub(r"\bnot +\w+", "", config.option.markexpr)
    named = set(re.findall(r"\w+", wanted)) - {"or", "and"}
    if named and named <= {*_OPTIONAL, "slow"} and collection_path.suffix == ".py":
        return not any(name in _text(collection_path) for name in named) or None
    return None


def pytest_collection_finish() -> None:
    """Tracing makes so many objects that collecting is a tenth of its time, most of it in vain."""
    gc.collect()
    gc.freeze()  # what has been imported stays
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drops what was compiled where it is much, between the modules of tests.

    A program takes about ten memory mappings, of which Linux gives a process 65,530: past them the
    compiler crashes.
    """
    if nextitem is None or nextitem.path == item.path or not _MAPPINGS.exists():
        return
    with _MAPPINGS.open("rb") as file:
        many = sum(1 for _ in file) > 20_000
    if many:
        jax.clear_caches()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names files by their length: archives have the time in them, and old pytest prints it all."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 32 else None


@functools.cache
def _text(path: Path) -> str:
    return path.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests whose optional package is missing; an import at the top needs the marker too."""
    installed = {name: importlib.util.find_spec(name) is not None for name in _OPTIONAL}
    for item in items:
        for name, reason in _OPTIONAL.items():
            if item.get_closest_marker(name):
                if name not in _text(item.path):
                    raise pytest.UsageError(f"{item.nodeid} has the marker {name} from elsewhere")
                if not installed[name]:
                    item.add_marker(pytest.mark.skip(reason=reason))
            elif name in _packages(getattr(item, "module", item)):
                raise pytest.UsageError(f"{item.nodeid} imports {name}: mark it pytest.mark.{name}")


@functools.cache
def _packages(module: object) -> set[str]:
    """Those whose modules have a name in a module of tests."""
    values = vars(module).values()
    return {x.__name__.split(".")[0] for x in values if isinstance(x, ModuleType)}


@pytest.fixture(autouse=True)
def only_marked_packages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides an optional package, installed or not, from tests that do not name it by its marker.

    A test that imports it then fails everywhere, and not only where it is missing.
    """
    hidden = {name for name in _OPTIONAL if not request.node.get_closest_marker(name)}
    for name in hidden:
        monkeypatch.delitem(sys.modules, name, raising=False)
    find = PathFinder.find_spec
    monkeypatch.setattr(
        PathFinder,
        "find_spec",
        lambda name, *rest: None if name.split(".")[0] in hidden else find(name, *rest),
    )


@pytest.fixture(autouse=True)
def exact_products(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests that run on a GPU multiply float32 as such, where its default is 10 bits of it."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    # Asked here, and not while tests are collected: it starts the backend.
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU: make gpu")
    with jax.default_matmul_precision("float32"):
        yield


@pytest.fixture(scope="session")
def picture_runs(tmp_path_factory: pytest.TempPathFactory) -> PictureRuns:
    """Finished runs on made-up pictures, of all workers of pytest-xdist together."""
    from tests.helpers.picture_runs import PictureRuns  # imports most of the package

    return PictureRuns(shared_folder(tmp_path_factory, "pictures"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: `DEDN_TEST_DATA`, else `shared/data` beside the checkout."""
    named = os.environ.get("DEDN_TEST_DATA")
    folder = Path(named) if named else _ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set DEDN_TEST_DATA to the folder that holds it")
    return folder
