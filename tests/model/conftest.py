"""A small detector with random weights: it knows nothing, but does everything that a trained one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spp_det.config.network import FC, BackboneSettings, Pyramid
from spp_det.config.settings import Detection, Proposals, ScorerKind
from spp_det.config.values import Precision
from spp_det.data.synthetic import scene
from spp_det.model.backbone import Backbone
from spp_det.model.bbox import BoxRegressor
from spp_det.model.detector import Detector
from spp_det.model.features import SPPFeatures
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelSettings
from spp_det.model.softmax import SoftmaxScorer
from spp_det.model.svm import LinearSVMs

CLASSES = ("kangaroo", "raccoon", "wombat")
POOL5 = FC()  # without fc layers


def random_detector(
    passes: int = 1,
    scales: tuple[int, ...] = (128,),
    levels: tuple[int, ...] = (3, 1),
    fc: FC = POOL5,
    precision: Precision = "float32",
    scorer: ScorerKind = "svm",
    **detection: float,
) -> Detector:
    """Scores spread around 0, so that the threshold, the suppression and the limit all have work."""
    settings = ModelSettings(
        proposals=Proposals(max_side=400),
        backbone=BackboneSettings(name="zf5_small", weights="random", scales=scales, max_side=600),
        pyramid=Pyramid(levels=levels),
        fc=fc,
        scorer=scorer,
        detection=Detection.model_validate(detection),
    )
    features = SPPFeatures(Backbone("zf5_small").at(precision), settings.backbone, settings.pyramid)
    head, described, spread, bias = None, features.dimension, 0.05, [-3.5, -3.0, -2.0]
    if fc.layer != "pool5":
        head = FCHead(fc.layer, features.dimension, fc.width)
        head = head if fc.rank is None else head.compressed(fc.rank)
        described, spread, bias = head.dimension, 1.0, [0.0, 0.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(described, len(CLASSES), generator=generator)
    weight -= weight.mean(0)
    rows, offsets = spread * weight.T.contiguous(), torch.tensor(bias)
    chosen: LinearSVMs | SoftmaxScorer = LinearSVMs(rows, offsets)
    if scorer == "softmax":
        chosen = SoftmaxScorer(
            torch.cat([rows, rows.new_zeros(1, described)]), torch.cat([offsets, torch.zeros(1)])
        )
    regressors = []
    for number in range(passes):
        shift = 1e-3 * torch.randn(len(CLASSES), 4, features.dimension, generator=generator)
        regressors.append(BoxRegressor(shift, torch.full((len(CLASSES), 4), 0.05 / (1 + number))))
    return Detector(CLASSES, features, head, chosen, regressors, settings)


@pytest.fixture(scope="session")
def build_detector() -> Callable[..., Detector]:
    """`random_detector`."""
    return random_detector


@pytest.fixture(scope="session")
def detector() -> Detector:
    """One for all tests that only look."""
    return random_detector()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("zf5_small")


@pytest.fixture(scope="module")
def image() -> npt.NDArray[np.uint8]:
    """A generated scene, 150 pixels high and 200 wide."""
    return scene(np.random.default_rng(1), sizes=((200, 150),)).image


@pytest.fixture(scope="session")
def images() -> list[npt.NDArray[np.uint8]]:
    """Three generated scenes of different sizes."""
    sizes = [(150, 110), (100, 130), (120, 120)]
    return [scene(np.random.default_rng(i), sizes=(size,)).image for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def model(detector, tmp_path_factory) -> Path:
    """The file of that one."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    detector.save(path)
    return path
