"""One evaluation and one board for all tests of the leaderboard."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_board import write_evaluation, write_victim

from hamward.data import RetrievalData
from hamward.leaderboard import add_run
from hamward.models import HashModel


@pytest.fixture(autouse=True, scope="session")
def _tiny_data(data: RetrievalData) -> Iterator[None]:
    """Every data set is the tiny one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
        yield


@pytest.fixture(scope="session")
def evaluation(
    _tiny_data: None,
    _trained: HashModel,
    data: RetrievalData,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    base = tmp_path_factory.mktemp("evaluated")
    return write_evaluation(base / "run", write_victim(base / "tiny", _trained, data))


@pytest.fixture(scope="session")
def made(evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board that nobody changes."""
    board = tmp_path_factory.mktemp("boards") / "board"
    add_run(evaluation, board)
    return board


@pytest.fixture
def board(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "board"))
