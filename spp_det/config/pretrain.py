"""Every setting of a pre-training run; the defaults are the paper's single-size network (P sections 2.3, 3).

Recipes ``configs/pretrain_*.yaml`` state where they differ and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from spp_det.config.settings import (
    BelowOne,
    Count,
    Levels,
    MaxSide,
    NotNegative,
    PoolMode,
    Positive,
    Precision,
    Section,
    Seed,
    Sides,
    Width,
    Workers,
)

View = Literal["full", "multi_view"]


class Folders(Section):
    """Where the images are: ``ROOT/SPLIT/CLASS/*.jpg``, one folder a class."""

    root: Path = Path("data")
    train: str = "train"
    test: str | None = "test"
    """For the figures that end the training; None leaves them out."""
    follow_links: bool = False
    """Read files that are symbolic links out of their class's folder, too."""


class PretrainBackbone(Section):
    """The convolutional network up to conv5."""

    name: str = "zf5"
    weights: str = "random"
    """Where to begin: ``random``, ``default`` (torchvision's), or a ``.safetensors`` or ``.pth`` file."""


class PretrainPyramid(Section):
    """Spatial pyramid pooling before the fc layers (P section 2.2; 3.1 for the levels)."""

    levels: Levels = (6, 3, 2, 1)
    mode: PoolMode = "max"


class PretrainFC(Section):
    """The fully connected layers between the pyramid and the classes (P section 3.1)."""

    layers: Annotated[int, Field(ge=1, le=2)] = 2
    """fc6 alone, or fc6 and fc7; the layer of the classes is not counted."""
    width: Width = 4096
    dropout: BelowOne = 0.5
    """The part of each layer's outputs that is set to zero while training."""


class Training(Section):
    """The course of the training (P section 3.1, Krizhevsky et al. 2012)."""

    sizes: Sides = (224,)
    """Sides of the square crops in pixels, taken in turn, one an epoch (P section 2.3: 180, 224)."""
    epochs: Count = 90
    batch: Annotated[int, Field(ge=2)] = 128
    """Images a step, of all processes together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: BelowOne = 0.9
    """Of ``sgd``; ``one_cycle`` varies it by itself."""
    learning_rate: Positive = 0.01
    """The largest."""
    schedule: Literal["steps", "one_cycle"] = "steps"
    """``steps``: a tenth from each epoch of ``drops`` on. ``one_cycle``: up for 30% of the steps, then down
    to nothing (Smith and Topin 2017)."""
    drops: tuple[Count, ...] = (30, 60)
    """P divides by 10 twice, when the error stands still; epochs make a run repeat itself."""
    weight_decay: NotNegative = 5e-4
    label_smoothing: BelowOne = 0.0
    flip: bool = True
    """Mirror half of the crops; not for letters and digits."""
    colour: BelowOne = 0.2
    """Brightness, contrast and saturation are multiplied by up to 1 plus or minus this."""


class Testing(Section):
    """Top-1 and top-5 on the test split after the training (P sections 3.1.4, 3.1.5)."""

    sizes: Sides = (224,)
    """Any; they need not have been trained on."""
    views: Annotated[tuple[View, ...], Field(min_length=1)] = ("full", "multi_view")
    """``full``: the whole image, its shorter side of that size. ``multi_view``: 18 windows of that size
    pooled from the maps of an image 256/224 times as large, and of its mirror image."""
    max_side: MaxSide = 2400
    """The longer side never exceeds this, so that a panorama cannot exhaust the memory."""

    @field_validator("max_side")
    @classmethod
    def _holds_every_size(cls, max_side: int, info: ValidationInfo) -> int:
        least = -(-max(info.data.get("sizes", (0,))) * 256 // 224)
        if least > max_side:
            raise ValueError(f"must be at least {least}, 256/224 times the largest of test.sizes")
        return max_side


class PretrainRuntime(Section):
    """How to run."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``...; under ``torchrun`` each process takes its own GPU."""
    workers: Workers = 0
    """Threads that read images, of each process; 0 means one a core."""
    precision: Precision = "float32"
    """Of the convolutions; weights and their updates are float32 all the same."""


class PretrainConfig(Section):
    """A whole pre-training run."""

    output: Path = Path("runs/pretrain")
    seed: Seed = 0
    strict: bool = False
    """An image that cannot be read is an error, not a warning."""
    data: Folders = Folders()
    backbone: PretrainBackbone = PretrainBackbone()
    pyramid: PretrainPyramid = PretrainPyramid()
    fc: PretrainFC = PretrainFC()
    train: Training = Training()
    test: Testing = Testing()
    runtime: PretrainRuntime = PretrainRuntime()
