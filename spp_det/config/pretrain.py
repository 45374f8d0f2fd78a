"""Every setting of a pre-training run; the defaults are the paper's single-size network (P sections 2.3, 3).

Recipes ``configs/pretrain_*.yaml`` state where they differ and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from spp_det.config import values
from spp_det.config.values import LearningPrecision, Run, Section

View = Literal["full", "multi_view"]


class Folders(Section):
    """Where the images are: ``ROOT/SPLIT/CLASS/*.jpg``, a folder for each class."""

    root: values.UserPath = Path("data")
    train: str = "train"
    test: str | None = "test"
    """The split for the test that ends the training; None leaves the test out."""
    follow_links: bool = False
    """Also read symbolic links that lead out of the folder of their class."""


class PretrainBackbone(Section):
    """The convolutional network up to conv5."""

    name: str = "zf5"
    weights: values.PathOrWord = "random"
    """Initial weights: ``random``, ``default`` (torchvision's), or a ``.safetensors`` or ``.pth`` file."""


class PretrainPyramid(Section):
    """Spatial pyramid pooling before the fc layers (P section 2.2; 3.1 for the levels)."""

    levels: values.Levels = (6, 3, 2, 1)
    mode: values.PoolMode = "max"


class PretrainFC(Section):
    """The fully connected layers between the pyramid and the classes (P section 3.1)."""

    layers: Annotated[int, Field(ge=1, le=2)] = 2
    """1: fc6 alone; 2: fc6 and fc7. The last layer, with an output a class, is not counted."""
    width: values.Width = 4096
    dropout: values.BelowOne = 0.5
    """The fraction of each layer's outputs that is set to zero during the training."""


class Training(Section):
    """The course of the training (P section 3.1, Krizhevsky et al. 2012)."""

    sizes: values.Sides = (224,)
    """Sides of the square crops in pixels, taken in turn, one an epoch (P section 2.3: 180, 224)."""
    epochs: values.Count = 90
    batch: Annotated[int, Field(ge=2)] = 128
    """Images a step, of all processes together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: values.BelowOne = 0.9
    """Momentum of ``sgd``; the schedule ``one_cycle`` varies it."""
    learning_rate: values.Positive = 0.01
    """The largest learning rate of the schedule."""
    schedule: Literal["steps", "one_cycle"] = "steps"
    """``steps``: the learning rate falls to a tenth at each epoch of ``drops``. ``one_cycle``: it rises for
    30% of the steps and then falls to nothing (Smith and Topin 2017)."""
    drops: tuple[values.Count, ...] = (30, 60)
    """P divides the rate by 10 twice, when the error stops falling. Fixed epochs make the run repeatable."""
    weight_decay: values.NotNegative = 5e-4
    label_smoothing: values.BelowOne = 0.0
    flip: bool = True
    """Mirror half of the crops. Set it to false for letters and digits."""
    colour: values.BelowOne = 0.2
    """Brightness, contrast and saturation are multiplied by a factor between 1 minus this and 1 plus this."""


class Testing(Section):
    """Top-1 and top-5 on the test split after the training (P sections 3.1.4, 3.1.5)."""

    sizes: values.Sides = (224,)
    """Sides in pixels, which may differ from the sides of the training."""
    views: Annotated[tuple[View, ...], Field(min_length=1)] = ("full", "multi_view")
    """``full``: the whole image, its shorter side resized to the size. ``multi_view``: 18 windows with sides
    of the size, pooled from the maps of the image at 256/224 of the size and of its mirror image."""
    max_side: values.MaxSide = 2400
    """The longer side of a resized image at most, so that a panorama cannot exhaust the memory."""

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
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``... Under ``torchrun`` each process takes its own GPU."""
    workers: values.Workers = 0
    """Threads of each process that read images; 0 means one a core."""
    precision: LearningPrecision = "float32"
    """Numbers that the convolutions compute with. Weights and their updates are always float32."""


class PretrainConfig(Run):
    """A whole pre-training run."""

    output: values.UserPath = Path("runs/pretrain")
    data: Folders = Folders()
    backbone: PretrainBackbone = PretrainBackbone()
    pyramid: PretrainPyramid = PretrainPyramid()
    fc: PretrainFC = PretrainFC()
    train: Training = Training()
    test: Testing = Testing()
    runtime: PretrainRuntime = PretrainRuntime()
