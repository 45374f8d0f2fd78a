"""Every setting of a run: its type, its range and its default. Files of them: `spp_det.config.file`.

The defaults are the paper's single-scale detector (P), with the authors' released code (R) where the
paper is silent. Recipes in ``configs/`` state where they differ and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Overlap = Annotated[float, Field(gt=0, le=1)]  # an IoU of boxes that do overlap
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Workers = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=16, le=8192)]  # pixels
Sides = Annotated[tuple[Side, ...], Field(min_length=1)]
MaxSide = Annotated[int, Field(ge=64, le=32768, validate_default=True)]  # pixels
Levels = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)]
Width = Annotated[int, Field(ge=1, le=16384)]  # of an fc layer

PoolMode = Literal["max", "average"]
Precision = Literal["auto", "float32", "bfloat16"]
Features = Literal["spp", "rcnn"]
Normalize = Literal["none", "hellinger"]
FIVE_SCALES = (480, 576, 688, 864, 1200)
"""The paper's, of shorter sides in pixels (section 4.1); its single scale is the one in the middle."""
PROPOSAL_FILES = (".mat", ".npz", ".json")
ScorerKind = Literal["svm", "softmax"]


class Section(BaseModel):
    """A part of the configuration: immutable, and no key but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``on`` and ``yes`` as true, which would pass for 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Data(Section):
    """Where the annotated images are."""

    root: Path = Path("data")
    """The folder of ``Annotations``, ``JPEGImages`` and ``ImageSets``; or of the images of a COCO file."""
    format: Literal["voc", "coco"] = "voc"
    train: str | tuple[str, ...] = "trainval"
    """A split's name (voc) or an instances file (coco). ``FOLDER:SPLIT`` is a split of the data set in that
    folder below ``root``; a list joins several: ``[VOC2007:trainval, VOC2012:trainval]``."""
    test: str | None = None
    """One of the same for the evaluation that ends the training; None leaves it out."""
    classes: tuple[str, ...] | None = None
    """Names to learn; None takes those of the training annotations, sorted."""
    follow_links: bool = False
    """Read files that are symbolic links out of ``root``, too: a data set of a stranger might have one to
    anywhere."""

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_several(cls, train: Any, info: ValidationInfo) -> Any:
        if isinstance(train, str):
            return train
        if not isinstance(train, list | tuple) or not all(isinstance(split, str) for split in train):
            raise ValueError("must be a string, or a list of strings")
        if not train or len(set(train)) != len(train):
            raise ValueError("must name at least one split and none twice")
        if info.data.get("format") == "coco":
            raise ValueError("must be one file: only splits of format voc can be joined")
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
    """``fast``, ``paper`` and ``quality`` are selective search; the other two need what follows."""
    max_side: Side | None = None
    """Search in a copy shrunk to this longer side in pixels; ``file`` has no use for it."""
    file: Path | None = None
    """Of ``file``: R-CNN's ``.mat``, an ``.npz`` or a ``.json`` (see `spp_det.proposals.files`)."""
    edge_model: Path | None = None
    """Of ``edgeboxes``: OpenCV's model of structured edges, a ``.yml`` or ``.yml.gz``."""

    @field_validator("file")
    @classmethod
    def _readable(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix.lower() not in PROPOSAL_FILES:
            raise ValueError(f"must end in {', '.join(PROPOSAL_FILES)}")
        return file

    def mismatch(self) -> str | None:
        """What the mode needs and lacks, or has and never looks at; None where all is well.

        No validator: a model file keeps the mode, but no path of its maker's.
        """
        paths = {"file": ("file", self.file), "edgeboxes": ("edge_model", self.edge_model)}
        for mode, (key, path) in paths.items():
            if path is None and self.mode == mode:
                return f"proposals.{key} = None: must name a file, because proposals.mode is {mode}"
            if path is not None and self.mode != mode:
                return f"proposals.{key} = {str(path)!r}: must go with mode {mode}, not {self.mode}"
        return None

    def without_paths(self) -> Proposals:
        """For a model file: paths are of no use to whoever gets it, and tell of its maker."""
        return self.model_copy(update={"file": None, "edge_model": None})


class Backbone(Section):
    """The convolutional network up to conv5, and the sizes of image it sees."""

    name: str = "alexnet"
    weights: str = "default"
    """``default`` (torchvision's), ``random``, or a ``.safetensors`` or ``.pth`` file."""
    scales: Sides = (688,)
    """Images are resized so that their shorter side is this (P: 688, or 480, 576, 688, 864, 1200)."""
    max_side: MaxSide = 2400
    """The longer side never exceeds this, so that a panorama cannot exhaust the memory."""

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

    levels: Levels = (6, 3, 2, 1)
    mode: PoolMode = "max"
    normalize: Normalize = "none"
    """``none``: conv5 as it is (P). ``hellinger``: square roots of its cells, then all vectors of one
    length, so that a few strong channels do not drown the rest."""


class FC(Section):
    """The fully connected layers between the pyramid and the SVMs (P section 4.1)."""

    layer: Literal["pool5", "fc6", "fc7"] = "pool5"
    """What the SVMs see; pool5, the pyramid's vector itself, leaves the rest of this section idle."""
    weights: str = "default"
    """``default`` (the ImageNet network's; random where torchvision's has no such layers), ``random``, or a
    ``.safetensors`` or ``.pth`` file of the whole network in torchvision's names."""
    width: Width = 4096
    """Outputs of each layer; pre-trained layers insist on their own."""
    rank: tuple[Count, Count] | None = None
    """Compress fc6 and fc7 to these ranks after training; Fast R-CNN (section 3.1) took 1024 and 256."""

    @field_validator("rank", mode="before")
    @classmethod
    def _two_ranks(cls, rank: Any) -> Any:
        if rank is not None and (not isinstance(rank, list | tuple) or len(rank) != 2):
            raise ValueError("must be a list of two ranks, of fc6 and of fc7")
        return rank


class FineTune(Section):
    """Fine-tuning of fc6, fc7 and a new fc8 on conv5 maps that stay as they are (P section 4.1, R)."""

    enabled: bool = False
    layer: Literal["fc6", "fc7"] | None = None
    """The last layer that learns, fc8 behind it; None is ``fc.layer``. With fc7 and SVMs on fc6 it is the row
    "ft fc6" of the paper's table 9: fc6 of the network that "ft fc7" takes whole."""
    batch: Annotated[int, Field(ge=2)] = 128
    """Windows of a step."""
    images_per_step: Count = 2
    """How many images those come from. A step reads all maps of each, so few is fast; with two, Fast R-CNN
    (section 2.3) saw no slower convergence than with a window from each of 128."""
    positive_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    positive_iou: Overlap = 0.5
    """A window that overlaps an object at least this much is one of its class."""
    negative_iou_high: Annotated[Overlap, Field(validate_default=True)] = 0.5
    """Windows are background if the largest of their overlaps with objects is below this..."""
    negative_iou_low: Annotated[Fraction, Field(validate_default=True)] = 0.1
    """...and not below this: those further off are too easy. Images without any such give those."""
    learning_rate: Positive = 1e-4
    steps: Count = 250_000
    last_steps: Annotated[int, Field(ge=0)] = 50_000
    """After ``steps``, at a tenth of the learning rate."""
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 5e-4
    dropout: BelowOne = 0.5
    flips: bool = True
    """Half of the windows are mirrored."""
    centre: bool = False
    """While they learn, fc6 sees vectors less their mean: the same network, but random weights learn."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Of the images, at most: left out, to log loss and accuracy on. SVMs learn from them too."""
    log_every: Count = 1000
    """Steps."""
    checkpoint_every: Count = 2000
    """Steps that are at most lost when the training is stopped; mostly it is a few seconds' work."""

    @field_validator("negative_iou_high")
    @classmethod
    def _below_the_positives(cls, high: float, info: ValidationInfo) -> float:
        if high > info.data.get("positive_iou", 1):
            raise ValueError(f"must not exceed finetune.positive_iou, {info.data['positive_iou']:g}")
        return high

    @field_validator("negative_iou_low")
    @classmethod
    def _below_the_highest(cls, low: float, info: ValidationInfo) -> float:
        if low >= info.data.get("negative_iou_high", 2):
            raise ValueError(f"must be below finetune.negative_iou_high, {info.data['negative_iou_high']:g}")
        return low


class SVM(Section):
    """One linear SVM a class, with one pass of hard-negative mining (P section 4.1, R)."""

    C: Positive = 1e-3
    bias: Positive = 10.0
    """Value of the constant feature that carries the bias."""
    positive_weight: Positive = 2.0
    norm: Positive = 20.0
    """Features are scaled so that the mean norm of sampled windows is this."""
    positive_iou: Overlap = 1.0
    """Windows that overlap an object at least this much are positives too; 1: the objects alone (P)."""
    negative_iou: Annotated[Fraction, Field(validate_default=True)] = 0.3
    """A window is a negative of a class if its IoU with all the class's objects is below this."""
    duplicate_iou: Fraction = 0.7
    """A negative that overlaps a kept one of its image by more than this is dropped."""
    hard_score: float = -1.0001
    evict_score: float = -1.2
    memory_mb: Count = 896
    """For the vectors of the examples; beyond it the easiest negatives are forgotten."""
    retrain_after: Count = 2000
    """New negatives of any one class that call for a new fit."""
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    """A fit ends when its relative duality gap is below this."""

    @field_validator("negative_iou")
    @classmethod
    def _below_the_positives(cls, negative_iou: float, info: ValidationInfo) -> float:
        if negative_iou > info.data.get("positive_iou", 1):
            raise ValueError(f"must not exceed svm.positive_iou, {info.data['positive_iou']:g}")
        return negative_iou


class BoxRegression(Section):
    """Ridge regression from pool5 vectors to boxes, one a class (R-CNN appendix C, R)."""

    enabled: bool = True
    ridge: Positive = 4000.0
    min_iou: Overlap = 0.5
    """Windows that overlap an object at least this much are examples."""
    norm: Positive = 20.0
    max_windows: Count = 5000
    """Examples of one class, drawn at random where there are more."""
    passes: Literal[1, 2] = 1
    """2: boxes that were moved are looked at once more, scored again and moved by a second regressor, and
    what is found is the mean of both looks. 1 is the paper's."""


class Detection(Section):
    """From scores to detections (P section 4.1, R)."""

    score_threshold: float = -1.5
    nms: Fraction = 0.3
    soft_nms: Positive | None = None
    """Sigma: boxes that overlap a better one of their class score less, instead of going; ``nms`` is idle."""
    max_per_image: Count = 100
    """Detections of one class in one image."""


class Runtime(Section):
    """How to run, without effect on what is computed."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``..."""
    workers: Workers = 0
    """Threads for images in parallel; 0 means one a core."""
    precision: Precision = "auto"
    """Of the network: ``auto`` is bfloat16 where the device has it in hardware and conv5 stays the same."""
    cache: Path | None = None
    """Folder for proposals and conv5 maps, may be shared by runs; None means OUTPUT/cache."""


class Config(Section):
    """A whole run."""

    output: Path = Path("runs/spp")
    seed: Seed = 0
    strict: bool = False
    """An image that cannot be read is an error, not a warning."""
    features: Features = "spp"
    """What windows are described by: ``spp`` pools one map of the image, ``rcnn``, the baseline, warps each
    window and passes it through the network by itself (``backbone.scales`` and ``pyramid`` are then idle)."""
    data: Data = Data()
    proposals: Proposals = Proposals()
    backbone: Backbone = Backbone()
    pyramid: Pyramid = Pyramid()
    fc: FC = FC()
    finetune: FineTune = FineTune()
    scorer: ScorerKind = "svm"
    """``svm``: one a class, on ``fc.layer`` (P). ``softmax``: the fc8 of the fine-tuning, on its last layer;
    scores are then log-odds, above 0 where the class is more likely than all else together."""
    svm: SVM = SVM()
    bbox: BoxRegression = BoxRegression()
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
