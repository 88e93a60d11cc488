"""Shared by all tests: shapes checked against their annotations, one tiny set, one tiny victim."""

import copy
import dataclasses
from collections.abc import Iterator
from functools import partial
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
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from make_bert import make_bert  # noqa: E402

from hamward.data import RetrievalData, Split  # noqa: E402
from hamward.evaluation.scoring import validation_scores  # noqa: E402
from hamward.models import HashModel, ModelSpec, build_hash_model, read_by  # noqa: E402
from hamward.models.networks import IMAGE_NETWORKS, SmallResNet  # noqa: E402
from hamward.training import DCMH, FitConfig, Phase, Step, fit, modalities_in  # noqa: E402

torch.set_num_threads(1)
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")

# The small residual network, a quarter as wide and for small pictures: most of the time of the
# suite is its convolutions. On one thread: with 8 channels and two, PyTorch 2.13 corrupts its heap
# in the backward pass on some CPUs.
IMAGE_NETWORKS["tiny-resnet"] = partial(  # type: ignore[index]
    SmallResNet, channels=(8, 16, 32, 64), first_stride=1
)
SPEC = ModelSpec(
    code_length=16, vocabulary=12, image_side=16, image_network="tiny-resnet", text_width=32
)


def make_tiny_data() -> RetrievalData:
    """96 pictures of side 16, four labels that show as a color and a place, three words each."""
    rng = np.random.default_rng(7)
    n = 96
    first = np.arange(n) % 4
    labels = np.eye(4, dtype=np.uint8)[first]
    labels[::12, 3] = 1  # some items have two labels
    images = rng.integers(116, 140, (n, 3, 16, 16))
    bags = np.zeros((n, 12), np.uint8)
    colors = np.array([[20, -20, -20], [-20, 20, -20], [-20, -20, 20], [20, 20, -20]])
    for item in range(n):
        for label in np.flatnonzero(labels[item]):
            row, column = 8 * (label // 2), 8 * (label % 2)
            images[item, :, row : row + 8, column : column + 8] += colors[label][:, None, None]
            bags[item, 3 * label + rng.choice(3, 2, replace=False)] = 1
    bags[[2, 50]] = 0  # a query and a database item without words
    return RetrievalData(
        name="tiny",
        images=images.clip(0, 255).astype(np.uint8),
        bags=bags,
        texts=tuple(" ".join(f"w{j}" for j in np.flatnonzero(bag)) for bag in bags),
        labels=labels,
        words=tuple(f"w{j}" for j in range(12)),
        label_names=("red", "green", "blue", "yellow"),
        ids=np.arange(n, dtype=np.int64) * 7 + 1000,
        split=Split(
            query=np.arange(0, 24),
            database=np.arange(24, n),
            train=np.arange(24, 72),
            validation=np.arange(72, 88),
        ),
    )


def make_model(seed: int = 0, spec: ModelSpec = SPEC) -> HashModel:
    return build_hash_model(spec, seed=seed)


def step_of(data: RetrievalData, phase: Phase, rows: torch.Tensor, *, epoch: int = 1) -> Step:
    """The step of a training that sees these training items."""
    chosen = data.split.train[rows.numpy()]
    return Step(
        phase=phase,
        items={m: data.inputs(m, chosen) for m in modalities_in(phase)},
        rows=rows,
        ids=torch.tensor(data.ids[chosen]),
        epoch=epoch,
        number=0,
        total=100,
    )


TINY_FIT = FitConfig(
    epochs=24, batch_size=16, image_rate=1e-3, text_rate=1e-2, head_factor=10, flip=False
)


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
