"""Every setting of a run: its type, its range, its default, and strict reading of files and overrides.

The defaults are the paper's single-scale detector (P), with the authors' released code (R) where the
paper is silent. Recipes in ``configs/`` state where they differ and why.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from spp_det.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=16, le=8192)]  # pixels
Levels = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)]

Precision = Literal["auto", "float32", "bfloat16"]
Features = Literal["spp", "rcnn"]
Normalize = Literal["none", "hellinger"]
FIVE_SCALES = (480, 576, 688, 864, 1200)
"""The paper's, of shorter sides in pixels (section 4.1); its single scale is the one in the middle."""
PROPOSAL_FILES = (".mat", ".npz", ".json")
ScorerKind = Literal["svm", "softmax"]


class Section(BaseModel):
    """A part of the configuration: immutable, and no key but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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

    def without_paths(self) -> Proposals:
        """For a model file: paths are of no use to whoever gets it, and tell of its maker."""
        return self.model_copy(update={"file": None, "edge_model": None})


class Backbone(Section):
    """The convolutional network up to conv5, and the sizes of image it sees."""

    name: str = "alexnet"
    weights: str = "default"
    """``default`` (torchvision's), ``random``, or a ``.safetensors`` or ``.pth`` file."""
    scales: Annotated[tuple[Side, ...], Field(min_length=1)] = (688,)
    """Images are resized so that their shorter side is this (P: 688, or 480, 576, 688, 864, 1200)."""
    max_side: Annotated[int, Field(ge=64, le=32768, validate_default=True)] = 2400
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
    mode: Literal["max", "average"] = "max"
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
    width: Annotated[int, Field(ge=1, le=16384)] = 4096
    """Outputs of each layer; pre-trained layers insist on their own."""
    rank: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
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
    images_per_step: Annotated[int, Field(ge=1)] = 2
    """How many images those come from. A step reads all maps of each, so few is fast; with two, Fast R-CNN
    (section 2.3) saw no slower convergence than with a window from each of 128."""
    positive_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    positive_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A window that overlaps an object at least this much is one of its class."""
    negative_iou_high: Annotated[float, Field(gt=0, le=1, validate_default=True)] = 0.5
    """Windows are background if the largest of their overlaps with objects is below this..."""
    negative_iou_low: Annotated[Fraction, Field(validate_default=True)] = 0.1
    """...and not below this: those further off are too easy. Images without any such give those."""
    learning_rate: Positive = 1e-4
    steps: Annotated[int, Field(ge=1)] = 250_000
    last_steps: Annotated[int, Field(ge=0)] = 50_000
    """After ``steps``, at a tenth of the learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    flips: bool = True
    """Half of the windows are mirrored."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Of the images, at most: left out, to log loss and accuracy on. SVMs learn from them too."""
    log_every: Annotated[int, Field(ge=1)] = 1000
    """Steps."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 2000
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
    positive_iou: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Windows that overlap an object at least this much are positives too; 1: the objects alone (P)."""
    negative_iou: Annotated[Fraction, Field(validate_default=True)] = 0.3
    """A window is a negative of a class if its IoU with all the class's objects is below this."""
    duplicate_iou: Fraction = 0.7
    """A negative that overlaps a kept one of its image by more than this is dropped."""
    hard_score: float = -1.0001
    evict_score: float = -1.2
    memory_mb: Annotated[int, Field(ge=1)] = 896
    """For the vectors of the examples; beyond it the easiest negatives are forgotten."""
    retrain_after: Annotated[int, Field(ge=1)] = 2000
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
    min_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Windows that overlap an object at least this much are examples."""
    norm: Positive = 20.0
    max_windows: Annotated[int, Field(ge=1)] = 5000
    """Examples of one class, drawn at random where there are more."""
    passes: Literal[1, 2] = 1
    """2: boxes that were moved are looked at once more, scored again and moved by a second regressor, and
    what is found is the mean of both looks. 1 is the paper's."""


class Detection(Section):
    """From scores to detections (P section 4.1, R)."""

    score_threshold: float = -1.5
    nms: Fraction = 0.3
    max_per_image: Annotated[int, Field(ge=1)] = 100
    """Detections of one class in one image."""


class Runtime(Section):
    """How to run, without effect on what is computed."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``..."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Threads for images in parallel; 0 means one a core."""
    precision: Precision = "auto"
    """Of the network: ``auto`` is bfloat16 where the device has it in hardware and conv5 stays the same."""
    cache: Path | None = None
    """Folder for proposals and conv5 maps, may be shared by runs; None means OUTPUT/cache."""


class Config(Section):
    """A whole run."""

    output: Path = Path("runs/spp")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
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


Kind = TypeVar("Kind", bound=Section)


@overload
def load_config(path: Path, overrides: Sequence[str] = ()) -> Config: ...


@overload
def load_config(path: Path, overrides: Sequence[str], kind: type[Kind]) -> Kind: ...


def load_config(path: Path, overrides: Sequence[str] = (), kind: type[Section] = Config) -> Section:
    """Read a YAML recipe and apply overrides ``section.key=value`` (values are YAML: ``a=[1, 2]``).

    ``kind`` is the class of the whole configuration. Raises UserError, one line with the key, the value and
    what is allowed, on an unreadable file, an unknown key (the nearest known one is named), a wrong type or
    a value out of range.

    >>> load_config(Path("recipe.yaml"), ["data.root=photos", "backbone.scales=[96, 128]"]).backbone.scales
    (96, 128)
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # of its bytes, or of a name that no file can have
        raise UserError(
            f"cannot read the config {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        tree = _read_yaml(text)
    except ValueError as error:
        raise UserError(f"{path} is not YAML that a config may hold: {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a config is a mapping of sections, not a {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    return _parsed(tree, str(path), kind)


def parse_config(tree: dict[str, Any], source: str = "the configuration") -> Config:
    """A configuration from nested mappings; ``source`` names them in the UserError.

    >>> config = parse_config({"data": {"root": "photos"}, "svm": {"C": 0.003}})
    >>> config.svm.C, config.pyramid.levels
    (0.003, (6, 3, 2, 1))
    >>> parse_config({"svm": {"c": 1}})
    Traceback (most recent call last):
    spp_det.errors.UserError: the configuration: unknown key svm.c; did you mean svm.C?
    """
    return _parsed(tree, source, Config)


def _parsed(tree: dict[str, Any], source: str, kind: type[Kind]) -> Kind:
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error, kind)}") from error
    if isinstance(config, Config) and (message := mismatch(config.proposals)) is not None:
        raise UserError(f"{source}: {message}")
    return config


def mismatch(proposals: Proposals) -> str | None:
    """What the mode needs and lacks, or has and never looks at; None where all is well.

    No validator of the section itself: a model file keeps the mode, but no path of its maker's.
    """
    paths = {"file": ("file", proposals.file), "edgeboxes": ("edge_model", proposals.edge_model)}
    for mode, (key, path) in paths.items():
        if path is None and proposals.mode == mode:
            return f"proposals.{key} = None: must name a file, because proposals.mode is {mode}"
        if path is not None and proposals.mode != mode:
            return f"proposals.{key} = {str(path)!r}: must go with mode {mode}, not {proposals.mode}"
    return None


def dump_config(config: Section) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def dotted(section: Section) -> dict[str, object]:
    """Every value by its dotted key, ``{"svm.C": 0.001, ...}``, as JSON has it."""

    def walk(tree: dict[str, Any], prefix: str) -> Iterable[tuple[str, object]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(walk(section.model_dump(mode="json"), ""))


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What is no longer what it was, on one line: ``svm.C: 0.001 -> 0.01; seed: 0 -> 1``."""
    keys = [*before, *(key for key in now if key not in before)]
    return "; ".join(
        f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)
    )


class _PlainLoader(yaml.SafeLoader):
    """Values alone: no tags that name Python's objects, and no aliases, of which a few lines nested in each
    other stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*NAME): write the value out")
        return super().compose_node(parent, index)


def _read_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ValueError, one line, where it has none."""
    try:
        return yaml.load(text, _PlainLoader)
    except Exception as error:  # the parser's own, and what Python says to 2026-99-99 or [[[[...
        raise ValueError(" ".join(str(error).split())[:300]) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, name = key.split(".")
    if not equals or not all((*sections, name)):
        raise UserError(f"override {override!r}: write it as section.key=value")
    try:
        value = _read_yaml(text)
    except ValueError as error:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value") from error
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise UserError(f"override {override!r}: {section} is not a section")
    node[name] = value


_SHORT = reprlib.Repr()  # of values that may be of any size
_SHORT.maxstring = _SHORT.maxother = 100


def _explain(error: ValidationError, kind: type[Section]) -> str:
    first = error.errors()[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = list(_known_keys(kind))
        namesakes = [name for name in known if name.split(".")[-1] == path[-1]]  # of other sections
        near = difflib.get_close_matches(key, namesakes or known, n=1, cutoff=0 if namesakes else 0.5)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
    message = re.sub(r"^\w+ should ", "must ", first["msg"].removeprefix("Value error, "))
    if first["type"] == "path_type":
        message = "must be a path"
    elif first["type"] == "tuple_type":
        message = f"must be a list: [{str(first['input'])[:100]}]"
    elif first["type"] == "model_type":
        message = "must be a section, with keys of its own"
    whole_section = any(name.startswith(f"{key}.") for name in _known_keys(kind))
    if whole_section and first["type"] == "value_error":  # too long to show, and only a key or two are wrong
        return f"{key}: {message}"
    return f"{key} = {_SHORT.repr(first['input'])}: {message}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _known_keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name
