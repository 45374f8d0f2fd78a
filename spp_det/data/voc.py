"""A data set in the Pascal VOC layout: which images a split holds, where they lie, reading and writing.

ROOT/ImageSets/Main/SPLIT.txt    one image id a line
ROOT/Annotations/ID.xml          its objects (see `spp_det.data.voc_xml`)
ROOT/JPEGImages/ID.jpg           its pixels
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spp_det.data.bounds import clip_records
from spp_det.data.classes import choose_classes
from spp_det.data.names import AnyPath, Links, can_be_a_file, leads_out
from spp_det.data.records import Dataset, Record
from spp_det.data.sizes import settle_sizes
from spp_det.data.voc_layout import Photos, annotations_below, choose_photo, warn_unlabelled
from spp_det.data.voc_xml import Annotation, annotation_xml, read_annotation
from spp_det.errors import UserError
from spp_det.images import IMAGE_SUFFIXES, image_size
from spp_det.runtime.files import read_text, unlinked
from spp_det.runtime.whole_files import write_whole

logger = logging.getLogger(__name__)

SPLITS = ("trainval", "train", "val", "test")  # that lists of one class are written for


def read_voc(
    root: AnyPath,
    split: str | None,
    classes: Sequence[str] | None = None,
    *,
    follow_links: bool = False,
) -> Dataset:
    """Read one split of a Pascal VOC data set, or with None all photos that have an annotation.

    No image is decoded. ``split`` None is for folders without split lists, as labelImg leaves them: photos
    and XML files side by side or in two folders (see `spp_det.data.voc_layout`). ``classes`` chooses classes
    and fixes their order: objects of other classes are left out, in one warning that counts them. None takes
    the names that the split's own annotations hold, sorted. An image without objects has boxes ``[0, 4]``: a
    source of negatives. An image file that is missing or damaged is left to whoever decodes it.

    Bad annotations. UserError, one line naming the file and the object: broken XML, a missing field, an
    inverted box, a box wholly outside its image. Warning: a box that reaches outside its image is clipped
    (see `spp_det.data.bounds`), a ``<difficult>`` that is neither yes nor no counts as no, and a stated size
    differs from the photo's (see `spp_det.data.sizes`).

    Raises UserError also where the root, the split or the annotation of one of its ids is missing, and
    where a file is a symbolic link that leads out of the root and its folders (see `Links`), unless
    ``follow_links``.

    >>> dataset = read_voc("photos", "trainval")
    >>> [record.path.suffix for record in dataset.records][:2], dataset.records[0].boxes.shape[1]
    (['.jpg', '.jpg'], 4)
    """
    root = Path(root)
    links = links_of(root, follow_links)
    source = f"{root} {split}" if split is not None else str(root)
    if split is None:
        files = annotations_below(root, links)
        if not files:
            raise UserError(f"{root}: holds no XML annotations: Pascal VOC has an .xml file for each photo")
    else:
        files = _annotations_of(root, split, links, follow_links)
    annotations = {image_id: read_annotation(path) for image_id, path in files.items()}
    _warn_unclear(source, files, annotations)
    names = sorted({name for annotation in annotations.values() for name in annotation.names})
    label_of = {name: label for label, name in enumerate(names)}

    if split is None:
        photos = Photos(root, links)
        paths = {image_id: photos.of(files[image_id], annotations[image_id].file_name) for image_id in files}
        warn_unlabelled(source, photos.paths, paths.values())
    else:
        stated = {image_id: annotation.file_name for image_id, annotation in annotations.items()}
        paths = {image_id: links.checked(find_image(root, image_id, stated[image_id])) for image_id in files}

    def name_object(record: Record, index: int) -> str:
        return f"{files[record.image_id]}: object {index + 1} ({names[record.labels[index]]})"

    records = [
        _record(image_id, paths[image_id], annotation, label_of)
        for image_id, annotation in annotations.items()
    ]
    records = clip_records(settle_sizes(records, source), name_object, source)
    dataset = Dataset(tuple(names), records)
    return dataset if classes is None else choose_classes(dataset, classes, source, needed=False)


def _annotations_of(root: Path, split: str, links: Links, follow_links: bool) -> dict[str, Path]:
    """The annotation file of every id of a split."""
    files = {}
    for image_id in read_split(root, split, follow_links=follow_links):
        path = _annotation_path(root, image_id)
        if not path.is_file():
            raise UserError(f"{path}: no such file, but split {split!r} lists {image_id!r}")
        files[image_id] = links.checked(path)
    return files


def _warn_unclear(source: str, files: Mapping[str, Path], annotations: Mapping[str, Annotation]) -> None:
    unclear = [(image_id, word) for image_id, found in annotations.items() for word in found.unclear]
    if unclear:
        image_id, word = unclear[0]
        logger.warning(
            "%s: <difficult> of %d objects is neither yes nor no and counts as no, the first is %r in %s",
            *(source, len(unclear), word[:40], files[image_id]),
        )


def read_split(root: AnyPath, split: str, *, follow_links: bool = False) -> list[str]:
    """The image ids of ``ROOT/ImageSets/Main/SPLIT.txt``, in its order; blank lines are skipped.

    A ``split`` that is the path of an existing ``.txt`` file is that list, wherever it lies: it is its user's
    own word. A line may be an id, or an id with the suffix of its photo, such as ``000005.jpg``.

    A line may end in a flag, as in the devkit's lists of one class (``aeroplane_train.txt``): 1 the
    image shows the class, 0 it shows only difficult objects of it, -1 it does not. Images with -1 are
    left out: such a split holds the images of its class. A line that names an existing file as a whole is
    an id even where it ends like a flag (``photo 1``). An id listed twice is read once, with a warning.

    Where ``SPLIT.txt`` is missing and lists of one class are there, as VoTT writes them, the split holds the
    images of all these lists, whatever their flags.

    Raises UserError where the root or the split is missing (naming the splits that exist), the split
    lists nothing, a flag is none of these, or an id leads out of the data set (``../x``, ``/x``) or can
    be no file's name; and, before it is read, where the split is a link that leads out of the root, unless
    ``follow_links``.
    """
    root = Path(root)
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if split.endswith(".txt") and Path(split).is_file():
        return list(_listed_ids(root, Path(split)))
    links = links_of(root, follow_links)
    if path.is_file():
        return list(_listed_ids(root, links.checked(path)))
    if not folder.is_dir():
        raise UserError(f"{root}: not a Pascal VOC data set (no folder ImageSets/Main)")
    lists = [file for file in sorted(folder.glob("*.txt")) if file.stem.endswith(f"_{split}")]
    if not lists:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
        raise UserError(f"{path}: no such split; those of {root} are: {known}")
    whole: dict[str, None] = {}  # a set that keeps the order
    for each in lists:
        whole |= _listed_ids(root, links.checked(each), any_flag=True)
    return list(whole)


def split_names(root: Path) -> list[str]:
    """The splits of a data set by name, sorted; lists of one class (``cat_train``) count as ``train``."""
    names = [path.stem for path in (root / "ImageSets" / "Main").glob("*.txt")]
    split_of = {name: split for name in names for split in (*SPLITS, *names) if name.endswith(f"_{split}")}
    return sorted({split_of.get(name, name) for name in names})


def _listed_ids(root: Path, path: Path, any_flag: bool = False) -> dict[str, None]:
    """The ids of one list, in its order; those with the flag -1 too where ``any_flag``."""
    ids: dict[str, None] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not can_be_a_file(line):
            raise UserError(f"{path}: line {number} cannot be the name of a file: {line[:100]!r}")
        image_id, flag = _split_line(root, line.strip())
        if flag not in ("", "-1", "0", "1"):
            raise UserError(f"{path}: line {number} is neither an id nor an id with -1, 0 or 1: {line!r}")
        if not image_id or (flag == "-1" and not any_flag):
            continue
        if leads_out(image_id):
            raise UserError(f"{path}: line {number} leads out of the data set: {image_id!r}")
        if image_id in ids:
            logger.warning("%s: line %d lists %r again; it is read once", path, number, image_id)
        ids[image_id] = None
    if not ids:
        raise UserError(f"{path}: the split lists no images")
    return ids


def find_image(root: AnyPath, image_id: str, file_name: str | None = None) -> Path:
    """The image file of an id: ``JPEGImages/ID.jpg``, or with another of `IMAGE_SUFFIXES`, or none.

    Where several are there, the one that the annotation calls ``file_name`` is taken, or else the first in
    the order of the suffixes, with a warning. Where none is there, the file in JPEGImages that is called
    ``file_name`` is taken; a name with folders in it is not followed. Where that is missing too, the path
    ``JPEGImages/ID.jpg`` is returned all the same.
    """
    folder = Path(root) / "JPEGImages"
    if found := _images_of(folder, image_id):
        return choose_photo(found, file_name)
    plain = file_name is not None and not {"/", "\\"} & set(file_name) and can_be_a_file(file_name)
    if file_name and plain and (folder / file_name).is_file():
        return folder / file_name
    return folder / f"{image_id}.jpg"


def _images_of(folder: Path, image_id: str) -> list[Path]:
    """The files of an id with each suffix that a photo can have, in the order of the suffixes."""
    names = (f"{image_id}{case}" for suffix in (*IMAGE_SUFFIXES, "") for case in (suffix, suffix.upper()))
    return [folder / name for name in dict.fromkeys(names) if (folder / name).is_file()]


def write_annotation(path: AnyPath, record: Record, classes: Sequence[str]) -> None:
    """Write a record as a VOC annotation file; see `annotation_xml` for what becomes of its boxes.

    COCO's crowd objects become difficult ones. The size is the record's own, or is read from the image.
    """
    width, height = record.size or image_size(record.path)
    names = [classes[label] for label in record.labels]
    text = annotation_xml(
        record.path.name, width, height, record.boxes, names, record.difficult | record.crowd
    )
    write_whole(Path(path), text)


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
        unlinked(root, path.parent.relative_to(root))
        write_annotation(path, record, dataset.classes)
    folder = unlinked(root, "ImageSets/Main")
    text = "".join(f"{record.image_id}\n" for record in dataset.records)
    write_whole(folder / f"{split}.txt", text)


def _annotation_path(root: Path, image_id: str) -> Path:
    return root / "Annotations" / f"{image_id}.xml"


def links_of(root: Path, follow: bool) -> Links:
    """The folders of a data set, to which its links may lead."""
    return Links(root, *(root / name for name in ("Annotations", "JPEGImages", "ImageSets")), follow=follow)


def _record(image_id: str, path: Path, annotation: Annotation, label_of: Mapping[str, int]) -> Record:
    return Record(
        image_id=image_id,
        path=path,
        boxes=annotation.boxes,
        labels=np.array([label_of[name] for name in annotation.names], dtype=np.int64),
        difficult=annotation.difficult,
        crowd=np.zeros(len(annotation.names), dtype=np.bool_),
        size=annotation.size,
    )


def _split_line(root: Path, line: str) -> tuple[str, str]:
    """A stripped line as id and flag, either of them empty where it is absent."""
    *rest, last = line.rsplit(maxsplit=1) or [""]
    if not rest or _is_id(root, line):
        return _without_suffix(root, line), ""
    return _without_suffix(root, rest[0]), last


def _is_id(root: Path, line: str) -> bool:
    return _annotation_path(root, line).is_file() or bool(_images_of(root / "JPEGImages", line))


def _without_suffix(root: Path, image_id: str) -> str:
    """The id of a line that gives it the suffix of its photo: tools list file names."""
    stem, dot, suffix = image_id.rpartition(".")
    if f".{suffix.lower()}" not in IMAGE_SUFFIXES or not dot or _annotation_path(root, image_id).is_file():
        return image_id
    return stem if not leads_out(stem) and _annotation_path(root, stem).is_file() else image_id
