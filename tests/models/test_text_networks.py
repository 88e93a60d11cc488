"""What every text network must keep, and the multi-scale one by hand and by loop."""

import pytest
import torch

from hamward.errors import UnknownNameError
from hamward.models import ModelSpec, build_hash_model
from hamward.models.networks import TEXT_NETWORKS, MultiScaleText, text_network
from hamward.random import seeded


def network(name: str, vocabulary: int) -> torch.nn.Module:
    with seeded(3):
        return text_network(name, vocabulary=vocabulary, width=40).double()


def bags(n: int, vocabulary: int) -> torch.Tensor:
    x = torch.rand(n, vocabulary, generator=torch.Generator().manual_seed(1)) < 0.3
    return x.double()


@pytest.mark.parametrize("vocabulary", [1, 4, 12, 61])
@pytest.mark.parametrize("name", TEXT_NETWORKS)
def test_items_do_not_see_each_other(name: str, vocabulary: int) -> None:
    trunk, x = network(name, vocabulary), bags(5, vocabulary)
    whole = trunk(x)
    assert whole.shape == (5, trunk.width) and whole.min() >= 0
    torch.testing.assert_close(trunk(x[3:4]), whole[3:4], rtol=0, atol=1e-12)
    assert trunk(x[:0]).shape == (0, 40)
    x.requires_grad_(True)
    trunk(x)[1].sum().backward()
    assert x.grad is not None and x.grad[1].any()
    assert not x.grad[[0, 2, 3, 4]].any()


@pytest.mark.parametrize("name", TEXT_NETWORKS)
def test_it_builds_by_name_in_a_model(name: str) -> None:
    spec = ModelSpec(
        code_length=8, vocabulary=30, image_network="", text_network=name, text_width=16
    )
    assert build_hash_model(spec, seed=0).eval().logits("text", torch.ones(2, 30)).shape == (2, 8)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'multi-scale'"):
        text_network("multiscale", vocabulary=3, width=3)


def stretched(values: list[float], size: int) -> list[float]:
    """Linear interpolation between the centers of equal cells, flat beyond the outer ones."""
    result = []
    for position in range(size):
        center = (position + 0.5) * len(values) / size - 0.5
        center = min(max(center, 0), len(values) - 1)
        low = int(center)
        high = min(low + 1, len(values) - 1)
        result.append(values[low] + (center - low) * (values[high] - values[low]))
    return result


@pytest.mark.parametrize("vocabulary", [12, 61])
def test_the_scales_equal_a_loop(vocabulary: int) -> None:
    trunk, (x,) = network("multi-scale", vocabulary), bags(1, vocabulary)
    assert isinstance(trunk, MultiScaleText)
    assert trunk.windows == (50, 30, 15, 10, 5)
    with torch.no_grad():
        trunk.scale.copy_(torch.tensor([1.0, -0.5, 2.0, 0.7, 3.0]))
        trunk.shift.copy_(torch.tensor([0.1, 0.2, -0.3, 0.0, -0.5]))
    channels = x.tolist()
    learned = trunk.scale.tolist(), trunk.shift.tolist()
    for window, scale, shift in zip(trunk.windows, *learned, strict=True):
        means = []
        for start in range(0, vocabulary, min(window, vocabulary)):
            part = x[start : start + min(window, vocabulary)].tolist()
            means.append(max(scale * sum(part) / len(part) + shift, 0))
        channels += stretched(means, vocabulary)
    expected = trunk.hidden.weight @ torch.tensor(channels, dtype=torch.float64) + trunk.hidden.bias
    torch.testing.assert_close(trunk(x[None])[0], expected.clamp(min=0))


def test_a_word_of_a_short_last_window_counts() -> None:
    """61 words, windows of 5: word 60 is alone in the last one."""
    trunk = network("multi-scale", 61)
    assert isinstance(trunk, MultiScaleText)
    with torch.no_grad():
        trunk.hidden.weight[:, :61] = 0  # the scales alone
        one = torch.zeros(1, 61, dtype=torch.float64)
        one[0, 60] = 1
        trunk.hidden.bias.fill_(10)
        assert not torch.equal(trunk(one), trunk(torch.zeros_like(one)))
