"""Runs that put a purifier in front of a trained victim; nothing is trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hamward.artifacts import RunFolder, read_json, read_tensors, write_tensors
from hamward.config import call_with, to_mapping
from hamward.errors import ConfigError
from hamward.evaluation.card import model_card, write_card
from hamward.evaluation.runs import data_of, load_victim
from hamward.models import PURIFIERS, HashModel, load_model, read_by, save_model
from hamward.progress import SILENT, Progress

__all__ = ["PurifyConfig", "purify_run"]

_OBJECTIVE = "objective.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class PurifyConfig:
    """A purified victim.

    Attributes:
        purifier: A registered purifier.
        victim: Run folder of the victim.
        options: Options of the purifier.
    """

    purifier: str = "jpeg"
    victim: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def purify_run(
    config: PurifyConfig, out: Path, *, resume: bool = False, progress: Progress = SILENT
) -> HashModel:
    """Put a purifier in front of a victim, in a new run folder; the victim's stays as it is.

    Returns:
        The purified victim, in eval mode.

    Raises:
        HamwardError: anything in the configuration, the victim or the folder does not fit.
    """
    entry = PURIFIERS[config.purifier]
    purifier = call_with(entry.make, config.options, path="options.")
    source = Path(config.victim)
    model, facts = load_victim(source)
    if model.access != "gradients":
        raise ConfigError(f"{source}: made of ONNX files; purifiers go before PyTorch encoders")
    made = model.purified(purifier)
    data = read_by(made, data_of(facts, source))
    run = RunFolder(out)
    run.start("model", to_mapping(config), resume=resume)
    if run.done:
        return load_model(out)[0]
    kept = {k: v for k, v in facts.items() if k not in ("schema_version", "spec")}
    save_model(out, made, **kept)
    if (source / _OBJECTIVE).exists():  # a defense may go on from there
        write_tensors(out / _OBJECTIVE, read_tensors(source / _OBJECTIVE))
    progress.say(f"{out.name}: scoring {data.name}")
    stored = read_json(out / "model.json")
    write_card(out, model_card(made, data, {**kept, "purifiers": stored["purifiers"]}))
    run.finish(data_digest=facts["data_digest"])
    return made
