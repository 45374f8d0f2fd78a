"""Options that several commands have, each declared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from spp_det.errors import UserError

T = TypeVar("T")

Recipe = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a recipe, such as squeezenet_svm."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings to override.")
]
Strict = Annotated[bool, typer.Option("--strict", help="An image that cannot be read is an error.")]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Read links that lead out of the named folder, too.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="What the network multiplies in.")
]
Workers = Annotated[int, typer.Option(min=0, help="Images at a time; 0 is one a core.")]
ProposalFile = Annotated[
    Path | None, typer.Option("--proposals", help="Take the windows from there: R-CNN's .mat, .npz or .json.")
]
EdgeModel = Annotated[
    Path | None, typer.Option(help="Search by Edge Boxes, with OpenCV's model of edges (model.yml.gz).")
]
VocFolder = Annotated[Path | None, typer.Option("--voc", help="A Pascal VOC folder.")]
VocSplit = Annotated[
    str | None,
    typer.Option("--split", help="The split of --voc or --yolo, or a .txt of image ids; test if not given."),
]
YoloFolder = Annotated[Path | None, typer.Option("--yolo", help="A YOLO folder, with its data.yaml or such.")]
CocoFile = Annotated[Path | None, typer.Option("--coco", help="A COCO instances file.")]
ImageFolder = Annotated[
    Path | None, typer.Option("--images", help="Where the images of --coco lie, if not beside it.")
]


def overridden(overrides: Sequence[str] | None, strict: bool) -> list[str]:
    """The overrides of a recipe; ``--strict`` comes last and so wins over the recipe's ``strict``."""
    return [*(overrides or []), *(["strict=true"] if strict else [])]


def comma_separated(text: str, kind: Callable[[str], T], option: str, wanted: str) -> list[T]:
    """The values of an option such as ``3,17``. Raises UserError that says what is ``wanted``."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: must be {wanted}") from None
