"""The tiny set, the tiny victim and the tiny training that the tests share."""

from functools import partial

import numpy as np
import torch

from hamward.data import RetrievalData, Split
from hamward.models import HashModel, ModelSpec, build_hash_model
from hamward.models.networks import IMAGE_NETWORKS, SmallResNet
from hamward.training import FitConfig, Phase, Step, modalities_in

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
