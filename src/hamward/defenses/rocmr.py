"""RoCMR: adversarial pictures and texts inside the contrastive loss of a dual encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks import Attack, InfoNCE, OwnCode
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.defenses.adversarial import DEFENSES, OverBase
from hamward.defenses.inner_loop import InnerLoop, Perturbation, Role, Variant
from hamward.defenses.overfitting import OverfittingMonitor
from hamward.defenses.sampler import AdversarialLearning
from hamward.defenses.texts import TextAttack, with_text
from hamward.errors import ConfigError
from hamward.losses import unit_logits
from hamward.models import HashModel, Victim
from hamward.training import DualEncoder, Objective, Step
from hamward.training.dual_encoder import symmetric_contrast
from hamward.training.requirements import check_not_negative, require_pairs
from hamward.types import MODALITIES, Modality

__all__ = ["RoCMR", "Weights", "rocmr"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """J = clean L(X, T) + image L(X', T) + text L(X, T') + both L(X', T').

    Attributes:
        clean: w0.
        image: w1.
        text: w2.
        both: w3.
    """

    clean: float
    image: float
    text: float
    both: float

    def moved(self, sides: tuple[Modality, ...]) -> "Weights":
        """Return the weights where only some sides are perturbed: X' = X, or T' = T."""
        clean, image, text, both = self.clean, self.image, self.text, self.both
        if "text" not in sides:
            clean, image, text, both = clean + text, image + both, 0.0, 0.0
        if "image" not in sides:
            clean, text, image, both = clean + image, text + both, 0.0, 0.0
        return Weights(clean=clean, image=image, text=text, both=both)


@dataclass(kw_only=True)
class RoCMR(OverBase):
    """The contrastive loss on clean and adversarial pairs, both modalities perturbed at once.

    J = w0 L(X, T) + w1 L(X', T) + w2 L(X, T') + w3 L(X', T'), and the inner loop climbs the
    adversarial terms of the very same J: one forward and backward pass of both encoders moves
    pictures and texts of a batch together. The batch is the candidate set. Hash models are read
    through tanh(u / median |u|) where items are adversarial, which no factor on the logits
    saturates, against the codes of the clean partners; clean ones as in `DualEncoder`.

    Source: Zhang, Sun and Zhao, "Robust Cross-Modal Retrieval by Adversarial Training", IJCNN
        2022: adversarial examples for queries and candidates, trained on together with clean
        ones, in a contrastive framework. "free" is Shafahi et al., NeurIPS 2019; "fast" Wong,
        Rice and Kolter, ICLR 2020.
    Differs: only the abstract of the paper is public: weights, steps, budgets and the hashing
        form are INFERRED. Texts are edited, not moved in an embedding,
        unless `text` is "feature-space". The published relaxation's growing beta and the anchor
        to the original encoder are left out. Inner loops of "pgd" and "fast" run in eval mode;
        "free" takes its gradients from the training pass and so in train mode, and an epoch of
        it holds `replays` times the steps.

    Attributes:
        base: The objective that the model was trained with.
        inner: The inner loop.
        weights: w0 to w3.
        config: Which sides, and the warm-up of eps; `weight` is 1 - w0.
        seed: Seed of starts and of numbers of edits.
    """

    base: DualEncoder
    inner: InnerLoop
    weights: Weights
    config: AdversarialLearning
    seed: int = 0
    held: tuple[Tensor, Perturbation] | None = field(default=None, init=False)

    @property
    def replays(self) -> int:
        """How many times in a row a batch is trained on."""
        return self.inner.replays if self.inner.variant == "free" else 1

    @property
    def attack(self) -> Attack:
        """Ten steps, for the validation: the contrastive attack where labels are the targets."""
        return self._probe(steps=10, step_size=0.4, random_start=False)

    @property
    def monitor(self) -> OverfittingMonitor | None:
        """Watches training against one step."""
        if self.inner.variant != "fast":
            return None
        return OverfittingMonitor(
            one_step=self._probe(steps=1, step_size=self.inner.stride, random_start=True)
        )

    def _probe(self, *, steps: int, step_size: float, random_start: bool) -> Attack:
        inner = self.inner
        image: Attack
        if self.base.supervised:
            image = InfoNCE(
                eps=inner.eps,
                text_eps=inner.text_eps,
                steps=steps,
                step_size=step_size,
                random_start=random_start,
                references=256,
            )
        else:
            image = OwnCode(
                eps=inner.eps,
                text_eps=inner.text_eps,
                steps=steps,
                step_size=step_size,
                random_start=random_start,
            )
        return with_text(image, inner.text, edits=inner.edits, steps=min(steps, 2))

    def verdict(self, history: Sequence[dict[str, float]]) -> str:
        """Say why training must end; "" if it need not."""
        return self.monitor.verdict(history) if self.monitor is not None else ""

    def check_victim(self, model: HashModel, data: RetrievalData) -> None:
        """Refuse a model or data of one modality.

        Raises:
            ConfigError: they are.
        """
        require_pairs("rocmr", model)
        missing = [m for m in MODALITIES if m not in data.modalities]
        if missing:
            raise ConfigError(
                f"rocmr perturbs pictures and texts: {data.name} has no {missing[0]}s"
            )

    def end_epoch(self) -> None:
        """Forget the last batch; update the base's buffers."""
        self.held = None
        super().end_epoch()

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return J of a batch; the base's loss while nothing may be perturbed."""
        size = self.config.size(step.share)
        sides = self._sides(size)
        weights = self.weights.moved(sides)
        if not sides:
            return self.base.loss(model, step)
        matches = self.base.matches(step.rows)
        if self.inner.variant == "free":
            moved = self._replayed(step, sides, size=size)
        else:
            moved = self._climbed(model, step, sides, size=size, matches=matches)
        relaxed, read, fixed = {}, {}, {}
        for m in MODALITIES:
            x = step.items[m]
            both = torch.cat([x, moved[m]]) if m in moved else x
            logits = model.logits(m, both, low_precision=True)
            relaxed[m] = self.base.activate(model, logits[: len(x)])
            read[m] = _read(model, logits[-len(x) :])
            fixed[m] = _fixed(model, logits[: len(x)])
        scale = self.base.modules["temperature"]()
        clean = symmetric_contrast(relaxed["image"], relaxed["text"], matches, scale=scale)
        adversarial = _adversarial(read, fixed, matches, weights=weights, scale=scale)
        total = weights.clean * clean + adversarial
        if model.spec.retrieval == "hamming":
            total = total + self.base.pull(relaxed["image"], relaxed["text"])
        return total

    def _sides(self, size: float) -> tuple[Modality, ...]:
        """Return what is perturbed: with a budget, and with a weight in J."""
        shares = {"image": self.weights.image, "text": self.weights.text}
        return tuple(
            m
            for m in self.config.modalities
            if size * self.inner.budget(m).eps > 0 and shares[m] + self.weights.both > 0
        )

    def _climbed(
        self,
        model: HashModel,
        step: Step,
        sides: tuple[Modality, ...],
        *,
        size: float,
        matches: Tensor,
    ) -> dict[Modality, Tensor]:
        """Return items after the steps of the inner loop, both modalities in each."""
        weights = self.weights.moved(sides)
        scale = self.base.modules["temperature"]().detach()
        if self.inner.temperature is not None:
            scale = torch.ones_like(scale) / self.inner.temperature
        items = {m: step.items[m] for m in sides}
        seed = self.seed * 100_003 + step.epoch
        going = Perturbation.start(self.inner, items, step, size=size, seed=seed)
        victim = Victim(model=model, low_precision=True)
        with victim.attacked():
            with torch.no_grad():
                clean = {m: victim.logits(m, step.items[m]) for m in MODALITIES}
            fixed = {m: _fixed(model, u) for m, u in clean.items()}
            read = {m: _read(model, u) for m, u in clean.items()}
            for _ in range(self.inner.count):
                leaves = going.leaves()
                now = {m: _read(model, victim.logits(m, x)) for m, x in leaves.items()}
                value = _adversarial(
                    {**read, **now},
                    fixed,
                    matches,
                    weights=weights,
                    scale=scale,
                    i2t=self.inner.i2t,
                )
                gradients = torch.autograd.grad(value, list(leaves.values()))
                going.move(dict(zip(leaves, gradients, strict=True)))
        return {m: x.detach() for m, x in going.now.items()}

    def _replayed(
        self, step: Step, sides: tuple[Modality, ...], *, size: float
    ) -> dict[Modality, Tensor]:
        """Return items moved by the gradient that the last replay left in them."""
        if step.number % self.replays and self.held is not None:
            rows, going = self.held
            if torch.equal(rows, step.rows):
                going.move({m: x.grad for m, x in going.now.items() if x.grad is not None})
                return going.leaves()
        items = {m: step.items[m] for m in sides}
        seed = self.seed * 100_003 + step.epoch
        going = Perturbation.start(self.inner, items, step, size=size, seed=seed)
        self.held = step.rows, going
        return going.leaves()


def _read(model: HashModel, logits: Tensor) -> Tensor:
    """Return what adversarial items are compared by: embeddings, or codes without saturation."""
    return torch.tanh(unit_logits(logits)) if model.spec.retrieval == "hamming" else logits


def _fixed(model: HashModel, logits: Tensor) -> Tensor:
    """Return what they are compared with: clean embeddings, or clean codes, which stand still."""
    if model.spec.retrieval == "hamming":
        return binarize(logits.detach()).to(logits.dtype)
    return logits


def _adversarial(
    read: dict[Modality, Tensor],
    fixed: dict[Modality, Tensor],
    matches: Float[Tensor, "b b"],
    *,
    weights: Weights,
    scale: Tensor,
    i2t: float = 0.5,
) -> Float[Tensor, ""]:
    """Return w1 L(X', T) + w2 L(X, T') + w3 L(X', T').

    Args:
        read: X' and T'.
        fixed: X and T.
        matches: 1 where picture i and text j belong together.
        weights: w0 to w3.
        scale: 1 / tau.
        i2t: Share of the direction in which a perturbed picture asks; that in which a perturbed
            text asks is its mirror.
    """
    total = torch.zeros((), device=matches.device)
    if weights.image:
        pair = read["image"], fixed["text"]
        total = total + weights.image * symmetric_contrast(*pair, matches, scale=scale, i2t=i2t)
    if weights.text:
        pair = fixed["image"], read["text"]
        total = total + weights.text * symmetric_contrast(*pair, matches, scale=scale, i2t=1 - i2t)
    if weights.both:
        pair = read["image"], read["text"]
        total = total + weights.both * symmetric_contrast(*pair, matches, scale=scale)
    return total


@DEFENSES.register(
    "rocmr",
    summary="Contrastive training on clean and adversarial pictures and texts of a dual encoder",
    citation="Zhang, Sun and Zhao, IJCNN 2022",
    access="training",
    threat="white-box l_inf on images, typed edits or feature-space l_inf on texts",
)
def rocmr(
    base: Objective,
    *,
    seed: int = 0,
    variant: Variant = "pgd",
    eps: float = 8 / 255,
    text: TextAttack = "edits",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 5,
    replays: int = 4,
    role: Role = "both",
    temperature: float | None = None,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0),
    modalities: tuple[Modality, ...] = MODALITIES,
    warmup: float = 0.0,
) -> RoCMR:
    """Return RoCMR over the objective of a trained dual encoder.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the inner loop.
        variant: See `InnerLoop`.
        eps: See `InnerLoop`.
        text: See `InnerLoop`.
        text_eps: See `InnerLoop`.
        edits: See `InnerLoop`.
        steps: See `InnerLoop`.
        replays: See `InnerLoop`.
        role: See `InnerLoop`.
        temperature: See `InnerLoop`.
        weights: Of L(X, T), L(X', T), L(X, T') and L(X', T'); divided by their sum. MMCoA is
            0, 1, 1, 0.
        modalities: See `AdversarialLearning`.
        warmup: See `AdversarialLearning`.

    Raises:
        ConfigError: the victim is no dual encoder, or a value is out of range.
    """
    if not isinstance(base, DualEncoder):
        raise ConfigError(
            "rocmr perturbs the pictures and texts of one contrastive batch: the victim must be "
            f"trained by dual-encoder (recipes dual-encoder, dual-encoder-hash), not "
            f"{type(base).__name__}"
        )
    if len(weights) != 4 or sum(weights) <= 0:
        raise ConfigError(
            "weights must be four numbers, of L(X, T), L(X', T), L(X, T') and L(X', T'), and not "
            f"all 0, got {weights}"
        )
    check_not_negative("rocmr", **{f"weights[{i}]": w for i, w in enumerate(weights)})
    w0, w1, w2, w3 = (w / sum(weights) for w in weights)
    inner = InnerLoop(
        variant=variant,
        eps=eps,
        text=text,
        text_eps=text_eps,
        edits=edits,
        steps=steps,
        replays=replays,
        role=role,
        temperature=temperature,
    )
    config = AdversarialLearning(weight=1 - w0, modalities=modalities, warmup=warmup)
    shares = Weights(clean=w0, image=w1, text=w2, both=w3)
    return RoCMR(base=base, inner=inner, weights=shares, config=config, seed=seed)
