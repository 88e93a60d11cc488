"""Shared by all tests: shapes checked against their annotations, the tiny set and its victims."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from jaxtyping import install_import_hook

# Before anything imports these. Not `codes`, `index`, `data` and `metrics`: their tests hand
# in wrong shapes on purpose to see our own errors, and numba cannot compile wrapped functions.
# Not `random`: beartype picks the element of a sequence that it checks with Python's generator,
# which the attacks must leave alone.
install_import_hook(
    [
        "hamward.attacks",
        "hamward.defenses",
        "hamward.evaluation",
        "hamward.losses",
        "hamward.models",
        "hamward.training",
    ],
    "typechecker.check",
)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from make_bert import make_bert  # noqa: E402
from tiny import SPEC, TINY_FIT, make_model, make_tiny_data  # noqa: E402

from hamward.data import RetrievalData  # noqa: E402
from hamward.evaluation.scoring import validation_scores  # noqa: E402
from hamward.models import HashModel, build_hash_model, read_by  # noqa: E402
from hamward.training import DCMH, fit  # noqa: E402

torch.set_num_threads(1)
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Commands set the number of threads of their process; the next test shall not see it."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> RetrievalData:
    return make_tiny_data()


@pytest.fixture(scope="session")
def _trained(data: RetrievalData) -> HashModel:
    model = make_model()
    fit(model, DCMH(), data, config=TINY_FIT, score=lambda m: validation_scores(m, data))
    return model


@pytest.fixture
def model(_trained: HashModel) -> HashModel:
    """A trained victim in float32, a fresh copy for every test."""
    return copy.deepcopy(_trained)


@pytest.fixture
def model64(_trained: HashModel) -> HashModel:
    """The same victim in float64."""
    return copy.deepcopy(_trained).double()


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny text transformer with random weights."""
    pytest.importorskip("transformers")
    return make_bert(tmp_path_factory.mktemp("transformer") / "bert")


@pytest.fixture(scope="session")
def _token_trained(bert: Path, data: RetrievalData, _trained: HashModel) -> HashModel:
    spec = dataclasses.replace(SPEC, text_network="transformer", text_length=8)
    model = build_hash_model(spec, seed=0, text_folder=bert, text_pretrained=True)
    model.encoder("image").load_state_dict(_trained.encoder("image").state_dict())
    read = read_by(model, data)
    config = dataclasses.replace(TINY_FIT, epochs=6)
    fit(model, DCMH(), read, config=config, score=lambda m: validation_scores(m, read))
    return model


@pytest.fixture
def token_model64(_token_trained: HashModel) -> HashModel:
    """A victim that reads tokens, in float64, a fresh copy for every test."""
    return copy.deepcopy(_token_trained).double()
