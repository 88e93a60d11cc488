"""A folded encoder is the same function in eval mode, and the original stays as it was."""

import copy

import pytest
import torch

from hamward.models import HashModel, ModelSpec, Victim, build_hash_model
from hamward.models.folding import fold
from hamward.models.networks import bf16_supported

FOLDABLE = ["efficientnet-lite0", "resnet-18", "small-resnet"]  # with BatchNorm, at any side


@pytest.fixture(params=FOLDABLE)
def used(request: pytest.FixtureRequest) -> HashModel:
    """A model whose BatchNorms are far from the identity."""
    spec = ModelSpec(
        code_length=8, vocabulary=4, image_side=32, image_network=request.param, text_width=8
    )
    model = build_hash_model(spec, seed=0).double().eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
            ):
                assert value is not None
                value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return model


def pictures(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def test_logits_and_input_gradients_are_the_same(used: HashModel) -> None:
    encoder = used.encoder("image")
    before = copy.deepcopy(encoder.state_dict())
    quick = fold(encoder)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in quick.modules())
    gradients, values = [], []
    for network in (encoder, quick):
        x = pictures().requires_grad_(True)
        u = network(x)
        values.append(u.detach())
        gradients.append(torch.autograd.grad(u.square().sum(), x)[0])
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-14)
    assert values[0].std(0).min() > 0, "pictures differ"
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_the_victim_folds_while_it_is_attacked_only(used: HashModel) -> None:
    victim = Victim(model=used)
    plain = victim.logits("image", pictures()).detach()
    with victim.attacked():
        torch.testing.assert_close(victim.logits("image", pictures()), plain, rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            used.encoder("image").head.bias += 1  # held by reference: a head is never copied
        moved = victim.logits("image", pictures())
        torch.testing.assert_close(moved, plain + 1, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        next(used.encoder("image").trunk.parameters()).mul_(1.5)
    torch.testing.assert_close(victim.logits("image", pictures()), used.logits("image", pictures()))
    with victim.attacked():  # folded anew: a model that has been trained on is not stale
        torch.testing.assert_close(
            victim.logits("image", pictures()), used.logits("image", pictures())
        )


def test_low_precision_casts_where_it_pays() -> None:
    spec = ModelSpec(code_length=8, vocabulary=4, image_side=32, image_network="small-resnet")
    encoder = build_hash_model(spec, seed=0).eval().encoder("image")
    quick = fold(encoder, low_precision=True)
    expected = torch.bfloat16 if bf16_supported(torch.device("cpu")) else torch.float32
    assert {p.dtype for p in quick.trunk.parameters()} == {expected}
    assert quick.head.weight.dtype == torch.float32
    x = pictures().float()
    with torch.no_grad():
        exact, rough = encoder(x), quick(x)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().max() < 0.1 * exact.abs().max()
    double = copy.deepcopy(encoder).double()
    assert fold(double, low_precision=True).head.weight.dtype == torch.float64
    assert next(fold(double, low_precision=True).trunk.parameters()).dtype == torch.float64


def test_an_encoder_without_batch_norm_is_left_alone(used: HashModel) -> None:
    assert fold(used.encoder("text")) is used.encoder("text")
