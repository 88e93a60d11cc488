"""Published optimizers against PyTorch's own, the annealed tanh, and what `ascend` keeps."""

import pytest
import torch
from torch import Tensor

from hamward.attacks import Goal, ascend
from hamward.attacks.budget import Budget
from hamward.attacks.options import StepOptions
from hamward.attacks.stepping import adam, annealing, momentum, pursue, sign_steps, unit_steps
from hamward.models import HashModel, Victim


def gradients(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(7)]


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_rules_move_as_the_optimizers_of_pytorch(name: str) -> None:
    point = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    if name == "adam":
        rule, optimizer = adam(0.01), torch.optim.Adam([point], lr=0.01)
    else:
        rule, optimizer = momentum(100.0), torch.optim.SGD([point], lr=100.0, momentum=0.9)
    mine = torch.zeros(3, 4, dtype=torch.float64)
    for step, gradient in enumerate(gradients()):
        point.grad = -gradient  # PyTorch descends
        optimizer.step()
        mine = mine + rule(gradient, step)
        torch.testing.assert_close(mine, point.detach(), rtol=0, atol=1e-9)


def test_sign_and_unit_steps_by_hand() -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert sign_steps(0.5)(gradient, 0).tolist() == [[0.5, -0.5], [0, 0]]
    assert unit_steps(2.0)(gradient, 0).flatten().tolist() == pytest.approx([1.2, -1.6, 0, 0])


def test_the_annealing_of_2000_steps() -> None:
    levels = [annealing(step / 2000) for step in range(2001)]
    for first, level in ((0, 0.1), (1000, 0.2), (1200, 0.3), (1400, 0.5), (1600, 0.7), (1800, 1)):
        assert levels[first] == level
        assert first == 0 or levels[first - 1] < level
    assert levels[-1] == 1.0


def test_the_best_iterate_is_the_one_of_largest_merit(model64: HashModel) -> None:
    """A merit that likes the clean item best keeps it, whatever the loss wants."""
    x = torch.full((2, 12), 0.5, dtype=torch.float64)
    victim = Victim(model=model64)
    seen: list[Tensor] = []
    goal = Goal(modality="text", anchor=torch.ones(2, 16, dtype=torch.int8))

    def merit(logits: Tensor) -> Tensor:
        seen.append(logits)
        return -(logits - seen[0]).square().sum(1)

    with victim.attacked():
        kept = ascend(
            victim,
            x,
            goal,
            loss=lambda logits: logits.sum(1),
            budget=Budget(eps=0.2),
            steps=3,
            step_size=0.1,
            start=x,
            merit=merit,
        )
    assert torch.equal(kept, x) and len(seen) == 4
    assert not torch.equal(seen[0], seen[-1])


def test_alpha_scales_what_the_loss_sees_and_penalty_holds_back(model64: HashModel) -> None:
    x = torch.full((1, 12), 0.5, dtype=torch.float64)
    victim = Victim(model=model64)
    goal = Goal(modality="text", anchor=torch.ones(1, 16, dtype=torch.int8))
    clean = model64.eval().logits("text", x).detach()
    sizes: list[float] = []

    def run(weight: float) -> Tensor:
        def loss(logits: Tensor) -> Tensor:
            sizes.append(float(logits.detach().abs().sum()))
            return logits.sum(1)

        with victim.attacked():
            return ascend(
                victim,
                x,
                goal,
                loss=loss,
                budget=Budget(eps=0.2),
                steps=10,
                step_size=0.1,
                start=x,
                merit=lambda logits: torch.zeros(1),
                alpha=lambda share: 0.1 if share < 1 else 2.0,
                penalty=lambda delta: weight * delta.square().sum(1),
            )

    free = run(0.0)
    assert sizes[0] == pytest.approx(0.1 * float(clean.abs().sum()))
    assert sizes[-1] > 5 * sizes[-2]
    assert float((run(1e6) - x).abs().max()) < 1e-12 < float((free - x).abs().max())


def test_random_starts_belong_to_the_item(model64: HashModel) -> None:
    still = StepOptions(text_eps=0.1, steps=0, step_size=0.1, random_start=True)
    x = torch.full((4, 12), 0.5, dtype=torch.float64)
    goal = Goal(modality="text", anchor=torch.ones(4, 16, dtype=torch.int8))
    ids = torch.tensor([3, 9, 5, 3])
    made = pursue(
        still,
        Victim(model=model64),
        x,
        goal,
        ids=ids,
        seed=1,
        loss=lambda logits: logits.sum(1),
    )
    delta = made - x
    assert torch.equal(delta[0], delta[3]) and not torch.equal(delta[0], delta[1])
    assert delta.abs().max() <= 0.1 and delta.min() < -0.05 and delta.max() > 0.05
