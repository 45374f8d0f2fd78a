"""R-CNN's features, the predecessor to compare SPP-net with: every window passes the network by itself.

Each window, with 16 pixels of context around it, is warped to 227 x 227 pixels and passes the same
convolutional network (Girshick et al., CVPR 2014). SVMs, regressor and suppression are the same as for
SPP-net, so that speed and accuracy compare on equal terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Boxes, Ints
from spp_det.images import RGB
from spp_det.model.backbone import Backbone
from spp_det.model.features import ConvMap, ProjectedWindows, WindowFeatures
from spp_det.model.vectors import WindowVectors
from spp_det.runtime.opencv import cv2

SIDE = 227  # pixels of a warped window
CONTEXT = 16  # pixels of a warped window on each side that show the surroundings
LEVEL = 6  # of a 13 x 13 map, 6 x 6 bins are the 3 x 3 maxima at stride 2 of AlexNet's pool5
BATCH = 32  # windows that pass the network together


class RCNNFeatures(WindowFeatures):
    """Window features by warping each window. The "map" of an image is the image itself."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.scales = (SIDE,)
        self.levels = (LEVEL,)
        self.dimension = LEVEL**2 * backbone.channels
        self.keys = (("rcnn",),)

    def maps_at(self, images: Sequence[RGB], index: int) -> list[ConvMap]:  # noqa: ARG002  (there is one)
        """Each image, RGB uint8 ``[H, W, 3]``, as it is: windows share no computation."""
        pixels = [torch.from_numpy(np.ascontiguousarray(image)) for image in images]
        return [ConvMap(each.permute(2, 0, 1), (1.0, 1.0)) for each in pixels]

    def project(
        self,
        maps: Sequence[ConvMap],  # noqa: ARG002  (windows need no map)
        windows: Boxes,
        scale_of: Ints | None = None,  # noqa: ARG002  (all windows are warped to one size)
    ) -> ProjectedWindows:
        """See `WindowFeatures`; the rectangles are the distinct windows, float32 in pixels of the image."""
        distinct, of = np.unique(windows, axis=0, return_inverse=True)
        return ProjectedWindows(distinct, np.zeros(len(distinct), np.int64), of.reshape(-1))

    def pool(self, maps: Sequence[ConvMap], windows: ProjectedWindows) -> WindowVectors:
        """See `WindowFeatures`; D is ``36 * C``."""
        image = np.ascontiguousarray(maps[0].cells.permute(1, 2, 0).cpu().to(torch.uint8).numpy())
        device = self.backbone.mean.device
        known = np.zeros(len(windows.rectangles), bool)
        made = torch.empty((len(known), self.dimension), device=device)
        return WarpedVectors(windows.of, BATCH, device, self.backbone, image, windows.rectangles, known, made)


@dataclass(frozen=True, eq=False)
class WarpedVectors(WindowVectors):
    """Vectors of warped windows: a window passes the network when it is first asked for, and never again.

    Attributes:
        windows: float32 ``[M, 4]``, distinct.
        known: bool ``[M]``, which windows have passed the network.
        made: float32 ``[M, D]``, their vectors; the other rows are not set yet.
    """

    backbone: Backbone
    image: RGB
    windows: Boxes
    known: npt.NDArray[np.bool_]
    made: Tensor

    @torch.inference_mode()
    def make(self, rows: Ints) -> Tensor:
        new = np.unique(rows[~self.known[rows]])
        for batch in np.split(new, range(BATCH, len(new), BATCH)):
            self.made[torch.from_numpy(batch)] = self._pool5(batch)
        self.known[new] = True
        return self.made[torch.from_numpy(rows)]

    def _pool5(self, rows: Ints) -> Tensor:
        """The vectors ``[n, 36 * C]`` of windows that pass the network together."""
        if not len(rows):
            return self.made[:0]
        fill = self.backbone.mean.flatten().tolist()  # the colour that is 0 once the mean is subtracted
        warped = torch.from_numpy(np.stack([warp(self.image, box, fill) for box in self.windows[rows]]))
        # All batches have one size, so that cuDNN may find its fastest algorithm by trying.
        tried = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
        with tried if self.device.type == "cuda" else nullcontext():
            conv5 = self.backbone(warped.to(self.device).permute(0, 3, 1, 2))  # [n, C, 13, 13]
        return F.adaptive_max_pool2d(conv5, LEVEL).flatten(2).transpose(1, 2).flatten(1)


def warp(image: RGB, box: Boxes, fill: Sequence[float]) -> RGB:
    """One window ``(x1, y1, x2, y2)`` of an image, warped with its context to uint8 ``[227, 227, 3]``.

    The window itself fills the middle 195 x 195 pixels whatever its shape. What lies outside the
    image has the colour ``fill``.
    """
    inner = SIDE - 2 * CONTEXT
    x1, y1, x2, y2 = (float(value) for value in box)
    scale_x, scale_y = inner / (x2 - x1), inner / (y2 - y1)
    # Pixel i covers [i, i + 1): centres, which is what warpAffine maps, lie half a pixel further.
    to_warped = np.array(
        [
            [scale_x, 0, CONTEXT - 0.5 + (0.5 - x1) * scale_x],
            [0, scale_y, CONTEXT - 0.5 + (0.5 - y1) * scale_y],
        ]
    )
    warped = cv2.warpAffine(image, to_warped, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderValue=fill)
    return np.asarray(warped, np.uint8)
