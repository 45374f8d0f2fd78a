"""The rows of the paper's table 9, each as the recipe of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from spp_det.config.file import parse_config
from spp_det.config.network import FC, FIVE_SCALES, BackboneSettings
from spp_det.config.settings import BoxRegression, Config, FineTune
from spp_det.config.values import Section
from spp_det.errors import UserError
from spp_det.model.head_weights import IMAGENET
from spp_det.runtime.cache import digest
from spp_det.training.stages import cache_of
from spp_det.version import __version__

S = TypeVar("S", bound=Section)

MODELS: dict[str, tuple[Literal["pool5", "fc6", "fc7"], bool]] = {
    "pool5": ("pool5", False),
    "fc6": ("fc6", False),
    "ft-fc6": ("fc6", True),
    "ft-fc7": ("fc7", True),
}
"""The layer that the SVMs of a row see, and whether that layer was fine-tuned (P table 9)."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        kind: a key of `MODELS`, followed by ``+bb`` where boxes are regressed.
        scales: their number, as in the row's name: ``1sc``, ``5sc``; ``rcnn`` where windows are warped.
        config: the recipe of the row's training; sections that the training does not use have defaults.
        refusal: why this training is impossible; None where it is possible.
        content: a digest of the images, annotations and other files that the training reads.
    """

    kind: str
    scales: str
    config: Config
    refusal: str | None = None
    content: str = ""

    @property
    def name(self) -> str:
        """The name of the row and of its folder."""
        return f"{self.kind}-{self.scales}"

    @property
    def model(self) -> tuple[str, str]:
        """The trained model: rows that differ only in box regression share it."""
        return self.kind.removesuffix("+bb"), self.scales

    @property
    def key(self) -> str:
        """A digest of everything that the row's figures depend on."""
        asked = self.config.model_dump(
            mode="json", exclude={"output": True, "strict": True, "runtime": True, "data": {"follow_links"}}
        )
        return digest(__version__, asked, self.content)


def table_rows(config: Config, several: Sequence[int] | None = None) -> list[Row]:
    """All rows of a recipe's table: each model, without and with box regression, at one scale and at several.

    The single scale is the recipe's scale, or the middle one of several, as 688 is of the paper's five. With
    ``several`` None, the several scales are the recipe's own, or the paper's five where the recipe has only
    one. R-CNN has no scales.

    Raises UserError for fewer than two scales, and for scales that no recipe could have.
    """
    own = config.backbone.scales
    if config.features == "rcnn":
        choices = {"rcnn": own}
    else:
        several = several or (own if len(own) > 1 else FIVE_SCALES)
        if len(several) < 2:
            raise UserError(f"--five: name at least two scales, not {several[0]}")
        choices = {"1sc": (own[len(own) // 2],), f"{len(several)}sc": tuple(several)}
    rows = []
    for label, scales in choices.items():
        settings = config.backbone.model_dump(mode="json") | {"scales": list(scales)}
        backbone = parse_config({"backbone": settings}, f"the rows at scales {list(scales)}").backbone
        for model in MODELS:
            for kind in (model, f"{model}+bb"):
                rows.append(_row(config, kind, label, backbone))
    return rows


def _row(config: Config, kind: str, label: str, backbone: BackboneSettings) -> Row:
    layer, tuned = MODELS[kind.removesuffix("+bb")]
    sections: dict[str, Section] = {
        "backbone": backbone,
        "fc": FC() if layer == "pool5" else _changed(config.fc, layer=layer),
        "finetune": _changed(config.finetune, enabled=True, layer="fc7") if tuned else FineTune(),
        "probability": _changed(config.probability, folds=0),  # the table has no use for it
        "bbox": _changed(config.bbox, enabled=True) if kind.endswith("+bb") else BoxRegression(enabled=False),
        "runtime": _changed(config.runtime, cache=cache_of(config).folder),
    }
    asked = _changed(config, output=config.output / f"{kind}-{label}", scorer="svm", **sections)
    refusal = None
    if kind.startswith("fc6") and config.fc.weights == "default" and backbone.name not in IMAGENET:
        refusal = f"torchvision has no fc6 of {backbone.name} to take as it is; fc.weights=FILE names one"
    return Row(kind, label, asked, refusal)


def _changed(section: S, **values: object) -> S:
    return section.model_copy(update=values)


def choose(rows: Sequence[Row], wanted: str | None) -> list[Row]:
    """The rows that ``wanted`` names, ``"pool5,ft-fc7+bb-5sc"``; None chooses all.

    A kind names its rows at all scales, a whole name one row. Raises UserError for a name that no row has.
    """
    if wanted is None:
        return list(rows)
    names = {name.strip() for name in wanted.split(",")}
    if unknown := sorted(names - {name for row in rows for name in (row.kind, row.name)}):
        kinds = ", ".join(dict.fromkeys(row.kind for row in rows))
        raise UserError(
            f"--rows: no row is called {unknown[0]!r}; there are {kinds}, each at all scales, "
            f"and by itself as {rows[-1].name}"
        )
    return [row for row in rows if {row.kind, row.name} & names]
