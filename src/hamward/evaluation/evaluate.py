"""Victims x attacks x modalities -> rows of numbers that carry their protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamward.artifacts import write_tensors
from hamward.attacks import Attack, TargetProtocol, TrainableAttack, moved_texts
from hamward.config import to_mapping
from hamward.data import RetrievalData
from hamward.errors import ConfigError, ShapeError
from hamward.evaluation.candidates import Candidates
from hamward.evaluation.crafting import Job, Made, adversarial_file
from hamward.evaluation.diagnostics import code_flags, probe_flags, row_flags
from hamward.evaluation.pictures import check_transform
from hamward.evaluation.results import CLEAN, Curve, Evaluation, Flag, Row, precision_file
from hamward.evaluation.scorer import Scorer
from hamward.models import HashModel, Victim, read_by
from hamward.progress import SILENT, Progress
from hamward.types import Modality, modalities_of

__all__ = ["CLEAN", "Curve", "Evaluation", "Row", "adversarial_file", "evaluate"]


def evaluate(
    victims: Mapping[str, HashModel],
    data: RetrievalData,
    attacks: Mapping[str, Attack | TrainableAttack],
    *,
    modalities: tuple[Modality, ...] = ("image", "text"),
    transfer_from: str | None = None,
    target_protocol: TargetProtocol = "T4",
    seed: int = 0,
    batch_size: int = 64,
    low_precision: bool = True,
    diagnose: bool = False,
    pictures: bool = False,
    transforms: tuple[str, ...] = (),
    candidates: Candidates | None = None,
    progress: Progress = SILENT,
    folder: Path | None = None,
) -> Evaluation:
    """Attack every victim adaptively and score what comes out, beside the clean queries.

    Attacks are crafted against the victim that they are scored on. Pictures are scored after
    rounding to 8 bits, with the score of the unrounded ones beside it.

    Args:
        victims: Models by name.
        data: Queries and database.
        attacks: Configured attacks by name.
        modalities: Sides that are attacked.
        transfer_from: Name of a victim whose adversarial items are also sent to the others;
            those rows say so and are no robustness figures.
        target_protocol: Which labels targeted attacks shall reach; see `choose_targets`.
        seed: Seed of attacks and bootstrap.
        batch_size: Items a crafting chunk; changes nothing but speed.
        low_precision: Craft with bf16 trunks where that is faster; codes never are.
        diagnose: Probe each victim for signs of masked gradients with 32 queries, too; see
            docs/diagnostics.md.
        pictures: Write adversarial pictures as PNG (and texts with edited words) into `folder`, and
            score what is read back.
        transforms: Forms in which pictures are scored besides: "jpeg-75" and the like.
        candidates: Attack these database items instead of the queries: every row then has the MAP
            of clean queries, before (clean) or after these items were replaced.
        progress: Watches.
        folder: Where codes, adversarial items and the precision of each query go; finished items
            found there are used.

    Raises:
        ConfigError: no victims, `transfer_from` is none of them, or a victim has none of the
            attacked modalities, or the candidates do not fit the data or an attack.
        AccessError: an attack needs more than a victim can grant.
        ShapeError: a victim does not fit the data.
    """
    _check(victims, data, attacks, modalities=modalities, transfer_from=transfer_from)
    for transform in transforms:
        check_transform(transform)
    if candidates is not None:
        candidates.check(data, attacks)
    rows: dict[str, list[tuple[Row, Curve]]] = {name: [] for name in victims}
    flags: list[Flag] = []
    crafted: dict[tuple[str, str, Modality], Made] = {}
    for name in sorted(victims, key=lambda name: name != transfer_from):  # its items come first
        model = victims[name]
        read = read_by(model, data)
        scorer = Scorer(
            name=name,
            model=model,
            data=read,
            seed=seed,
            transforms=transforms,
            candidates=candidates,
        )
        rows[name].extend(scorer.clean())
        for attack_name, attack in attacks.items():
            for modality in _attackable(attack, model, modalities):
                job = Job(
                    name=name,
                    attack_name=attack_name,
                    attack=attack,
                    model=model,
                    data=read,
                    modality=modality,
                    searched=scorer.searched(modality),
                    target_protocol=target_protocol,
                    seed=seed,
                    batch_size=batch_size,
                    low_precision=low_precision,
                    candidates=candidates,
                )
                crafted[name, attack_name, modality] = job.run(folder, progress=progress)
                sources = [name]
                if transfer_from is not None and transfer_from != name:
                    sources.append(transfer_from)
                for source in sources:
                    made = crafted.get((source, attack_name, modality))
                    if made is not None:
                        rows[name].extend(
                            scorer.attacked(
                                attack_name,
                                attack,
                                made,
                                crafted_on=source,
                                pictures=_pictures(folder, name, attack_name)
                                if pictures and source == name
                                else None,
                            )
                        )
        flags += code_flags(name, scorer.codes)
        if diagnose:
            sides = tuple(m for m in modalities if m in model.modalities)
            progress.say(f"{name}: diagnostics")
            flags += probe_flags(
                name, model, read, attacks, modalities=sides, codes=scorer.codes, seed=seed
            )
        if folder is not None:
            write_tensors(folder / "codes" / f"{name}.safetensors", scorer.codes)
            write_tensors(precision_file(folder, name), scorer.precisions)
    found = tuple(row for name in victims for row, _ in rows[name])
    order = list(victims)
    if candidates is None:  # a few items of many move MAP too little to compare rows by it
        flags += row_flags(found, attacks)
    protocol = _protocol(victims, data, attacks, target_protocol=target_protocol, seed=seed)
    if candidates is not None:
        protocol["candidates"] = to_mapping(candidates)
    return Evaluation(
        protocol=protocol,
        rows=found,
        curves=tuple(curve for name in victims for _, curve in rows[name]),
        flags=tuple(sorted(flags, key=lambda f: (order.index(f.victim), f.id, f.subject))),
    )


def _pictures(folder: Path | None, victim: str, attack: str) -> Path | None:
    return folder and folder / "pictures" / victim / attack.replace("/", "_")


def _attackable(
    attack: Attack | TrainableAttack, model: HashModel, modalities: tuple[Modality, ...]
) -> list[Modality]:
    return [m for m in modalities if m in model.modalities and m in attack.modalities]


def _check(
    victims: Mapping[str, HashModel],
    data: RetrievalData,
    attacks: Mapping[str, Attack | TrainableAttack],
    *,
    modalities: tuple[Modality, ...],
    transfer_from: str | None,
) -> None:
    if not victims:
        raise ConfigError("there are no victims to evaluate")
    if transfer_from is not None and transfer_from not in victims:
        raise ConfigError(f"transfer_from must be one of {list(victims)}, got {transfer_from!r}")
    for name, model in victims.items():
        _check_fit(name, model, data)
        _check_attackable(name, model, attacks, modalities)
        _check_transfer(name, model, victims.get(transfer_from or name, model), modalities)


def _check_attackable(
    name: str,
    model: HashModel,
    attacks: Mapping[str, Attack | TrainableAttack],
    modalities: tuple[Modality, ...],
) -> None:
    if attacks and not set(modalities) & set(model.modalities):
        raise ConfigError(
            f"victim {name!r} has no {' or '.join(modalities)} encoder to attack: it encodes "
            f"{' and '.join(model.modalities)} only"
        )
    for attack_name, attack in attacks.items():
        sides = _attackable(attack, model, modalities)
        if sides:
            Victim(model=model).require(attack.access, f"{attack_name} on {name!r}")
        if "text" in sides:
            moved_texts(attack, model)


def _check_transfer(
    name: str, model: HashModel, source: HashModel, modalities: tuple[Modality, ...]
) -> None:
    reads = {model.text_format, source.text_format}
    if model is not source and "text" in modalities and "tokens" in reads:
        raise ConfigError(
            f"texts are not transferred to victim {name!r}: what was crafted for one victim of "
            "tokens is no input of another; set modalities to image"
        )


def _check_fit(name: str, model: HashModel, data: RetrievalData) -> None:
    if not any({*modalities_of(d)} <= {*model.modalities} for d in data.directions):
        raise ConfigError(
            f"victim {name!r} reads {' and '.join(model.modalities)}s only, {data.name} can be "
            f"scored in {', '.join(data.directions)} (relevance is {data.relevance})"
        )
    bags = "text" in model.modalities and model.text_format == "bag"
    if bags and model.spec.vocabulary != len(data.words):
        raise ShapeError(
            f"victim {name!r} reads bags of {model.spec.vocabulary} words, {data.name} has "
            f"{len(data.words)}: it was trained on another vocabulary"
        )
    if "image" in model.modalities and model.spec.image_side != data.image_side:
        raise ShapeError(
            f"victim {name!r} reads pictures of side {model.spec.image_side}, {data.name} was "
            f"loaded with {data.image_side}"
        )


def _protocol(
    victims: Mapping[str, HashModel],
    data: RetrievalData,
    attacks: Mapping[str, Attack | TrainableAttack],
    *,
    target_protocol: TargetProtocol,
    seed: int,
) -> dict[str, Any]:
    return {
        "data": data.name,
        "data_digest": data.digest,
        "split": {"protocol": data.protocol, "digest": data.split_digest},
        "queries": len(data.split.query),
        "database": len(data.split.database),
        "relevance": "share at least one label"
        if data.label_names
        else "own pair" + (" or group" if data.groups is not None else ""),
        "metric": "mean average precision over the whole ranking",
        "ties": "expected value over all orders of tied items",
        "queries_without_relevant_items": "left out",
        "text_queries_without_words": "left out",
        "interval": "95 % bootstrap over queries, 2,000 draws",
        "image_scores": "after rounding to 8 bits, unless a row says float",
        "target_protocol": target_protocol,
        "seed": seed,
        "code_length": {name: model.code_length for name, model in victims.items()},
        "attacks": {n: {"class": type(a).__name__, **to_mapping(a)} for n, a in attacks.items()},
    }
