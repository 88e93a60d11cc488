"""Transfer: craft on a model that the attacker already has, send the result to the victim."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hamward.attacks.base import ATTACKS
from hamward.attacks.budget import Budget
from hamward.attacks.own_code import OwnCode
from hamward.attacks.surrogate import OnSurrogate
from hamward.data import RetrievalData
from hamward.errors import ShapeError
from hamward.models import Victim, load_model
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.types import MODALITIES, Modality

__all__ = ["Transfer"]


@ATTACKS.register(
    "transfer",
    summary="Own-code PGD on a surrogate from a run folder; the victim is asked nothing",
    citation="hamward; Papernot, McDaniel and Goodfellow, 2016, on own-code PGD",
    access="ranks",
    threat="black-box (no query), untargeted, label-free, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Leave the surrogate's clean code and hope that the victim's is left too.

    Source: hamward; the substitute model of Papernot, McDaniel and Goodfellow, 2016, under own-code
        PGD.
    Differs: nothing known. What the surrogate was trained on is the attacker's knowledge:
        one trained on the victim's own data set makes a stronger attacker than most.

    Attributes:
        run: Run folder of the surrogate, as `hamward train` writes it. Its code length and
            networks may differ from the victim's.
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words (feature space).
        steps: Gradient steps on the surrogate.
        step_size: First step relative to the radius.
    """

    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False

    run: str
    eps: float = 8 / 255
    text_eps: float = 0.05
    steps: int = 100
    step_size: float = 0.1

    def __post_init__(self) -> None:
        self._own_code()

    @property
    def query_limit(self) -> int:
        """0: nothing is submitted."""
        return 0

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps (images) or text_eps (bags of words)."""
        return self._own_code().budget(modality)

    def _own_code(self) -> OwnCode:
        return OwnCode(
            eps=self.eps, text_eps=self.text_eps, steps=self.steps, step_size=self.step_size
        )

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> OnSurrogate:
        """Read the surrogate and return own-code PGD on it.

        Raises:
            ArtifactError: the folder holds no model, or a damaged one.
            AccessError: the surrogate has no encoder for the modality.
            ShapeError: it reads other pictures or another vocabulary than the data has.
        """
        surrogate, _ = load_model(Path(self.run))
        surrogate.encoder(modality)
        spec, seen = surrogate.spec, (data.image_side, len(data.words))
        image = modality == "image"
        if (spec.image_side if image else spec.vocabulary) != seen[0 if image else 1]:
            raise ShapeError(
                f"{self.run}: the surrogate reads "
                + (
                    f"pictures of side {spec.image_side}, {data.name} has {seen[0]}"
                    if image
                    else f"bags of {spec.vocabulary} words, {data.name} has {seen[1]}"
                )
            )
        device = next(victim.model.parameters()).device
        return OnSurrogate(
            model=surrogate.to(device).requires_grad_(False),
            attack=self._own_code(),
            name="transfer",
        )
