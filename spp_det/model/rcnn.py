"""R-CNN's features, the predecessor that SPP-net is measured against: the network sees every window anew.

Each window, with 16 pixels of context around it, is warped to 227 x 227 pixels and goes through the
same convolutional network (Girshick et al., CVPR 2014). SVMs, regressor and suppression are then those of
SPP-net, so that speed and accuracy compare on equal terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spp_det.boxes import Boxes, Ints
from spp_det.images import RGB
from spp_det.model.backbone import Backbone
from spp_det.model.features import ConvMap, WindowVectors
from spp_det.runtime.opencv import cv2

SIDE = 227  # pixels of a warped window
CONTEXT = 16  # of them on each side show the surroundings
LEVEL = 6  # of a 13 x 13 map, 6 x 6 bins are the 3 x 3 maxima at stride 2 of AlexNet's pool5
BATCH = 32  # windows that go through the network together


class RCNNFeatures:
    """Window features by warping each window; the interface of `SPPFeatures`."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.scales: tuple[int, ...] = (SIDE,)
        self.levels: tuple[int, ...] = (LEVEL,)
        self.dimension = LEVEL**2 * backbone.channels
        self.keys: tuple[tuple[object, ...], ...] = (("rcnn",),)
        self._fill = backbone.mean.flatten().tolist()  # the colour that the network takes for nothing

    def maps_at(self, images: Sequence[RGB], index: int) -> list[ConvMap]:  # noqa: ARG002  (there is one)
        """RGB uint8 ``[H, W, 3]`` each to itself: nothing is computed that windows could share."""
        pixels = [torch.from_numpy(np.ascontiguousarray(image)) for image in images]
        return [ConvMap(each.permute(2, 0, 1), (1.0, 1.0)) for each in pixels]

    def maps(self, image: RGB) -> list[ConvMap]:
        """The same."""
        return self.maps_at([image], 0)

    def vectors(
        self,
        maps: Sequence[ConvMap],
        windows: Boxes,
        scale_of: Ints | None = None,  # noqa: ARG002  (all are warped to one size)
    ) -> WindowVectors:
        """Vectors of ``[N, 4]`` windows in pixels of the image: float32 ``[M, 36 * C]``, one a distinct one.

        A window passes the network when it is first asked for, and never again.
        """
        image = np.ascontiguousarray(maps[0].cells.permute(1, 2, 0).cpu().to(torch.uint8).numpy())
        distinct, row_of = np.unique(windows, axis=0, return_inverse=True)
        device = self.backbone.mean.device
        known = np.zeros(len(distinct), bool)
        vectors = torch.empty((len(distinct), self.dimension), device=device)

        @torch.inference_mode()
        def make(rows: Ints) -> Tensor:
            new = np.unique(rows[~known[rows]])
            for batch in np.split(new, range(BATCH, len(new), BATCH)):
                vectors[torch.from_numpy(batch)] = self._describe(image, distinct[batch])
            known[new] = True
            return vectors[torch.from_numpy(rows)]

        return WindowVectors(make, row_of.reshape(-1), BATCH, device)

    def _describe(self, image: RGB, windows: Boxes) -> Tensor:
        """``[n, 36 * C]``, all through the network together."""
        if not len(windows):
            return torch.empty((0, self.dimension), device=self.backbone.mean.device)
        warped = torch.from_numpy(np.stack([warp(image, box, self._fill) for box in windows]))
        conv5 = self.backbone(warped.to(self.backbone.mean.device).permute(0, 3, 1, 2))
        bins = F.adaptive_max_pool2d(conv5, LEVEL).flatten(2).transpose(1, 2)  # [n, 36, C]
        return bins.flatten(1)


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
