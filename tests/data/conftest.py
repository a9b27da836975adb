"""A small valid file in the published layout, to read and to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.helpers.published import published_fields


@pytest.fixture
def write_published(tmp_path: Path) -> Callable[..., Path]:
    """`write_published(field=value, ..., layout={...})` writes the file and gives its path.

    A field set to None is left out; `layout` goes to `create_dataset` of `feature_map`.
    """

    def write(layout: dict[str, Any] | None = None, **changes: Any) -> Path:
        path = tmp_path / "feature_map.hdf5"
        with h5py.File(path, "w") as file:
            for name, value in (published_fields() | changes).items():
                if value is None:
                    continue
                options = layout if name == "feature_map" and layout else {}
                file.create_dataset(name, data=value, **options)
        return path

    return write


@pytest.fixture
def fields() -> dict[str, Any]:
    return published_fields()
