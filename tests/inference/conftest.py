"""Runs that several tests use."""

from __future__ import annotations

import pytest

from tests.helpers.picture_runs import PictureRuns, make_picture_runs


@pytest.fixture(scope="session")
def picture_runs(tmp_path_factory: pytest.TempPathFactory) -> PictureRuns:
    return make_picture_runs(tmp_path_factory.mktemp("pictures"))
