"""Every setting of a run: its type, its range and its default. `spp_det.config.file` reads files of settings.

The defaults are the paper's single-scale detector (P), with the authors' released code (R) where the
paper is silent. Recipes in ``configs/`` state where they differ and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from spp_det.config import values
from spp_det.config.network import FC, BackboneSettings, Features, Pyramid
from spp_det.config.values import Precision, Run, Section, at_most

AUTO, PROPOSAL_FILES = "auto", (".mat", ".npz", ".json")
ScorerKind = Literal["svm", "softmax"]


class Data(Section):
    """Where the annotated images are."""

    root: values.UserPath = Path("data")
    """The folder of the photos and their annotations."""
    format: Literal["auto", "voc", "coco", "yolo"] = "auto"
    """``auto`` finds the format out from the files; the log names it."""
    train: str | tuple[str, ...] = AUTO
    """A split (voc, yolo) or a file (coco); ``auto``: ``trainval``, ``train``, or all that has annotations.
    ``FOLDER:SPLIT`` is a split of the VOC set in a folder below ``root``; a list joins several."""
    test: values.PathOrWord | None = AUTO
    """What to score the model on, or ``none``. ``auto`` holds a fifth out where the data have no splits."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to learn, all others are background; None: every class that has objects."""
    follow_links: bool = False
    """Also read symbolic links that lead out of ``root``."""

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_several(cls, train: Any) -> Any:
        if isinstance(train, str):
            return values.at_home(train)
        if not isinstance(train, list | tuple) or not all(isinstance(split, str) for split in train):
            raise ValueError("must be a string, or a list of strings")
        if not train or len(set(train)) != len(train):
            raise ValueError("must name at least one split and none twice")
        return train

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and (not classes or len(set(classes)) != len(classes)):
            raise ValueError("must name at least one class and none twice")
        return classes


class Proposals(Section):
    """Where an image's windows come from: selective search (P section 4.1), Edge Boxes or a file."""

    mode: Literal["fast", "paper", "quality", "edgeboxes", "file"] = "fast"
    """``fast``, ``paper`` and ``quality`` are selective search, ``edgeboxes`` needs ``edge_model``, ``file``
    needs ``file``."""
    engine: Literal["native", "opencv"] = "native"
    """``native``: our selective search; ``opencv``: OpenCV's, with the same windows in ten times the time."""
    max_side: values.Side | None = None
    """Search in a copy of the image, shrunk to this longer side in pixels. Mode ``file`` ignores it."""
    file: values.UserPath | None = None
    """Windows of mode ``file``, in R-CNN's ``.mat``, ``.npz`` or ``.json`` (`spp_det.proposals.files`)."""
    edge_model: values.UserPath | None = None
    """OpenCV's model of structured edges for mode ``edgeboxes``, a ``.yml`` or ``.yml.gz``."""

    @field_validator("file")
    @classmethod
    def _readable(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix.lower() not in PROPOSAL_FILES:
            raise ValueError(f"must end in {', '.join(PROPOSAL_FILES)}")
        return file

    def mismatch(self) -> str | None:
        """The message about a file that the mode lacks or ignores; None where there is no mistake. This is no
        validator, because the settings in a model file name a mode and no file."""
        paths = {"file": ("file", self.file), "edgeboxes": ("edge_model", self.edge_model)}
        for mode, (key, path) in paths.items():
            if path is None and self.mode == mode:
                return f"proposals.{key} = None: must name a file, because proposals.mode is {mode}"
            if path is not None and self.mode != mode:
                return f"proposals.{key} = {str(path)!r}: must go with mode {mode}, not {self.mode}"
        return None

    def without_paths(self) -> Proposals:
        """The settings as a model file keeps them: a path of this machine is of no use elsewhere."""
        return self.model_copy(update={"file": None, "edge_model": None})


class FineTune(Section):
    """Fine-tuning of fc6, fc7 and a new fc8. The convolutions do not change (P section 4.1, R)."""

    enabled: bool = False
    layer: Literal["fc6", "fc7"] | None = None
    """The last layer before fc8; None is ``fc.layer``. With fc7 here and SVMs on fc6, the SVMs see fc6 of a
    network that learned with fc7, as in the row "ft fc6" of the paper's table 9."""
    batch: Annotated[int, Field(ge=2)] = 128
    """Windows a step."""
    images_per_step: values.Count = 2
    """The number of images that a step's windows come from. A step reads all maps of each image, so a small
    number is fast. Fast R-CNN (section 2.3) converged with two images as quickly as with 128."""
    positive_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    positive_iou: values.Overlap = 0.5
    """A window whose IoU with an object is at least this is a positive of the object's class."""
    negative_iou_high: Annotated[values.Overlap, Field(validate_default=True)] = 0.5
    """A window is background if its largest IoU with an object is below this..."""
    negative_iou_low: Annotated[values.Fraction, Field(validate_default=True)] = 0.1
    """...and not below this: windows further away are too easy. An image without such windows gives windows
    with a lower IoU instead."""
    learning_rate: values.Positive = 1e-4
    steps: values.Count = 250_000
    last_steps: Annotated[int, Field(ge=0)] = 50_000
    """Steps after ``steps``, at a tenth of the learning rate."""
    momentum: values.BelowOne = 0.9
    weight_decay: values.NotNegative = 5e-4
    dropout: values.BelowOne = 0.5
    flips: bool = True
    """Half of the windows are mirrored."""
    centre: bool = False
    """Subtract the mean vector from fc6's inputs during the training, and correct the bias afterwards: the
    network computes the same functions, and random weights learn."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """The fraction of images held out at most, to log loss and accuracy. SVMs learn from them, too."""
    log_every: values.Count = 1000
    """Steps between two lines of the log."""
    checkpoint_every: values.Count = 2000
    """Steps between two checkpoints at most: what an interruption loses."""

    @field_validator("negative_iou_high")
    @classmethod
    def _below_the_positives(cls, high: float, info: ValidationInfo) -> float:
        return at_most(high, info, "finetune.positive_iou")

    @field_validator("negative_iou_low")
    @classmethod
    def _below_the_highest(cls, low: float, info: ValidationInfo) -> float:
        if low >= info.data.get("negative_iou_high", 2):
            raise ValueError(f"must be below finetune.negative_iou_high, {info.data['negative_iou_high']:g}")
        return low


class SVM(Section):
    """One linear SVM a class, with one pass of hard-negative mining (P section 4.1, R)."""

    C: values.Positive = 1e-3
    bias: values.Positive = 10.0
    """The constant feature whose weight is the bias."""
    positive_weight: values.Positive = 2.0
    norm: values.Positive = 20.0
    """The mean norm of sampled windows to which the features are scaled."""
    positive_iou: values.Overlap = 1.0
    """A window whose IoU with an object is at least this is a positive; 1: only the objects' boxes (P)."""
    flips: bool = False
    """Learn from the mirrored photos too: pays most where there are few, and costs a second map of each."""
    negative_iou: Annotated[values.Fraction, Field(validate_default=True)] = 0.3
    """A window is a negative of a class if its IoU with every object of the class is below this value."""
    duplicate_iou: values.Fraction = 0.7
    """A negative is a duplicate, and dropped, above this IoU with another negative of its image."""
    hard_score: float = -1.0001
    """A negative with a higher score is hard: its class's SVM learns from it."""
    evict_score: float = -1.2
    """After a fit, a negative with a lower score is forgotten unless it is a support vector."""
    memory_mb: values.Count | Literal["auto"] = "auto"
    """Memory for the examples' vectors. When it is full, the easiest negatives are dropped. ``auto`` is an
    estimate from the photos and objects of the training, at least 896. A run keeps its first number."""
    retrain_after: values.Count = 2000
    """New hard negatives of a class after which its SVM is trained again."""
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    """A fit ends when its relative duality gap is below this."""

    @field_validator("negative_iou")
    @classmethod
    def _below_the_positives(cls, negative_iou: float, info: ValidationInfo) -> float:
        return at_most(negative_iou, info, "svm.positive_iou")


class BoxRegression(Section):
    """Ridge regression from pool5 vectors to boxes, one a class (R-CNN appendix C, R)."""

    enabled: bool = True
    ridge: values.Positive = 4000.0
    min_iou: values.Overlap = 0.5
    """A window whose IoU with an object is at least this is an example."""
    norm: values.Positive = 20.0
    max_windows: values.Count = 5000
    """Examples of a class at most, drawn at random."""
    passes: Literal[1, 2] = 1
    """With 2, refined boxes are pooled and scored again and refined by a second regressor; scores and boxes
    are then the means of both passes. The paper has 1."""


class Probability(Section):
    """From scores to probabilities, learnt from images that the SVMs and regressors have not learnt from."""

    folds: Annotated[int, Field(ge=0, le=10)] = 3
    """The training images in so many parts; each is judged by what the others teach. 0: no probabilities."""
    images: values.Count = 400
    """Images that are judged at most, drawn at random."""

    @field_validator("folds")
    @classmethod
    def _no_or_several(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("must be 0, or at least 2: the images of one part are judged by another")
        return folds


class Detection(Section):
    """From scores to detections (P section 4.1, R)."""

    score_threshold: float = -1.5
    nms: values.Fraction = 0.3
    soft_nms: values.Positive | None = None
    """Sigma of soft suppression: a box that overlaps a better box of its class gets a lower score and stays.
    ``nms`` then has no effect."""
    max_per_image: values.Count = 100
    """Detections of a class in an image at most."""
    max_all_classes: values.Count = 200
    """Detections in an image at most, of all classes together."""


class Runtime(Section):
    """How to run. No setting here changes what is computed, except for the rounding of ``precision``."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``..."""
    workers: values.Workers = 0
    """Images that are processed in parallel; 0 means one a core."""
    precision: Precision = "auto"
    """What the network multiplies in. ``auto``: float16 on a GPU and bfloat16 on a processor, where that is
    faster and hardly changes conv5, else float32. A run keeps its first precision."""
    cache: values.UserPath | None = None
    """The folder for proposals, maps and other results; runs may share it. None means OUTPUT/cache."""
    maps_gb: values.Positive | None = None
    """The most gigabytes that conv5 maps may take in that folder; None is no bound. Maps beyond it are
    computed again at each use: a few times in a training, thousands of times in fine-tuning."""


class Config(Run):
    """A whole run: training, and detection in the test split."""

    output: values.UserPath = Path("runs/spp")
    features: Features = "spp"
    """The features of a window. ``spp`` pools them from one map of the image. ``rcnn``, the baseline, warps
    each window and passes it through the network; ``backbone.scales`` and ``pyramid`` then have no effect."""
    data: Data = Data()
    proposals: Proposals = Proposals()
    backbone: BackboneSettings = BackboneSettings()
    pyramid: Pyramid = Pyramid()
    fc: FC = FC()
    finetune: FineTune = FineTune()
    scorer: ScorerKind = "svm"
    """``svm``: one SVM a class, on ``fc.layer`` (P). ``softmax``: fc8 of the fine-tuning. Its scores are
    log-odds, above 0 where the class is more likely than all other classes and background together."""
    svm: SVM = SVM()
    bbox: BoxRegression = BoxRegression()
    probability: Probability = Probability()
    detection: Detection = Detection()
    runtime: Runtime = Runtime()

    @field_validator("finetune")
    @classmethod
    def _has_layers(cls, finetune: FineTune, info: ValidationInfo) -> FineTune:
        if finetune.enabled and "fc" in info.data and info.data["fc"].layer == "pool5":
            raise ValueError("pool5 has no weights to fine-tune; set fc.layer=fc6 or fc.layer=fc7")
        if finetune.enabled and "fc" in info.data and finetune.layer == "fc6" != info.data["fc"].layer:
            raise ValueError("finetune.layer must not come before fc.layer; set finetune.layer=fc7")
        return finetune

    @field_validator("scorer")
    @classmethod
    def _has_been_trained(cls, scorer: ScorerKind, info: ValidationInfo) -> ScorerKind:
        if scorer == "softmax" and "finetune" in info.data and not info.data["finetune"].enabled:
            raise ValueError("must be 'svm' without fine-tuning; set finetune.enabled=true")
        if scorer == "softmax" and "fc" in info.data and "finetune" in info.data:
            layer = info.data["finetune"].layer
            if layer not in (None, info.data["fc"].layer):
                raise ValueError(f"must be 'svm' unless fc.layer is finetune.layer; set fc.layer={layer}")
        return scorer
