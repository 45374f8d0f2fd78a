"""What annotation tools read of the folder that ``detect --format`` wrote, each in its own environment.

Called by `tests.stress.exporters`. Each format of a tool is a function that yields the boxes which the tool
has read. Boxes are ``x1, y1, x2, y2`` in pixels, counted from 0, the last one excluded.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tool_exports import Truth, copied, labelformat_converts, run  # its folder is the script's

Row = tuple[str, str, float, float, float, float]  # photo's stem, class, box
Formats = dict[str, Callable[["Found"], Iterator[Row]]]


class Found:
    """A folder that ``detect --format`` wrote, and a folder for what a tool wants beside it."""

    def __init__(self, truth: Truth, folder: Path, work: Path) -> None:
        self.truth, self.work = truth, work
        self.voc, self.yolo, self.coco = folder / "voc", folder / "yolo", folder
        self.classes: list[str] = (self.yolo / "classes.txt").read_text().splitlines()
        self.sizes = {
            Path(photo["name"]).stem: (photo["width"], photo["height"]) for photo in truth["photos"]
        }

    def photos(self, folder: str) -> Path:
        """The photos in a folder of their own."""
        return copied(self.truth, self.work / folder)

    def yolo_set(self) -> Path:
        """``images``, ``labels`` and our ``data.yaml`` with the place of the photos, as trainers want it."""
        self.photos("images/train")
        (self.work / "labels").mkdir()
        shutil.copytree(self.yolo, self.work / "labels" / "train", ignore=_no_names)
        text = (self.yolo / "data.yaml").read_text()
        (self.work / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/train\n{text}")
        return self.work

    def fractions(self, stem: str, x: float, y: float, w: float, h: float) -> tuple[float, ...]:
        """A box from its top left corner and its size in fractions of the photo."""
        width, height = self.sizes[stem]
        return x * width, y * height, (x + w) * width, (y + h) * height


def _no_names(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("classes.txt", "data.yaml")]


# ---------------------------------------------------------------- labelImg
def _corners(points: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    (x1, y1), (x2, y2) = points[0], points[2]
    return x1, y1, x2, y2


def _labelimg_reads_voc(found: Found) -> Iterator[Row]:
    reader_of = importlib.import_module("libs.pascal_voc_io").PascalVocReader
    for path in sorted(found.voc.glob("*.xml")):
        for name, points, *_ in reader_of(str(path)).get_shapes():
            x1, y1, x2, y2 = _corners(points)
            yield path.stem, name, x1 - 1, y1 - 1, x2, y2


def _labelimg_reads_yolo(found: Found) -> Iterator[Row]:
    reader_of = importlib.import_module("libs.yolo_io").YoloReader

    class Image:
        def __init__(self, size: tuple[int, int]) -> None:
            self.size = size

        def width(self) -> int:
            return self.size[0]

        def height(self) -> int:
            return self.size[1]

        def isGrayscale(self) -> bool:  # noqa: N802 - Qt's name
            return False

    for stem, size in found.sizes.items():
        reader = reader_of(str(found.yolo / f"{stem}.txt"), Image(size))
        for name, points, *_ in reader.get_shapes():
            yield stem, name, *_corners(points)


# ---------------------------------------------------------------- Label Studio
def _label_studio_reads_yolo(found: Found) -> Iterator[Row]:
    module = importlib.import_module("label_studio_sdk.converter.imports.yolo")
    found.photos("images")
    shutil.copytree(found.yolo, found.work / "labels", ignore=_no_names)
    shutil.copyfile(found.yolo / "classes.txt", found.work / "classes.txt")
    tasks = found.work / "tasks.json"
    module.convert_yolo_to_ls(str(found.work), str(tasks), image_ext=".jpg,.png")
    for task in json.loads(tasks.read_text()):
        stem = Path(task["data"]["image"]).stem
        for result in task["annotations"][0]["result"]:
            value = result["value"]
            box = (value[key] / 100 for key in ("x", "y", "width", "height"))
            yield stem, value["rectanglelabels"][0], *found.fractions(stem, *box)


def _label_studio_reads_tasks(found: Found) -> Iterator[Row]:
    """The tasks with predictions and the labelling configuration, each as the server checks it."""
    interface = importlib.import_module("label_studio_sdk.label_interface").LabelInterface
    config = interface((found.coco / "label-studio.xml").read_text())
    config.validate()
    for task in json.loads((found.coco / "label-studio.json").read_text()):
        (prediction,) = task["predictions"]
        errors = config.validate_prediction(prediction, return_errors=True)
        if errors or not config.validate_task(task, validate_only_regions=False):
            raise ValueError(f"not valid: {errors}")
        stem = Path(task["data"]["image"]).stem
        for result in prediction["result"]:
            value = result["value"]
            box = (value[key] / 100 for key in ("x", "y", "width", "height"))
            yield stem, value["rectanglelabels"][0], *found.fractions(stem, *box)


# ---------------------------------------------------------------- supervision
def _supervision_rows(dataset: Any) -> Iterator[Row]:
    for path, _image, detections in dataset:
        for box, label in zip(detections.xyxy.tolist(), detections.class_id.tolist(), strict=True):
            yield Path(path).stem, dataset.classes[label], *box


def _supervision_reads_voc(found: Found) -> Iterator[Row]:
    dataset = importlib.import_module("supervision").DetectionDataset
    yield from _supervision_rows(dataset.from_pascal_voc(str(found.photos("images")), str(found.voc)))


def _supervision_reads_yolo(found: Found) -> Iterator[Row]:
    dataset = importlib.import_module("supervision").DetectionDataset
    places = (str(found.photos("images")), str(found.yolo), str(found.yolo / "data.yaml"))
    yield from _supervision_rows(dataset.from_yolo(*places))


# ---------------------------------------------------------------- datumaro
def _datumaro_rows(folder: Path, format_: str) -> Iterator[Row]:
    dataset = importlib.import_module("datumaro.components.dataset").Dataset
    whole = dataset.import_from(str(folder), format_)
    names = next(iter(whole.categories().values()))
    for item in whole:
        for box in item.annotations:
            if type(box).__name__ == "Bbox":
                yield Path(item.id).name, names[box.label].name, *box.points


def _datumaro_reads_voc(found: Found) -> Iterator[Row]:
    """With its list of classes: else it takes VOC's twenty."""
    found.photos("JPEGImages")
    shutil.copytree(found.voc, found.work / "Annotations")
    lists = found.work / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("".join(f"{stem}\n" for stem in found.sizes))
    (found.work / "labelmap.txt").write_text("".join(f"{name}:::\n" for name in found.classes))
    yield from _datumaro_rows(found.work, "voc_detection")


def _datumaro_reads_cvat(found: Found) -> Iterator[Row]:
    """CVAT's own XML, as CVAT exports it, beside the photos."""
    found.photos("images")
    shutil.copyfile(found.coco / "cvat.xml", found.work / "annotations.xml")
    yield from _datumaro_rows(found.work, "cvat")


# ---------------------------------------------------------------- labelformat
def _labelformat_reads(found: Found, given: list[str]) -> Iterator[Row]:
    out = found.work / "out.json"
    labelformat_converts(given, "coco", ["--output-file", str(out)])
    yield from _coco_rows(out)


def _coco_rows(path: Path) -> Iterator[Row]:
    content = json.loads(path.read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    stems = {entry["id"]: Path(entry["file_name"]).stem for entry in content["images"]}
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        yield stems[entry["image_id"]], names[entry["category_id"]], x, y, x + w, y + h


# ---------------------------------------------------------------- globox
def _globox_rows(whole: Any, names: list[str] | None = None) -> Iterator[Row]:
    for annotation in whole:
        for box in annotation.boxes:
            label = box.label if names is None else names[int(box.label)]
            yield Path(annotation.image_id).stem, label, box.xmin, box.ymin, box.xmax, box.ymax


def _globox_reads(found: Found, format_: str) -> Iterator[Row]:
    sets = importlib.import_module("globox").AnnotationSet
    if format_ == "voc":
        rows = list(_globox_rows(sets.from_pascal_voc(found.voc)))
    elif format_ == "coco":
        listing = json.loads((found.coco / "images.json").read_text())
        names = {entry["id"]: entry["name"] for entry in listing["categories"]}
        images = {entry["id"]: entry["file_name"] for entry in listing["images"]}
        path = found.coco / "detections.json"
        rows = list(_globox_rows(sets.from_coco_results(path, id_to_label=names, id_to_imageid=images)))
    else:
        shutil.copytree(found.yolo, found.work / "labels", ignore=_no_names)
        whole = sets.from_yolo_darknet(found.work / "labels", image_folder=found.photos("images"))
        rows = list(_globox_rows(whole, found.classes))
    yield from rows


# ---------------------------------------------------------------- pylabel
def _pylabel_rows(dataset: Any) -> Iterator[Row]:
    for row in dataset.df.to_dict("records"):
        box = (float(row[f"ann_bbox_{edge}"]) for edge in ("xmin", "ymin", "xmax", "ymax"))
        yield Path(row["img_filename"]).stem, row["cat_name"], *box


def _pylabel_reads_voc(found: Found) -> Iterator[Row]:
    yield from _pylabel_rows(importlib.import_module("pylabel.importer").ImportVOC(str(found.voc)))


def _pylabel_reads_yolo(found: Found) -> Iterator[Row]:
    importer = importlib.import_module("pylabel.importer")
    shutil.copytree(found.yolo, found.work / "labels", ignore=_no_names)
    photos = str(found.photos("images"))
    suffix = Path(found.truth["photos"][0]["name"]).suffix.removeprefix(".")
    labels = str(found.work / "labels")
    yield from _pylabel_rows(
        importer.ImportYoloV5(labels, path_to_images=photos, img_ext=suffix, cat_names=found.classes)
    )


# ---------------------------------------------------------------- fiftyone
def _fiftyone_reads(found: Found, type_: str) -> Iterator[Row]:
    fiftyone = importlib.import_module("fiftyone")
    kind = getattr(fiftyone.types, type_)
    if type_ == "VOCDetectionDataset":
        places = {"data_path": str(found.photos("images")), "labels_path": str(found.voc)}
        dataset = fiftyone.Dataset.from_dir(dataset_type=kind, label_field="found", **places)
    else:
        places = {"dataset_dir": str(found.yolo_set()), "yaml_path": "data.yaml", "split": "train"}
        dataset = fiftyone.Dataset.from_dir(dataset_type=kind, label_field="found", **places)
    for sample in dataset:
        stem = Path(sample.filepath).stem
        for box in sample["found"].detections if sample["found"] else ():
            yield stem, box.label, *found.fractions(stem, *box.bounding_box)


READS: dict[str, Formats] = {
    "labelImg": {"voc": _labelimg_reads_voc, "yolo": _labelimg_reads_yolo},
    "label-studio-sdk": {"yolo": _label_studio_reads_yolo, "label-studio": _label_studio_reads_tasks},
    "supervision": {"voc": _supervision_reads_voc, "yolo": _supervision_reads_yolo},
    "datumaro": {
        "voc": _datumaro_reads_voc,
        "yolo": lambda found: _datumaro_rows(found.yolo_set(), "yolo"),
        "cvat": _datumaro_reads_cvat,
    },
    "labelformat": {
        "voc": lambda found: _labelformat_reads(
            found,
            [
                *("--input-format", "pascalvoc", "--input-folder", str(found.voc)),
                *("--category-names", ",".join(found.classes)),
            ],
        ),
        "yolo": lambda found: _labelformat_reads(
            found, ["--input-format", "yolov8", "--input-file", str(found.yolo_set() / "data.yaml")]
        ),
    },
    "globox": {
        format_: lambda found, format_=format_: _globox_reads(found, format_)
        for format_ in ("voc", "yolo", "coco")
    },
    "pylabel": {"voc": _pylabel_reads_voc, "yolo": _pylabel_reads_yolo},
    "fiftyone": {
        "voc": lambda found: _fiftyone_reads(found, "VOCDetectionDataset"),
        "yolo": lambda found: _fiftyone_reads(found, "YOLOv5Dataset"),
    },
}


def main() -> None:
    """``TOOL TRUTH.json OUT FOUND``: the boxes of each format that a tool reads."""
    tool, truth, out, found = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), *map(Path, sys.argv[3:])

    def reads(format_: str) -> Callable[[Path], list[Row]]:
        return lambda folder: list(READS[tool][format_](Found(truth, found, folder)))

    run({format_: reads(format_) for format_ in READS[tool]}, out)


if __name__ == "__main__":
    main()
