"""A data set in the Pascal VOC layout: which images a split holds, where they lie, reading and writing.

ROOT/ImageSets/Main/SPLIT.txt    one image id a line
ROOT/Annotations/ID.xml          its objects (see `spp_det.data.voc_xml`)
ROOT/JPEGImages/ID.jpg           its pixels
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spp_det.data.bounds import clip_records
from spp_det.data.names import AnyPath, Links, can_be_a_file, leads_out
from spp_det.data.records import Dataset, Record
from spp_det.data.voc_xml import Annotation, annotation_xml, read_annotation
from spp_det.errors import UserError
from spp_det.images import IMAGE_SUFFIXES, image_size

logger = logging.getLogger(__name__)


def read_voc(
    root: AnyPath, split: str, classes: Sequence[str] | None = None, *, follow_links: bool = False
) -> Dataset:
    """Read one split of a Pascal VOC data set; no image is decoded.

    ``classes`` fixes the class names and their order; None takes the names that the split's own
    annotations hold, sorted. An image without objects has boxes ``[0, 4]``: a source of negatives. A
    missing or damaged image file is reported by the code that decodes it.

    Bad annotations. UserError, one line naming the file and the object: broken XML, a missing field, an
    inverted box, a box wholly outside its image, a class that is not in ``classes``. Warning: a box that
    reaches outside its image is clipped, and a stated size that proves wrong is ignored (see
    `spp_det.data.bounds`; call `fit_record` there once the pixels are decoded).

    Raises UserError also where the root, the split or the annotation of one of its ids is missing, and
    where a file is a symbolic link that leads out of the root and its folders (see `Links`), unless
    ``follow_links``.

    >>> dataset = read_voc("photos", "trainval")
    >>> [record.path.suffix for record in dataset.records][:2], dataset.records[0].boxes.shape[1]
    (['.jpg', '.jpg'], 4)
    """
    root = Path(root)
    links = links_of(root, follow_links)
    if classes is not None and len(set(classes)) != len(classes):
        raise UserError(f"classes must differ from each other, got {', '.join(classes)}")
    ids = read_split(root, split, follow_links=follow_links)
    annotations: list[Annotation] = []
    for image_id in ids:
        path = _annotation_path(root, image_id)
        if not path.is_file():
            raise UserError(f"{path}: no such file, but split {split!r} lists {image_id!r}")
        annotations.append(read_annotation(links.checked(path)))
    if classes is None:
        classes = sorted({name for annotation in annotations for name in annotation.names})
    label_of = {name: label for label, name in enumerate(classes)}

    def name_object(record: Record, index: int) -> str:
        return (
            f"{_annotation_path(root, record.image_id)}: object {index + 1} ({classes[record.labels[index]]})"
        )

    records = [
        _record(root, image_id, annotation, label_of, links)
        for image_id, annotation in zip(ids, annotations, strict=True)
    ]
    return Dataset(tuple(classes), clip_records(records, name_object, f"{root} {split}"))


def read_split(root: AnyPath, split: str, *, follow_links: bool = False) -> list[str]:
    """The image ids of ``ROOT/ImageSets/Main/SPLIT.txt``, in its order; blank lines are skipped.

    A line may end in a flag, as in the devkit's lists of one class (``aeroplane_train.txt``): 1 the
    image shows the class, 0 it shows only difficult objects of it, -1 it does not. Images with -1 are
    left out: such a split holds the images of its class. A line that names an existing file as a whole is
    an id even where it ends like a flag (``photo 1``). An id listed twice is read once, with a warning.

    Raises UserError where the root or the split is missing (naming the splits that exist), the split
    lists nothing, a flag is none of these, or an id leads out of the data set (``../x``, ``/x``) or can
    be no file's name; and, before it is read, where the split is a link that leads out of the root, unless
    ``follow_links``.
    """
    root = Path(root)
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        if not folder.is_dir():
            raise UserError(f"{root}: not a Pascal VOC data set (no folder ImageSets/Main)")
        known = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
        raise UserError(f"{path}: no such split; those of {root} are: {known}")
    links_of(root, follow_links).checked(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file: {error}") from error
    ids: dict[str, None] = {}  # a set that keeps the order
    for number, line in enumerate(lines, start=1):
        if not can_be_a_file(line):
            raise UserError(f"{path}: line {number} cannot be the name of a file: {line[:100]!r}")
        image_id, flag = _split_line(root, line.strip())
        if flag not in ("", "-1", "0", "1"):
            raise UserError(f"{path}: line {number} is neither an id nor an id with -1, 0 or 1: {line!r}")
        if not image_id or flag == "-1":
            continue
        if leads_out(image_id):
            raise UserError(f"{path}: line {number} leads out of the data set: {image_id!r}")
        if image_id in ids:
            logger.warning("%s: line %d lists %r again; it is read once", path, number, image_id)
        ids[image_id] = None
    if not ids:
        raise UserError(f"{path}: the split lists no images")
    return list(ids)


def find_image(root: AnyPath, image_id: str, file_name: str | None = None) -> Path:
    """The image file of an id: ``JPEGImages/ID.jpg``, or with another of `IMAGE_SUFFIXES`, or none.

    Failing these, the file in JPEGImages that the annotation calls ``file_name``; a name with folders
    in it is not followed. Where none exists, the path ``JPEGImages/ID.jpg`` is returned all the same.
    """
    folder = Path(root) / "JPEGImages"
    for suffix in (*IMAGE_SUFFIXES, ""):
        for candidate in (folder / f"{image_id}{suffix}", folder / f"{image_id}{suffix.upper()}"):
            if candidate.is_file():
                return candidate
    plain = file_name is not None and not {"/", "\\"} & set(file_name) and can_be_a_file(file_name)
    if file_name and plain and (folder / file_name).is_file():
        return folder / file_name
    return folder / f"{image_id}.jpg"


def write_annotation(path: AnyPath, record: Record, classes: Sequence[str]) -> None:
    """Write a record as a VOC annotation file; see `annotation_xml` for what becomes of its boxes.

    COCO's crowd objects become difficult ones. The size is the record's own, or is read from the image.
    """
    width, height = record.size or image_size(record.path)
    names = [classes[label] for label in record.labels]
    text = annotation_xml(
        record.path.name, width, height, record.boxes, names, record.difficult | record.crowd
    )
    Path(path).write_text(text, encoding="utf-8")


def write_voc(dataset: Dataset, root: AnyPath, split: str) -> None:
    """Write the annotations and the split of a data set under ``root``; image files are not touched.

    `read_voc` gives the same data set back once the images lie in ``ROOT/JPEGImages``. The split is
    written last, so that a run cut short leaves no split that looks whole. Raises UserError for an
    image id that would lead out of ``root``.
    """
    root = Path(root)
    for record in dataset.records:
        if leads_out(record.image_id):
            raise UserError(f"image id {record.image_id!r} cannot be written: it leads out of {root}")
        path = _annotation_path(root, record.image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_annotation(path, record, dataset.classes)
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{record.image_id}\n" for record in dataset.records)
    (folder / f"{split}.txt").write_text(text, encoding="utf-8")


def _annotation_path(root: Path, image_id: str) -> Path:
    return root / "Annotations" / f"{image_id}.xml"


def links_of(root: Path, follow: bool) -> Links:
    """The folders of a data set, to which its links may lead."""
    return Links(root, *(root / name for name in ("Annotations", "JPEGImages", "ImageSets")), follow=follow)


def _record(
    root: Path, image_id: str, annotation: Annotation, label_of: dict[str, int], links: Links
) -> Record:
    for number, name in enumerate(annotation.names, start=1):
        if name not in label_of:
            path = _annotation_path(root, image_id)
            raise UserError(
                f"{path}: object {number} ({name}) is of none of the classes {', '.join(label_of)}"
            )
    return Record(
        image_id=image_id,
        path=links.checked(find_image(root, image_id, annotation.file_name)),
        boxes=annotation.boxes,
        labels=np.array([label_of[name] for name in annotation.names], dtype=np.int64),
        difficult=annotation.difficult,
        crowd=np.zeros(len(annotation.names), dtype=np.bool_),
        size=annotation.size,
    )


def _split_line(root: Path, line: str) -> tuple[str, str]:
    """A stripped line as id and flag, either of them empty where it is absent."""
    *rest, last = line.rsplit(maxsplit=1) or [""]
    if not rest or _annotation_path(root, line).is_file() or find_image(root, line).is_file():
        return line, ""
    return rest[0], last
