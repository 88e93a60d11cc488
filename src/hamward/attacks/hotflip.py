"""HotFlip: a few words of a text replaced by near ones, for victims that read tokens."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from hamward.attacks.anchors import Pool, center_codes
from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.budget import Budget
from hamward.attacks.edit_search import code_loss, in_chunks, served_bits
from hamward.errors import ConfigError
from hamward.models import Victim
from hamward.models.text_transformer import TextTransformer
from hamward.models.victim import Access
from hamward.types import Modality

__all__ = ["HotFlip", "HotFlipTargeted"]

_GRID = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What both forms share.

    Attributes:
        substitutions: Most words of a text that are replaced.
        candidates: Replacements of a text that a step scores exactly.
        neighbors: Most replacements that a word has: the nearest in the embedding table.
        cosine: Least cosine of a word's embedding and its replacement's.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)

    substitutions: int = 2
    candidates: int = 16
    neighbors: int = 10
    cosine: float = 0.4

    def __post_init__(self) -> None:
        self.budget("text")
        for name in ("candidates", "neighbors"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not -1 <= self.cosine <= 1:
            raise ConfigError(f"cosine must be in [-1, 1], got {self.cosine:g}")

    def budget(self, modality: Modality) -> Budget:
        """Return the budget of substitutions.

        Raises:
            ConfigError: pictures have no words.
        """
        if modality != "text":
            raise ConfigError(f"words are replaced in texts, not in items of modality {modality!r}")
        return Budget(eps=self.substitutions, norm="substitutions")


@ATTACKS.register(
    "hotflip",
    summary="Words replaced by near ones, ranked by the gradient and scored exactly",
    citation="Ebrahimi, Rao, Lowd and Dou, ACL 2018, on the Hamming distance",
    access="gradients",
    threat="white-box, untargeted, label-free, query side, texts as typed, victims of tokens",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class HotFlip(_Options):
    """Flip most bits of the clean code (or reach a given code) with a few other words.

    In each step the first-order gain (E(v) - E(w)) . g ranks the replacements v of all words w
    that still stand, E the embedding table and g the gradient of `losses.auto_temperature` at
    w's embedding; the first `candidates` go through the victim, and the one that serves most
    bits is made; among equals that loss decides, then position and nearness. The best text of
    all steps is returned, the clean one included. Every result is a text that a person could
    type: only words that are one token give way, only to such words, and what is stored gives
    the same ids when it is typed and read again. Special tokens stay, and so do words of
    several pieces and texts that tokenize to something else once typed.

    Source: Ebrahimi, Rao, Lowd and Dou, "HotFlip: White-Box Adversarial Examples for Text
        Classification", ACL 2018, Sec. 3 (the first-order estimate) and Sec. 5 (words: cosine of
        embeddings); the shortlist is scored again as in TextAttack's recipe of it.
    Differs: paper: characters, beam search, and for words a cosine of at least 0.8 and the same
        part of speech; here words, greedy, the victim's own table, where synonyms lie near 0.5,
        and no part of speech. A word is replaced once.
    """

    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return texts with other words, as token ids; see `Attack`."""
        victim.require(self.access, "hotflip")
        goal.check(victim, x, ids, budget=self.budget(goal.modality))
        return _search(self, victim, x, goal)


@ATTACKS.register(
    "hotflip-targeted",
    summary="HotFlip to the center code of a target's items",
    citation="Ebrahimi, Rao, Lowd and Dou, ACL 2018, on the Hamming distance",
    access="gradients",
    threat="white-box, targeted, knows database codes, query side, texts as typed, victims of "
    "tokens",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class HotFlipTargeted(_Options):
    """`HotFlip` toward the center code of the retrieved modality's items with the target's
    labels.

    Source: as `HotFlip`.
    Differs: as `HotFlip`, but for where it goes: that is ours.
    """

    targeted: ClassVar[bool] = True
    needs_references: ClassVar[bool] = True

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return texts with other words, as token ids; see `Attack`."""
        victim.require(self.access, "hotflip-targeted")
        goal.check(victim, x, ids, budget=self.budget(goal.modality))
        pool = Pool.of(goal, "other", who="hotflip-targeted", targeted=True)
        code = center_codes(pool, goal.anchor)
        return _search(self, victim, x, dataclasses.replace(goal, anchor=code, toward=True))


def _search(options: _Options, victim: Victim, x: Tensor, goal: Goal) -> Tensor:
    reader = victim.model.text_transformer
    assert reader is not None  # `goal.check` has seen a victim of tokens
    x, best = x.detach(), x.clone()
    if options.substitutions == 0 or len(x) == 0:
        return best
    victim = dataclasses.replace(victim, low_precision=False)  # bits are decided here
    most = victim.code_length
    open_ = reader.tokens.single_words(x)

    loss = code_loss(goal)
    bits = served_bits(goal, loss)

    def score(rows: Tensor, texts: Tensor) -> Float64[Tensor, " m"]:
        with torch.no_grad():
            return bits(rows, victim.logits("text", texts))

    def slope(rows: Tensor, texts: Tensor) -> Float[Tensor, "m l d"]:
        leaf = reader.embeddings(texts).requires_grad_(True)
        value = loss(rows, victim.logits("text", leaf)).sum()
        (gradient,) = torch.autograd.grad(value, leaf)
        return gradient[:, :, :-1]

    with victim.attacked():
        near = _Neighbors.of(reader, x[open_], options)
        rows = torch.arange(len(x), device=x.device)
        now, reached = x.clone(), in_chunks(score, rows, x)
        for _ in range(options.substitutions):
            rows = rows[(reached[rows] < most) & open_[rows].any(1)]
            if not len(rows):
                break
            gain, tokens = near.gains(now[rows], in_chunks(slope, rows, now[rows]), open_[rows])
            order = gain.argsort(dim=1, descending=True, stable=True)[:, : options.candidates]
            valid = gain.gather(1, order) > -torch.inf
            item, place = valid.nonzero(as_tuple=True)
            position = order[item, place] // tokens.shape[2]
            token = tokens.flatten(1)[item, order[item, place]]
            texts = now[rows[item]].scatter(1, position[:, None], token[:, None])
            value = torch.full(valid.shape, -torch.inf, dtype=torch.float64, device=x.device)
            value[valid] = in_chunks(score, rows[item], texts)
            top, chosen = value.max(1)
            found = top > -torch.inf
            made = torch.zeros_like(valid, dtype=torch.int64)
            made[valid] = torch.arange(len(item), device=x.device)
            picked = made.gather(1, chosen[:, None])[:, 0][found]
            rows, top = rows[found], top[found]
            now[rows] = texts[picked]
            open_[rows, position[picked]] = False
            better = top > reached[rows]
            best[rows[better]] = now[rows[better]]
            reached[rows[better]] = top[better]
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbors:
    """Replacements of the words of some texts.

    Attributes:
        row: Where a token's replacements stand below, (V,).
        tokens: Replacements, nearest first, (w, c).
        valid: Which of them are near enough, (w, c).
        table: The embedding table, (V, D).
    """

    row: Int64[Tensor, " v"]
    tokens: Int64[Tensor, "w c"]
    valid: Bool[Tensor, "w c"]
    table: Float[Tensor, "v d"]

    @classmethod
    def of(
        cls, reader: TextTransformer, words: Int64[Tensor, " m"], options: _Options
    ) -> "_Neighbors":
        table = reader.table.detach()
        unit = torch.nn.functional.normalize(table.double(), dim=1)
        allowed = reader.tokens.vocabulary_words.to(table.device).nonzero()[:, 0]
        asked = torch.unique(words)
        # On a grid: rounding in another batch must not decide which of two words is nearer.
        cosine = (unit[asked] @ unit[allowed].T * _GRID).round() / _GRID
        cosine = cosine.masked_fill(asked[:, None] == allowed[None], -torch.inf)
        value, place = cosine.sort(dim=1, descending=True, stable=True)
        value, place = value[:, : options.neighbors], place[:, : options.neighbors]
        row = torch.zeros(len(table), dtype=torch.int64, device=table.device)
        row[asked] = torch.arange(len(asked), device=table.device)
        return cls(row=row, tokens=allowed[place], valid=value >= options.cosine, table=table)

    def gains(
        self,
        texts: Int64[Tensor, "m l"],
        slope: Float[Tensor, "m l d"],
        open_: Bool[Tensor, "m l"],
    ) -> tuple[Float64[Tensor, "m p"], Int64[Tensor, "m l c"]]:
        """Return the estimate for each position and replacement, -inf where there is none."""
        own = self.row[texts]
        tokens = self.tokens[own]
        step = self.table[tokens] - self.table[texts][:, :, None]
        gain = (step.double() * slope.double()[:, :, None]).sum(3)
        legal = self.valid[own] & open_[:, :, None]
        return gain.masked_fill(~legal, -torch.inf).flatten(1), tokens
