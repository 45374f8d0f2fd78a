"""The settings of the network: its convolutions, the spatial pyramid on them, and the fc layers behind it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from spp_det.config import values
from spp_det.config.values import Section

Features = Literal["spp", "rcnn"]
Normalize = Literal["none", "hellinger", "signed_root"]
FIVE_SCALES = (480, 576, 688, 864, 1200)
"""The paper's five scales, shorter sides in pixels (section 4.1); its single scale is the middle one."""


class BackboneSettings(Section):
    """The convolutional network up to conv5, and the sizes of the images that it sees."""

    name: str = "alexnet"
    """A name that `spp_det.model.architectures` lists, or ``timm:NAME``."""
    stride: Literal[4, 8, 16, 32] | None = None
    """Only for ``timm:NAME``: pixels from one cell of the map to the next; None is 16. The network is cut
    after its last map with this stride."""
    weights: values.PathOrWord = "default"
    """``default`` (torchvision's or timm's download, or an installed package's weights), ``random``, or a
    ``.safetensors`` or ``.pth`` file."""
    scales: values.Sides = (688,)
    """An image is resized to each of these shorter sides (P: 688, or 480, 576, 688, 864, 1200)."""
    max_side: values.MaxSide = 2400
    """The longer side of a resized image at most, so that a panorama cannot exhaust the memory."""

    @field_validator("stride")
    @classmethod
    def _is_a_choice(cls, stride: int | None, info: ValidationInfo) -> int | None:
        name = info.data.get("name", "")
        if stride is not None and not name.startswith("timm:"):
            raise ValueError(f"must be left out: only timm:NAME has a choice of maps, {name} has one stride")
        return stride

    @field_validator("scales")
    @classmethod
    def _ascending(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if list(scales) != sorted(set(scales)):
            raise ValueError("must ascend, none twice")
        return scales

    @field_validator("max_side")
    @classmethod
    def _holds_every_scale(cls, max_side: int, info: ValidationInfo) -> int:
        largest = max(info.data.get("scales", (0,)))
        if largest > max_side:
            raise ValueError(f"must be at least the largest of backbone.scales, {largest}")
        return max_side


class Pyramid(Section):
    """Spatial pyramid pooling (P section 2.2; 4.1 for the levels)."""

    levels: values.Levels = (6, 3, 2, 1)
    mode: values.PoolMode = "max"
    normalize: Normalize = "none"
    """``none``: conv5 as it is (P). ``hellinger``: square roots of conv5's cells, then vectors of one length,
    so that a few strong channels do not outweigh all others. ``signed_root``: the same for maps with negative
    cells; the root of a negative cell is minus the root of its absolute value."""


class FC(Section):
    """The fully connected layers between the pyramid and the SVMs (P section 4.1)."""

    layer: Literal["pool5", "fc6", "fc7"] = "pool5"
    """The layer whose output the SVMs see. With pool5, the pyramid's own vector, the other keys of this
    section have no effect."""
    weights: values.PathOrWord = "default"
    """``default`` (the ImageNet network's; random where that network has no fc6 and fc7), ``random``, or a
    ``.safetensors`` or ``.pth`` file of the whole network in torchvision's names."""
    width: values.Width = 4096
    """Outputs of each layer. Pre-trained layers are accepted with their own width alone."""
    rank: tuple[values.Count, values.Count] | None = None
    """Ranks of fc6 and fc7, compressed after training; Fast R-CNN (section 3.1) took 1024 and 256."""

    @field_validator("rank", mode="before")
    @classmethod
    def _two_ranks(cls, rank: Any) -> Any:
        if rank is not None and (not isinstance(rank, list | tuple) or len(rank) != 2):
            raise ValueError("must be a list of two ranks, of fc6 and of fc7")
        return rank
