"""Which format a folder of annotated photos has, and the reading of a training's data in any of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from spp_det.config.settings import AUTO, Data
from spp_det.data.classes import choose_classes, leave_out_empty
from spp_det.data.coco import coco_dataset, instances_of
from spp_det.data.coco_file import Json, load_instances
from spp_det.data.coco_layout import coco_files, photo_folder, training_file
from spp_det.data.held_out import held_out, part
from spp_det.data.joined import locate_split, read_voc_splits
from spp_det.data.names import Links
from spp_det.data.records import Dataset
from spp_det.data.sizes import check_sizes
from spp_det.data.voc import read_voc, split_names
from spp_det.data.voc_layout import annotations_below
from spp_det.data.yolo import read_yolo
from spp_det.data.yolo_layout import is_yolo, read_layout
from spp_det.errors import UserError
from spp_det.runtime.files import read_text

logger = logging.getLogger(__name__)

Format = Literal["voc", "coco", "yolo"]
CALLED = {"voc": "Pascal VOC", "coco": "COCO", "yolo": "YOLO"}
HELD_OUT = "held_out.txt"  # in the folder of a run: the ids of the photos that it did not learn from


@dataclass(frozen=True, eq=False)
class Split:
    """A data set to compare detections with; ``instances`` is its part of a COCO file, or None."""

    dataset: Dataset
    instances: Json | None = None


@dataclass(frozen=True, eq=False)
class Splits:
    """The data of a run.

    Attributes:
        train: what to learn from.
        test: what to score on, or None.
        held_out: the image ids of the test where it was held out of the training's data; else empty.
    """

    train: Dataset
    test: Split | None
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where the photos of a run lie: the splits of ``data`` with nothing left to find out.

    Attributes:
        format: of the annotations.
        train: VOC splits, one YOLO split or one COCO file; None: all photos that have annotations.
        test: a split or file; None: no test; `HELD_OUT`: a share of the training's photos.
    """

    format: Format
    train: tuple[str, ...] | None
    test: str | None


def format_of(root: Path, split: str | None = None) -> Format:
    """The format of the data set in a folder, or of one of its splits.

    Split lists make it Pascal VOC, then instances files under COCO's names COCO, class names YOLO, and XML
    files Pascal VOC again. Raises UserError where nothing of that is there.
    """
    if split is not None and split.endswith(".json"):
        return "coco"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folder = root if split is None or split.endswith(".txt") else locate_split(root, split)[0]
    if (folder / "ImageSets" / "Main").is_dir():
        return "voc"
    if is_yolo(root):
        return "yolo"
    if coco_files(root):
        return "coco"
    if annotations_below(root, Links(root, follow=True)):
        return "voc"
    raise UserError(
        f"{root}: not a data set: it holds neither Pascal VOC's ImageSets/Main or XML files, nor COCO's "
        "JSON, nor YOLO's class names in a data.yaml, obj.data or classes.txt"
    )


def find_data(data: Data) -> Place:
    """What the settings mean where they leave something to be found out. Raises UserError as `format_of`."""
    stated = [data.train] if isinstance(data.train, str) else list(data.train)
    named = None if stated == [AUTO] else stated[0]
    format_: Format = format_of(data.root, named) if data.format == "auto" else data.format
    if format_ != "voc" and len(stated) > 1:
        raise UserError(
            f"data.train = {', '.join(stated)}: only splits of Pascal VOC can be joined, and {data.root} is "
            f"{CALLED[format_]}: name one split"
        )
    train = tuple(stated) if named is not None else _training_split(data.root, format_)
    has_splits = train is not None and (named is not None or train[0].lower().startswith("train"))
    test = None if data.test in (None, "none") else data.test
    if test == AUTO:
        test = None if has_splits else HELD_OUT
    return Place(format_, train, test)


def read_splits(data: Data, seed: int) -> Splits:
    """Read what a run learns from and what it is scored on; one line of the log says what was taken.

    Classes without an object are left out, or ``data.classes`` chooses. Where the data set has no splits of
    its own, `held_out` chooses a share of the photos for the test by their ids and the seed.

    Raises UserError as the readers do, for a chosen class without objects, and for a test whose photos have
    other sizes than its annotations state.
    """
    place = find_data(data)
    whole = read_split(place.format, data.root, place.train, follow_links=data.follow_links)
    name = ", ".join(place.train or ()) or "all photos that have annotations"
    source = name if name.endswith(".json") else f"{data.root} {name}"
    chosen = _with_classes(whole.dataset, data, source)
    test = None if place.test in (None, HELD_OUT) else _test(place, data)
    taken = f"{CALLED[place.format]}, {data.root}: {name}"
    logger.info("data: %s (%d photos, %d classes)", taken, len(chosen), len(chosen.classes))
    if place.test != HELD_OUT:
        return Splits(chosen, test)
    ids = held_out([record.image_id for record in chosen.records], seed)
    test = _part(Split(chosen, whole.instances), ids, str(data.root))
    names = tuple(record.image_id for record in test.dataset.records)
    logger.info(
        "%s has no splits: %d of its %d photos are held out for the test (data.test=none learns from all)",
        *(data.root, len(names), len(chosen)),
    )
    _check_sizes(test.dataset, data.root)
    train = part(chosen, ids, inside=False)
    return Splits(train if data.classes else leave_out_empty(train, str(data.root)), test, names)


def read_test(data: Data, seed: int, run: Path) -> Split | None:
    """The test of a run again: what it held out, which its folder lists, or its test split."""
    place = find_data(data)
    if place.test is None:
        return None
    if place.test != HELD_OUT:
        return _test(place, data)
    if (run / HELD_OUT).is_file():
        whole = read_split(place.format, data.root, place.train, follow_links=data.follow_links)
        chosen = _with_classes(whole.dataset, data, str(data.root))
        return _part(Split(chosen, whole.instances), _ids(run / HELD_OUT), str(run / HELD_OUT))
    return read_splits(data, seed).test


def read_split(
    format_: Format,
    root: Path,
    split: str | Sequence[str] | None,
    *,
    images: Path | None = None,
    follow_links: bool = False,
) -> Split:
    """Read one split of a data set of a format, several of Pascal VOC joined, or with None all photos.

    ``split`` may also be the path of a ``.txt`` file with an image id a line: these photos of the whole data
    set. COCO's split is a path of a file or the name of one in ``root``; ``images`` is where its photos lie
    if not in ``root``. Raises UserError as the readers do.
    """
    splits = [split] if isinstance(split, str) else split
    if format_ == "coco":
        (name,) = splits or (training_file(root, coco_files(root)),)
        path = _coco_path(root, name)
        content = load_instances(path)
        folder = images or photo_folder(root, path, content)
        dataset = coco_dataset(content, path, folder, follow_links=follow_links)
        return Split(dataset, instances_of(content, dataset))
    if splits is not None and len(splits) == 1 and _is_list(splits[0]):
        if format_ == "yolo" or not (root / "Annotations").is_dir():
            whole = read_split(format_, root, None, follow_links=follow_links)
            return _part(whole, _ids(Path(splits[0])), splits[0])
        return Split(read_voc(root, splits[0], follow_links=follow_links))
    if format_ == "yolo":
        return Split(read_yolo(root, splits[0] if splits else None, follow_links=follow_links))
    if splits is None:
        return Split(read_voc(root, None, follow_links=follow_links))
    return Split(read_voc_splits(root, splits, follow_links=follow_links))


def read_all(root: Path, *, follow_links: bool = False) -> tuple[Format, dict[str, Dataset]]:
    """Every split of a data set by its name, and the format; ``all`` where it has no splits.

    Of Pascal VOC's lists those of one class (``cat_train``) are left out, and ``trainval`` beside a ``train``
    and a ``val``.
    """
    format_ = format_of(root)
    splits: dict[str, str | None]
    if format_ == "voc":
        splits = {name: name for name in _voc_splits(root)}
    elif format_ == "coco":
        splits = {name: str(path) for name, path in coco_files(root).items()}
    else:
        layout = read_layout(root, Links(root, follow=follow_links))
        splits = {name: name for name in layout.splits}
    splits = splits or {"all": None}
    return format_, {
        name: read_split(format_, root, split, follow_links=follow_links).dataset
        for name, split in splits.items()
    }


def _training_split(root: Path, format_: Format) -> tuple[str, ...] | None:
    """What an unnamed training learns from; None: from all photos that have annotations."""
    if format_ == "coco":
        return (training_file(root, coco_files(root)),)
    if format_ == "yolo":
        return ("train",) if "train" in read_layout(root, Links(root, follow=True)).splits else None
    names = split_names(root)
    if not names:
        return None
    usual = [name for name in ("trainval", "train") if name in names]
    only = len(names) == 1 and names[0] not in ("test", "val")  # CVAT's list of all photos is `default`
    return (usual[0] if usual else names[0] if only else "trainval",)


def _voc_splits(root: Path) -> list[str]:
    names = split_names(root)
    return [name for name in names if name != "trainval" or not {"train", "val"} <= set(names)]


def _coco_path(root: Path, name: str) -> Path:
    """A file of COCO's by its path, by its path below the root, or by the name of its split."""
    for path in (Path(name), root / name):
        if path.is_file():
            return path
    if name.endswith(".json"):
        return Path(name)  # whoever reads it says that it is not there
    files = coco_files(root) if root.is_dir() else {}
    near = {"val": "valid", "valid": "val"}.get(name, name)
    if name not in files and near not in files:
        raise UserError(f"{root}: has no COCO file of a split {name!r}; it has: {', '.join(files) or 'none'}")
    return files[name if name in files else near]


def _test(place: Place, data: Data) -> Split:
    test = read_split(place.format, data.root, place.test, follow_links=data.follow_links)
    if data.classes is not None:
        chosen = choose_classes(test.dataset, data.classes, f"{data.root} {place.test}", needed=False)
        test = Split(chosen, _instances(test.instances, chosen))
    _check_sizes(test.dataset, data.root)
    return test


def _check_sizes(dataset: Dataset, root: Path) -> None:
    check_sizes(dataset.records, [None] * len(dataset), str(root))


def _with_classes(dataset: Dataset, data: Data, source: str) -> Dataset:
    if data.classes is not None:
        return choose_classes(dataset, data.classes, source)
    return leave_out_empty(dataset, source)


def _part(whole: Split, ids: frozenset[str], source: str) -> Split:
    """The photos of the ids alone; ``source`` names their list in messages."""
    dataset = part(whole.dataset, ids, inside=True)
    missing = sorted(ids - {record.image_id for record in dataset.records})
    if not dataset.records:
        first = f", the first is {missing[0]!r}" if missing else ""
        raise UserError(f"{source}: none of its {len(ids)} photos is in the data set{first}")
    if missing:
        logger.warning(
            "%s: %d of its photos are not in the data set, the first is %r", source, len(missing), missing[0]
        )
    return replace(whole, dataset=dataset, instances=_instances(whole.instances, dataset))


def _instances(content: Json | None, dataset: Dataset) -> Json | None:
    return None if content is None else instances_of(content, dataset)


def _is_list(split: str) -> bool:
    return split.endswith(".txt") and Path(split).is_file()


def _ids(path: Path) -> frozenset[str]:
    return frozenset(line.strip() for line in read_text(path).splitlines() if line.strip())
