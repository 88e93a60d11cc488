"""From a recipe, a data set and a scale to cells: what is trained, hardened and evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hamward import __version__
from hamward.artifacts import digest_of
from hamward.attacks import Attack, TrainableAttack
from hamward.benchmark.recipe import BenchRecipe
from hamward.benchmark.specs import CLEAN_THREAT, OWN, UNDEFENDED
from hamward.benchmark.threats import (
    budget_of,
    build_attack,
    options_of,
    resolved_options,
    steps_of,
)
from hamward.config import call_with, from_mapping, to_mapping
from hamward.data import DATASETS, RetrievalData
from hamward.defenses import DEFENSES
from hamward.evaluation.configs import EvaluateConfig, HardenConfig, TrainConfig
from hamward.recipes import merged, read_recipe
from hamward.training import OBJECTIVES
from hamward.types import Modality

__all__ = ["Cell", "Plan", "Place", "make_plan"]

Kind = Literal["train", "harden", "evaluate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One piece of work, and the folder its result goes by.

    Attributes:
        name: Hash of all that decides the result, of the cells it needs among it.
        kind: What is done.
        label: What a reader calls it.
        config: `TrainConfig`, `HardenConfig` or `EvaluateConfig` as plain values; victims are
            named by their cells.
        needs: Cells that must be finished before.
        reuses: Cells among them whose adversarial items are sent on instead of crafted anew.
        limit: Most submissions of one item to the victim; None is no limit.
        work: Items x epochs, or items x steps: for estimates only.
        network: Image network that does it, for estimates only.
    """

    name: str
    kind: Kind
    label: str
    config: dict[str, Any]
    needs: tuple[str, ...] = ()
    reuses: tuple[str, ...] = ()
    limit: int | None = None
    work: float = 0.0
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one evaluation is of: a model, what its items were crafted on, a threat, a seed."""

    victim: str
    code_length: int
    defense: str
    crafted_on: str
    threat: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cells in an order in which each comes after what it needs.

    Attributes:
        recipe: What was asked.
        data: Name of the data set.
        protocol: What all numbers share: data, split, items, tie rule, scale.
        cells: By name.
        places: Cell that measures each place; a place without one stays empty.
        names: Names of attacked model and crafting model inside that cell.
        left_out: Why places stay empty.
    """

    recipe: BenchRecipe
    data: str
    protocol: dict[str, Any]
    cells: dict[str, Cell]
    places: dict[Place, str]
    names: dict[Place, tuple[str, str]]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A trained or hardened model: its cell, what it reads, and its name inside evaluations."""

    cell: Cell
    name: str
    modalities: tuple[Modality, ...]
    method: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Settings of an evaluation but for its victims, with what they cost an evaluation."""

    config: dict[str, Any]
    digest: str
    limit: int | None
    encoded: float
    crafted: float


def make_plan(recipe: BenchRecipe, data: RetrievalData, *, name: str) -> Plan:
    """Plan all cells of a recipe on a data set; nothing is run.

    Args:
        recipe: The recipe.
        data: The data set, loaded with the recipe's options.
        name: What `load_data` calls it.

    Raises:
        ConfigError: a victim, a defense or an attack has an option that does not fit, or a budget
            contradicts its threat.
        UnknownNameError: a method is not registered.
    """
    planner = _Planner(recipe=recipe, data=data, name=name)
    for threat in recipe.threats:
        planner.attacks(threat)  # refused even where no table asks
    for table in recipe.tables.values():
        for at in table.at():
            for seed in recipe.seeds:
                place = Place(
                    victim=at["victim"],
                    code_length=at["code_length"],
                    defense=at["defense"],
                    crafted_on=at["crafted_on"],
                    threat=at["threat"],
                    seed=seed,
                )
                if place not in planner.places and place not in planner.empty:
                    planner.put(place)
    return Plan(
        recipe=recipe,
        data=name,
        protocol=_protocol(recipe, data),
        cells=planner.cells,
        places=planner.places,
        names=planner.names,
        left_out=tuple(dict.fromkeys(filter(None, planner.empty.values()))),
    )


@dataclass(kw_only=True)
class _Planner:
    recipe: BenchRecipe
    data: RetrievalData
    name: str
    cells: dict[str, Cell] = field(default_factory=dict)
    places: dict[Place, str] = field(default_factory=dict)
    names: dict[Place, tuple[str, str]] = field(default_factory=dict)
    empty: dict[Place, str] = field(default_factory=dict)
    trained: dict[tuple[str, int, int], _Model] = field(default_factory=dict)
    hardened: dict[tuple[str, int, str, int], _Model] = field(default_factory=dict)
    asked: dict[tuple[str, tuple[Modality, ...], int], "_Asked"] = field(default_factory=dict)
    known: dict[str, tuple[dict[str, Attack | TrainableAttack], float]] = field(
        default_factory=dict
    )

    def put(self, place: Place) -> None:
        """Plan what one place needs, or note why it stays empty."""
        model = self.model(place.victim, place.code_length, place.defense, place.seed)
        source = (
            None
            if place.crafted_on == OWN
            else self.model(place.crafted_on, place.code_length, UNDEFENDED, place.seed)
        )
        if model is None:
            defense = self.recipe.label("defense", place.defense)
            self.empty[place] = f"{self.recipe.label('victim', place.victim)} x {defense}"
            return
        if source is not None and (place.threat == CLEAN_THREAT or source.cell == model.cell):
            source = None
        sides = self._sides(place.threat, model)
        if source is not None:
            sides = tuple(m for m in sides if m in source.modalities)
        if place.threat != CLEAN_THREAT and not sides:
            self.empty[place] = ""
            return
        cell, names = self._evaluation(place, model, source, sides)
        self.cells.setdefault(cell.name, cell)
        self.places[place], self.names[place] = cell.name, names

    def model(self, victim: str, bits: int, defense: str, seed: int) -> _Model | None:
        """Return a model; None if the defense is not for this victim."""
        if defense == UNDEFENDED:
            key = (victim, bits, seed)
            if key not in self.trained:
                self.trained[key] = self._train(victim, bits, seed)
            return self.trained[key]
        spec = self.recipe.defenses[defense]
        if spec.victims and victim not in spec.victims:
            return None
        full = (victim, bits, defense, seed)
        if full not in self.hardened:
            base = self.model(victim, bits, UNDEFENDED, seed)
            assert base is not None
            self.hardened[full] = self._harden(base, defense, seed)
        return self.hardened[full]

    def attacks(self, threat: str) -> tuple[dict[str, Attack | TrainableAttack], float]:
        """Return the configured attacks of a threat and their work an item."""
        if threat == CLEAN_THREAT:
            return {}, 1.0
        if threat not in self.known:
            spec = self.recipe.threats[threat]
            made = {
                name: build_attack(name, spec, path=f"threats.{threat}") for name in spec.attacks
            }
            self.known[threat] = made, sum(map(steps_of, made.values()))
        return self.known[threat]

    def _train(self, victim: str, bits: int, seed: int) -> _Model:
        spec = self.recipe.victims[victim]
        values = merged(merged(read_recipe(spec.recipe), self.recipe.train), spec.set)
        given = {"data": self.name, "data_options": data_options(self.recipe, self.name)}
        values = merged(values, {**given, "fit": {"seed": seed}})
        if bits:
            values = merged(values, {"model": {"code_length": bits}})
        where = f"victims.{victim}: "
        config = from_mapping(TrainConfig, values, path=where)
        make = OBJECTIVES[config.method].make
        call_with(make, config.options, path=f"{where}options.")
        plain = to_mapping(config)
        name = f"{victim}-{config.model.code_length}"
        cell = self._cell(
            kind="train",
            label=f"train {name}{self._seed(seed)}",
            config=plain,
            resolved={**plain, "options": resolved_options(make, config.options)},
            work=len(self.data.split.train) * config.fit.epochs,
            network=config.model.image_network or config.model.text_network,
        )
        held: dict[Modality, str] = {
            "image": config.model.image_network,
            "text": config.model.text_network,
        }
        return _Model(
            cell=cell,
            name=name,
            modalities=tuple(m for m, network in held.items() if network),
            method=config.method,
            options=config.options,
        )

    def _harden(self, base: _Model, defense: str, seed: int) -> _Model:
        spec = self.recipe.defenses[defense]
        where = f"defenses.{defense}: "
        default = to_mapping(HardenConfig())["fit"]
        fit = merged(merged(default, self.recipe.harden), {**spec.fit, "seed": seed})
        values = {"defense": spec.defense or defense, "options": spec.options, "fit": fit}
        config = from_mapping(HardenConfig, values, path=where)
        make = DEFENSES[config.defense].make
        objective = call_with(OBJECTIVES[base.method].make, base.options)
        given = {"base": objective, "seed": seed}
        call_with(make, config.options, path=f"{where}options.", given=given)
        plain = {**to_mapping(config), "victim": base.cell.name}
        steps = resolved_options(make, config.options).get("steps", 0)
        cell = self._cell(
            kind="harden",
            label=f"harden {base.name}+{defense}{self._seed(seed)}",
            config=plain,
            resolved={**plain, "options": resolved_options(make, config.options)},
            needs=(base.cell.name,),
            work=len(self.data.split.train) * config.fit.epochs * (1 + 2 * steps),
            network=base.cell.network,
        )
        return _Model(
            cell=cell,
            name=f"{base.name}+{defense}",
            modalities=base.modalities,
            method=base.method,
            options=base.options,
        )

    def _evaluation(
        self, place: Place, model: _Model, source: _Model | None, sides: tuple[Modality, ...]
    ) -> tuple[Cell, tuple[str, str]]:
        """Plan the evaluation of one model under one threat."""
        asked = self._asked(place.threat, sides or model.modalities, place.seed)
        victims, needs, reuses = {model.name: model.cell.name}, [model.cell.name], []
        if source is not None:
            victims = {source.name: source.cell.name, **victims}
            for own in (source, model):
                cell, _ = self._evaluation(place, own, None, sides)
                self.cells.setdefault(cell.name, cell)
                reuses.append(cell.name)
            needs = [source.cell.name, *needs, *reuses]
        moving = {"victims": victims, "transfer_from": None if source is None else source.name}
        moved = "" if source is None else f", crafted on {source.name}"
        cell = self._cell(
            kind="evaluate",
            label=f"{model.name}: {place.threat}{moved}{self._seed(place.seed)}",
            config={**asked.config, **moving},
            resolved={**moving, "settings": asked.digest},
            needs=tuple(needs),
            reuses=tuple(reuses),
            limit=asked.limit,
            work=asked.encoded + (asked.crafted if source is None else 0),
            network=model.cell.network,
        )
        return cell, (model.name, (source or model).name)

    def _asked(self, threat: str, sides: tuple[Modality, ...], seed: int) -> "_Asked":
        """Return what evaluations of all models under one threat have in common."""
        key = (threat, sides, seed)
        if key not in self.asked:
            attacks, steps = self.attacks(threat)
            spec = self.recipe.threats.get(threat)
            values = {
                "attacks": {} if spec is None else {n: options_of(n, spec) for n in attacks},
                "modalities": list(sides),
                "target_protocol": self.recipe.target_protocol,
                "queries": self.recipe.queries,
                "seed": seed,
                "batch_size": self.recipe.batch_size,
                "diagnose": spec is not None and spec.diagnose,
            }
            config = to_mapping(from_mapping(EvaluateConfig, values))
            resolved = {n: {"class": type(a).__name__, **to_mapping(a)} for n, a in attacks.items()}
            split = self.data.split
            queries = min(self.recipe.queries or len(split.query), len(split.query))
            self.asked[key] = _Asked(
                config=config,
                digest=digest_of({**config, "attacks": resolved, "batch_size": None}),
                limit=None if spec is None else spec.queries,
                encoded=queries + len(split.database),
                crafted=queries * len(sides) * steps if attacks else 0,
            )
        return self.asked[key]

    def _sides(self, threat: str, model: _Model) -> tuple[Modality, ...]:
        """Return the modalities that a threat attacks of a model."""
        if threat == CLEAN_THREAT:
            return ()
        attacks, _ = self.attacks(threat)
        return tuple(
            m
            for m in self.recipe.threats[threat].modalities
            if m in model.modalities and all(m in a.modalities for a in attacks.values())
        )

    def _cell(
        self,
        *,
        kind: Kind,
        label: str,
        config: dict[str, Any],
        resolved: Mapping[str, Any],
        needs: tuple[str, ...] = (),
        reuses: tuple[str, ...] = (),
        limit: int | None = None,
        work: float,
        network: str,
    ) -> Cell:
        """Name a cell by all that decides its result, and add it to the plan."""
        content = {
            "kind": kind,
            "config": resolved,
            "needs": needs,
            "limit": limit,
            "data": self.data.digest,
            "version": __version__,
        }
        cell = Cell(
            name=digest_of(content),
            kind=kind,
            label=label,
            config=config,
            needs=needs,
            reuses=reuses,
            limit=limit,
            work=work,
            network=network,
        )
        return self.cells.setdefault(cell.name, cell)

    def _seed(self, seed: int) -> str:
        return f", seed {seed}" if len(self.recipe.seeds) > 1 else ""


def data_options(recipe: BenchRecipe, name: str) -> dict[str, Any]:
    """Return the loader's options: a prepared set has none."""
    return dict(recipe.data_options) if name in DATASETS else {}


def _protocol(recipe: BenchRecipe, data: RetrievalData) -> dict[str, Any]:
    limited = data if recipe.queries is None else data.limit(queries=recipe.queries)
    return {
        "data": data.name,
        "data_digest": data.digest,
        "split": {"protocol": data.protocol, "digest": data.split_digest},
        "queries": len(limited.split.query),
        "database": len(data.split.database),
        "ties": "expected value over all orders of tied items",
        "ranking": "whole, unless the metric says @",
        "image_scores": "after rounding to 8 bits",
        "seeds": list(recipe.seeds),
        "scale": recipe.scale,
        "target_protocol": recipe.target_protocol,
        "budgets": {name: budget_of(spec) for name, spec in recipe.threats.items()},
        "version": __version__,
    }
