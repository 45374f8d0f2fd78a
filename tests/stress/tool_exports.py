"""What annotation tools write, each run in its own environment by `tests.stress.exporters`.

Only the tool and Python's own library are imported here. Each layout of a tool is a function that writes the
photos of a list into a folder. Boxes are ``x1, y1, x2, y2`` in pixels, counted from 0, the last one excluded.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Truth = dict[str, Any]  # classes; photos: name, path, width, height, objects [[label, x1, y1, x2, y2], ...]
Layouts = dict[str, Callable[[Truth, Path], object]]


def copied(truth: Truth, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for photo in truth["photos"]:
        shutil.copyfile(photo["path"], folder / photo["name"])
    return folder


def instances(truth: Truth, path: Path) -> Path:
    """The truth as COCO's JSON, for tools that are fed with files."""
    images, annotations = [], []
    for number, photo in enumerate(truth["photos"], 1):
        size = {key: photo[key] for key in ("width", "height")}
        images.append({"id": number, "file_name": photo["name"], **size})
        for label, x1, y1, x2, y2 in photo["objects"]:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
            annotations.append({**ids, **box, "segmentation": []})
    categories = [{"id": number, "name": name} for number, name in enumerate(truth["classes"], 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


# ---------------------------------------------------------------- labelImg


def _labelimg_voc(truth: Truth, photos: Path, labels: Path) -> None:
    writer_of = importlib.import_module("libs.pascal_voc_io").PascalVocWriter
    copied(truth, photos)
    labels.mkdir(exist_ok=True)
    for photo in truth["photos"]:
        size = (photo["height"], photo["width"], 3)
        writer = writer_of(photos.name, photo["name"], size, local_img_path=str(photos / photo["name"]))
        for label, x1, y1, x2, y2 in photo["objects"]:
            writer.add_bnd_box(max(x1, 1), max(y1, 1), x2, y2, truth["classes"][label], 0)
        writer.save(str((labels / photo["name"]).with_suffix(".xml")))


def _labelimg_yolo(truth: Truth, photos: Path, labels: Path) -> None:
    writer_of = importlib.import_module("libs.yolo_io").YOLOWriter
    copied(truth, photos)
    labels.mkdir(exist_ok=True)
    classes = list(truth["classes"])
    for photo in truth["photos"]:
        size = (photo["height"], photo["width"], 3)
        writer = writer_of(photos.name, photo["name"], size, local_img_path=str(photos / photo["name"]))
        for label, x1, y1, x2, y2 in photo["objects"]:
            writer.add_bnd_box(x1, y1, x2, y2, truth["classes"][label], 0)
        writer.save(target_file=str((labels / photo["name"]).with_suffix(".txt")), class_list=classes)


def _labelimg_create_ml(truth: Truth, out: Path) -> None:
    writer_of = importlib.import_module("libs.create_ml_io").CreateMLWriter
    copied(truth, out)
    for photo in truth["photos"]:
        shapes = [
            {"label": truth["classes"][label], "points": [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]}
            for label, x1, y1, x2, y2 in photo["objects"]
        ]
        size = (photo["height"], photo["width"], 3)
        writer_of(out.name, photo["name"], size, shapes, str(out / "labels.json")).write()


LABELIMG: Layouts = {
    "VOC beside the photos": lambda truth, out: _labelimg_voc(truth, out, out),
    "VOC in a folder of its own": lambda truth, out: _labelimg_voc(truth, out / "photos", out / "xml"),
    "YOLO beside the photos": lambda truth, out: _labelimg_yolo(truth, out, out),
    "YOLO in a folder of its own": lambda truth, out: _labelimg_yolo(truth, out / "photos", out / "txt"),
    "CreateML": _labelimg_create_ml,
}


# ---------------------------------------------------------------- Label Studio


def _label_studio(truth: Truth, out: Path, format_: str) -> None:
    """What its export button writes; the photos are laid where its archives have them."""
    labels = "".join(f'<Label value="{name}"/>' for name in truth["classes"])
    config = (
        f'<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">{labels}'
    )
    config += "</RectangleLabels></View>"
    tasks = []
    for number, photo in enumerate(truth["photos"], 1):
        width, height = photo["width"], photo["height"]
        results = []
        for index, (label, x1, y1, x2, y2) in enumerate(photo["objects"]):
            box = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0}
            box |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
            names = {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "id": f"{index}"}
            size = {"original_width": width, "original_height": height, "image_rotation": 0}
            results.append({**names, **size, "value": {**box, "rectanglelabels": [truth["classes"][label]]}})
        annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": results}
        data = {"image": f"/data/upload/1/0a1b2c3d-{photo['name']}"}
        tasks.append({"id": number, "data": data, "annotations": [annotation], "predictions": []})
    given = out.with_suffix(".json")
    given.write_text(json.dumps(tasks))
    module = importlib.import_module("label_studio_sdk.converter")
    converter = module.Converter(config, str(out.parent), download_resources=False)
    converter.convert(str(given), str(out), format_, is_dir=False)
    (out / "images").mkdir(exist_ok=True)
    for photo in truth["photos"]:
        shutil.copyfile(photo["path"], out / "images" / f"0a1b2c3d-{photo['name']}")


LABEL_STUDIO: Layouts = {
    name: lambda truth, out, format_=name: _label_studio(truth, out, format_)
    for name in ("VOC", "COCO", "YOLO")
}


# ---------------------------------------------------------------- supervision


def _supervision(truth: Truth) -> Any:
    numpy, supervision = importlib.import_module("numpy"), importlib.import_module("supervision")
    annotations = {}
    for photo in truth["photos"]:
        rows = numpy.array([row[1:] for row in photo["objects"]], float).reshape(-1, 4)
        labels = numpy.array([row[0] for row in photo["objects"]], int)
        annotations[photo["path"]] = supervision.Detections(xyxy=rows, class_id=labels)
    return supervision.DetectionDataset(truth["classes"], list(annotations), annotations)


SUPERVISION: Layouts = {
    "VOC": lambda truth, out: _supervision(truth).as_pascal_voc(
        str(out / "images"), str(out / "annotations")
    ),
    "COCO": lambda truth, out: _supervision(truth).as_coco(
        str(out / "images"), str(out / "annotations.json")
    ),
    "YOLO": lambda truth, out: _supervision(truth).as_yolo(
        str(out / "images"), str(out / "labels"), str(out / "data.yaml")
    ),
}


# ---------------------------------------------------------------- datumaro


def _datumaro(truth: Truth, out: Path, format_: str, subsets: Sequence[str]) -> None:
    """``subsets`` take turns; without a name it is datumaro's ``default``, which CVAT exports."""
    dataset = importlib.import_module("datumaro.components.dataset").Dataset
    item_of = importlib.import_module("datumaro.components.dataset_base").DatasetItem
    box_of = importlib.import_module("datumaro.components.annotation").Bbox
    image_of = importlib.import_module("datumaro.components.media").Image
    items = [
        item_of(
            Path(photo["name"]).stem,
            subset=subsets[number % len(subsets)],
            media=image_of.from_file(photo["path"]),
            annotations=[
                box_of(x1, y1, x2 - x1, y2 - y1, label=label) for label, x1, y1, x2, y2 in photo["objects"]
            ],
        )
        for number, photo in enumerate(truth["photos"])
    ]
    whole = dataset.from_iterable(items, categories=list(truth["classes"]))
    whole.export(str(out), format_, save_media=True)


DATUMARO: Layouts = {
    f"{format_}, {' and '.join(subsets)}": lambda truth, out, args=(format_, subsets): _datumaro(
        truth, out, *args
    )
    for format_, subsets in (
        *(("voc", ("default",)), ("voc", ("train",)), ("voc_detection", ("train", "val"))),
        *(("coco", ("default",)), ("coco_instances", ("train", "val"))),
        *(("yolo", ("default",)), ("yolo", ("train", "valid")), ("yolo_ultralytics", ("train", "val"))),
    )
}


# ---------------------------------------------------------------- labelformat


def _labelformat(truth: Truth, out: Path, format_: str) -> None:
    given = instances(truth, out.with_suffix(".json"))
    place = {
        **{key: ["--output-file", str(out / "labels.json")] for key in ("coco", "rtdetr")},
        "pascalvoc": ["--output-folder", str(out / "annotations")],
    }.get(format_, ["--output-file", str(out / "data.yaml"), "--output-split", "train"])
    copied(truth, out / "images")
    labelformat_converts(["--input-format", "coco", "--input-file", str(given)], format_, place)


def labelformat_converts(given: list[str], format_: str, place: list[str]) -> None:
    main = importlib.import_module("labelformat.cli.cli").main
    sys.argv = ["labelformat", "convert", "--task", "object-detection", *given, "--output-format", format_]
    sys.argv += place
    main()


LABELFORMAT: Layouts = {
    name: lambda truth, out, format_=name: _labelformat(truth, out, format_)
    for name in (
        *("coco", "pascalvoc", "rtdetr"),
        *(f"yolov{version}" for version in (5, 6, 7, 8, 9, 10, 11, 12, 26)),
    )
}


# ---------------------------------------------------------------- globox


def _globox(truth: Truth) -> Any:
    globox = importlib.import_module("globox")
    return globox.AnnotationSet(
        globox.Annotation(
            photo["name"],
            (photo["width"], photo["height"]),
            [
                globox.BoundingBox(label=truth["classes"][label], xmin=x1, ymin=y1, xmax=x2, ymax=y2)
                for label, x1, y1, x2, y2 in photo["objects"]
            ],
        )
        for photo in truth["photos"]
    )


def _globox_writes(truth: Truth, out: Path, name: str) -> None:
    copied(truth, out / "images")
    whole, labels = _globox(truth), {name: number for number, name in enumerate(truth["classes"])}
    if name == "COCO":
        whole.save_coco(out / "coco.json", auto_ids=True)
    elif name == "VOC":
        whole.save_pascal_voc(out / "annotations")
    else:
        whole.save_yolo_darknet(out / "labels", label_to_id=labels)
        if "classes.txt" in name:
            (out / "classes.txt").write_text("".join(f"{name}\n" for name in truth["classes"]))


GLOBOX: Layouts = {
    name: lambda truth, out, name=name: _globox_writes(truth, out, name)
    for name in ("COCO", "VOC", "YOLO", "YOLO and a classes.txt by hand")
}


# ---------------------------------------------------------------- pylabel


def _pylabel(truth: Truth, out: Path, format_: str) -> None:
    photos = copied(truth, out / "images")
    importer = importlib.import_module("pylabel.importer")
    dataset = importer.ImportCoco(str(instances(truth, out.with_suffix(".json"))), str(photos))
    if format_ == "VOC":
        dataset.export.ExportToVoc(str(out / "annotations"))
    elif format_ == "COCO":
        dataset.export.ExportToCoco(str(out / "coco.json"))
    elif format_ == "YOLO with splits":
        shutil.rmtree(photos)
        dataset.df["img_folder"] = str(copied(truth, out.parent / "given"))
        dataset.splitter.GroupShuffleSplit(train_pct=0.6, val_pct=0.2, test_pct=0.2, random_state=1)
        dataset.export.ExportToYoloV5(str(out / "labels"), copy_images=True, use_splits=True, cat_id_index=0)
    else:
        dataset.export.ExportToYoloV5(str(out / "labels"), cat_id_index=0)


PYLABEL: Layouts = {
    name: lambda truth, out, format_=name: _pylabel(truth, out, format_)
    for name in ("VOC", "COCO", "YOLO", "YOLO with splits")
}


# ---------------------------------------------------------------- fiftyone


def _fiftyone(truth: Truth, out: Path, type_: str) -> None:
    fiftyone = importlib.import_module("fiftyone")
    dataset = fiftyone.Dataset()
    for photo in truth["photos"]:
        width, height = photo["width"], photo["height"]
        boxes = [
            fiftyone.Detection(
                label=truth["classes"][label],
                bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
            )
            for label, x1, y1, x2, y2 in photo["objects"]
        ]
        sample = fiftyone.Sample(photo["path"])
        sample["ground_truth"] = fiftyone.Detections(detections=boxes)
        dataset.add_sample(sample)
    types = getattr(fiftyone.types, type_)
    dataset.export(str(out), dataset_type=types, label_field="ground_truth", classes=truth["classes"])


FIFTYONE: Layouts = {
    name: lambda truth, out, type_=name: _fiftyone(truth, out, type_)
    for name in ("VOCDetectionDataset", "COCODetectionDataset", "YOLOv4Dataset", "YOLOv5Dataset")
}


EXPORTS: dict[str, Layouts] = {
    "labelImg": LABELIMG,
    "label-studio-sdk": LABEL_STUDIO,
    "supervision": SUPERVISION,
    "datumaro": DATUMARO,
    "labelformat": LABELFORMAT,
    "globox": GLOBOX,
    "pylabel": PYLABEL,
    "fiftyone": FIFTYONE,
}


def run(calls: Mapping[str, Callable[[Path], object]], out: Path) -> None:
    """Call each with a folder of its own; what they returned or raised goes to ``OUT/done.json``."""
    done: dict[str, Any] = {}
    for number, (name, call) in enumerate(calls.items()):
        folder = out / f"{number}"
        folder.mkdir(parents=True)
        try:
            done[name] = {"folder": str(folder), "rows": call(folder)}
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            done[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"}
    (out / "done.json").write_text(json.dumps(done))


def main() -> None:
    """``TOOL TRUTH.json OUT``: each layout of a tool in a folder of its own."""
    tool, truth, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])

    def writes(layout: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            EXPORTS[tool][layout](truth, folder)

        return write

    run({layout: writes(layout) for layout in EXPORTS[tool]}, out)


if __name__ == "__main__":
    main()
