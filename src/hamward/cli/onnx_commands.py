"""`hamward export` and `hamward import`: victims as ONNX files."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hamward.cli.parameters import Out, Resume, Show, Threads, prepare

__all__ = ["export", "import_"]


def export(
    victim: Annotated[Path, Parameter(help="Run folder of the trained victim.")],
    *,
    out: Out,
    items: Annotated[int, Parameter(help="Database items whose codes are compared.")] = 256,
    tolerance: Annotated[
        float, Parameter(help="Largest difference of a logit, as a share of their mean size.")
    ] = 1e-3,
    resume: Resume = False,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Write a victim as ONNX files, checked: `hamward export runs/victim --out runs/onnx`.

    The folder serves wherever a victim's run folder does, for attacks without gradients.
    """
    watch = prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.exporting import ExportConfig, export_run

    values = {"victim": str(victim), "items": items, "tolerance": tolerance}
    made = export_run(from_mapping(ExportConfig, values), out, resume=resume, progress=watch)
    for modality, parity in made.items():
        print(
            f"{out / f'{modality}.onnx'}: {parity.differing_bits:.2%} of the bits of "
            f"{parity.items} items differ, logits by up to {parity.difference:.2g} "
            f"(allowed {parity.tolerance:.2g})"
        )


def import_(
    *,
    data: Annotated[str, Parameter(help="The data set that the victim is attacked on.")],
    out: Out,
    image: Annotated[
        str, Parameter(help="ONNX file: RGB (n, 3, side, side) in [0, 1] to logits (n, bits).")
    ] = "",
    text: Annotated[
        str, Parameter(help="ONNX file: bags of words (n, D) in {0, 1} to logits (n, bits).")
    ] = "",
    words: Annotated[
        str, Parameter(help="The words that the text file reads, one a line: checked.")
    ] = "",
    image_side: int | None = None,
    retrieval: Literal["hamming", "cosine"] = "hamming",
    resume: Resume = False,
    threads: Threads = None,
    progress: Show = "auto",
) -> None:
    """Take your own ONNX encoders as a victim, for attacks without gradients."""
    watch = prepare(threads, progress)
    from hamward.config import from_mapping
    from hamward.evaluation.exporting import ImportConfig, import_run

    values = {
        "image": image,
        "text": text,
        "data": data,
        "data_options": {} if image_side is None else {"image_side": image_side},
        "words": words,
        "retrieval": retrieval,
    }
    import_run(from_mapping(ImportConfig, values), out, resume=resume, progress=watch)
    print((out / "card.md").read_text(encoding="utf-8"))
    print(f"run folder: {out}")
