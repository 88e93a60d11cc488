"""The board that all tests of the leaderboard look at, and copies for those that change it."""

import shutil
from pathlib import Path

import pytest
from made_board import made_once

from hamward.data import RetrievalData
from hamward.models import HashModel


@pytest.fixture(scope="module")
def made(
    _trained: HashModel, data: RetrievalData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A board that nobody changes."""
    return made_once(tmp_path_factory, _trained, data)[1]


@pytest.fixture
def board(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "board"))
