"""Data sets of each format and layout, valid ones to damage and a call that reads them."""

from __future__ import annotations

import atexit
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from spp_det.config.settings import Data
from spp_det.data.bounds import fit_record
from spp_det.data.coco import coco_instances
from spp_det.data.convert import Format, write_dataset
from spp_det.data.corrected import Labelled
from spp_det.data.cvat_xml import read_cvat, write_cvat
from spp_det.data.dataset import read_all, read_split, read_splits
from spp_det.data.folder import find_images
from spp_det.data.label_studio import read_label_studio, task
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.images import UnreadableImageError, read_image
from tests.stress.corrupt import Rng

SETS: tuple[Format, ...] = ("voc", "coco", "yolo")


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        write: puts valid files into an empty folder.
        read: reads what lies in a folder, and writes to the other one if to any.
        patterns: of the files to damage.
        share: of the usual number of cases; less for a slow one.
        in_place: it may change the folder that it reads, such as remove a damaged artefact of a cache.
        links: it is given a folder, in which files that are links out of it are refused.
        folders: so are folders that are links, below the given one.
        planted: the share of the cases in which something is planted (`tests.stress.planting`), not damaged.
        beside: names that it may write to, for what is planted.
        drawn: makes the files of a case, in the place of damage.
    """

    write: Callable[[Path], None]
    read: Callable[[Path, Path], None]
    patterns: tuple[str, ...] = ("**/*.*",)
    share: float = 1.0
    in_place: bool = False
    links: bool = False
    folders: bool = False
    planted: float = 0.15
    beside: tuple[str, ...] = ()
    drawn: Callable[[Rng, Path], None] | None = None


def write_voc(folder: Path) -> None:
    """Two photos, one split."""
    generate_voc(folder, {"trainval": 2}, seed=1, sizes=((112, 96),))


def _read_voc(folder: Path, _out: Path) -> None:
    _decode(read_voc(folder, "trainval"))
    find_images([folder / "ImageSets" / "Main" / "trainval.txt"])


def _decode(dataset: Dataset) -> None:
    for record in dataset.records:
        try:
            image = read_image(record.path)
        except UnreadableImageError:
            continue
        fit_record(record, image.shape[1], image.shape[0])


@cache
def _photos() -> dict[str, Dataset]:
    """Three photos to learn from and two to test on."""
    folder = Path(mkdtemp(prefix="data-sets-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generate_voc(folder, {"train": 3, "test": 2}, seed=2, sizes=((112, 96),))
    classes = read_voc(folder, "train").classes
    return {split: read_voc(folder, split, classes) for split in ("train", "test")}


def _writes(format_: Format, change: Callable[[Path], None] = lambda _folder: None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_dataset(_photos(), folder, format_)
        change(folder)

    return write


def _plain_names(folder: Path) -> None:
    """As labelImg leaves it: no splits, the names of the classes alone."""
    (folder / "data.yaml").unlink()


def _darknet(folder: Path) -> None:
    """As CVAT and datumaro write it; polygons take turns with boxes."""
    _plain_names(folder)
    (folder / "classes.txt").rename(folder / "obj.names")
    for split in ("train", "test"):
        names = sorted(path.name for path in (folder / "images" / split).iterdir())
        lines = [f"data/obj_{split}_data/{name}\n" for name in names]
        (folder / f"{split}.txt").write_text("".join(lines))
        shutil.move(folder / "images" / split, folder / f"obj_{split}_data")
        for path in sorted((folder / "labels" / split).iterdir()):
            path.write_text(path.read_text() + "0 0.1 0.1 0.5 0.2 0.3 0.6\n")
            path.rename(folder / f"obj_{split}_data" / path.name)
    splits = "train = data/train.txt\nvalid = data/test.txt\ntest = data/test.txt\n"
    (folder / "obj.data").write_text(f"classes = 5\n{splits}names = data/obj.names\nbackup = backup/\n")


def _side_by_side(folder: Path) -> None:
    """Photos and XML files in one folder without split lists."""
    for path in [*(folder / "Annotations").iterdir(), *(folder / "JPEGImages").iterdir()]:
        path.rename(folder / path.name)
    for name in ("Annotations", "JPEGImages", "ImageSets"):
        shutil.rmtree(folder / name)


def _lists_of_classes(folder: Path) -> None:
    """As VoTT writes them."""
    lists = folder / "ImageSets" / "Main"
    for split, dataset in _photos().items():
        (lists / f"{split}.txt").unlink()
        for label, name in enumerate(dataset.classes):
            lines = [
                f"{record.image_id}.jpg {1 if label in record.labels else -1}\n" for record in dataset.records
            ]
            (lists / f"{name}_{split}.txt").write_text("".join(lines))


def _write_odd_coco(folder: Path) -> None:
    """Ids as text, floats and none, a root category, names that lead elsewhere, flags as truth values."""
    for split, dataset in _photos().items():
        (folder / split).mkdir()
        content = coco_instances(dataset)
        for number, image in enumerate(content["images"]):
            shutil.copyfile(dataset.records[number].path, folder / split / image["file_name"])
            odd = (image["file_name"], f"/data/upload/1/{image['file_name']}", f"..\\x\\{image['file_name']}")
            image |= {"id": f"photo {image['id']}", "file_name": odd[number], "width": float(image["width"])}
        for number, annotation in enumerate(content["annotations"]):
            annotation["image_id"] = f"photo {annotation['image_id']}"
            annotation["category_id"] = float(annotation["category_id"])
            annotation["iscrowd"] = (False, None, 0)[number % 3]
            if number % 2:
                del annotation["id"]
        content["categories"].insert(0, {"id": 0, "name": "all", "supercategory": "none"})
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


def _reads(format_: Format, test: str = "test") -> Callable[[Path, Path], None]:
    """As a training does: with a split to test on, or with photos held out."""

    def read(folder: Path, _out: Path) -> None:
        data = Data(root=folder, format="auto" if format_ == "coco" else format_, test=test)
        found = read_splits(data, seed=0)
        _decode(found.train)
        if found.test is not None:
            _decode(found.test.dataset)
        if found.held_out:
            read_split(format_, folder, None)

    return read


def _convert(folder: Path, out: Path) -> None:
    """To every format, one after the other."""
    for format_ in SETS:
        write_dataset(read_all(folder)[1], out / format_, format_)


def _write_exports(folder: Path) -> None:
    """What CVAT and Label Studio export of the training photos, which lie in a folder beside."""
    train = _photos()["train"]
    (folder / "photos").mkdir()
    labelled, tasks = [], []
    for record in train.records:
        shutil.copy(record.path, folder / "photos")
        boxes = [(x1, y1, x2, y2) for x1, y1, x2, y2 in record.boxes.tolist()]
        names = [train.classes[label] for label in record.labels]
        labelled.append(Labelled("", record.path.name, record.size, boxes, names))
        made = json.loads(task(labelled[-1], [1.0] * len(boxes), "fuzz"))
        (prediction,) = made.pop("predictions")
        tasks.append(made | {"id": len(tasks), "annotations": [{"result": prediction["result"]}]})
    with (folder / "annotations.xml").open("w") as file:
        write_cvat(labelled, train.classes, file)
    (folder / "project.json").write_text(json.dumps(tasks))


def _reads_export(name: str) -> Callable[[Path, Path], None]:
    def read(folder: Path, _out: Path) -> None:
        reader = read_cvat if name.endswith(".xml") else read_label_studio
        _decode(reader(folder / name, folder / "photos"))

    return read


_YOLO = ("**/*.txt", "*.yaml", "*.data", "*.names", "**/*.jpg")
_VOC = ("**/*.xml", "ImageSets/Main/*.txt", "**/*.jpg")
DATA_SETS: Mapping[str, Reader] = {
    "voc": Reader(write_voc, _read_voc, ("Annotations/*.xml", "ImageSets/Main/*.txt")),
    "voc folder": Reader(_writes("voc", _side_by_side), _reads("voc", "auto"), _VOC),
    "voc class lists": Reader(_writes("voc", _lists_of_classes), _reads("voc"), _VOC),
    "yolo data.yaml": Reader(_writes("yolo"), _reads("yolo"), _YOLO),
    "yolo classes.txt": Reader(_writes("yolo", _plain_names), _reads("yolo", "auto"), _YOLO),
    "yolo obj.data": Reader(_writes("yolo", _darknet), _reads("yolo"), _YOLO),
    **{
        f"export {name}": Reader(_write_exports, _reads_export(name), (name,))
        for name in ("annotations.xml", "project.json")
    },
    "coco layouts": Reader(_write_odd_coco, _reads("coco"), ("*/*.json", "*/*.json", "**/*.jpg")),
    **{f"convert {format_}": Reader(_writes(format_), _convert, share=0.34) for format_ in SETS},
}
