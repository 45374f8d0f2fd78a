"""Images in one folder a class, ``ROOT/SPLIT/CLASS/*.jpg``, as torchvision's ``ImageFolder`` has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from spp_det.boxes import Ints
from spp_det.data.crops import cut
from spp_det.data.folder import find_images
from spp_det.data.names import leads_out
from spp_det.data.records import Dataset
from spp_det.errors import UserError
from spp_det.images import encode_jpeg, read_image
from spp_det.runtime.threads import ahead, cores
from spp_det.runtime.whole_files import write_whole


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Image files and the classes they show.

    Attributes:
        classes: names, sorted unless they were given.
        paths: of the files, class by class, in natural order.
        labels: int64 ``[N]``, indices into ``classes``.
    """

    classes: tuple[str, ...]
    paths: Sequence[Path]
    labels: Ints

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    def at(self, indices: Ints) -> LabelledImages:
        """Some of the images, ``[n]``."""
        return LabelledImages(self.classes, [self.paths[i] for i in indices], self.labels[indices])


def read_class_folder(
    root: Path, split: str, classes: Sequence[str] | None = None, *, follow_links: bool = False
) -> LabelledImages:
    """The images below each class's folder, at any depth; nothing is opened.

    ``classes`` are the only names allowed, in their order; None takes the folders' names, sorted. A class
    without images is no error where ``classes`` names it. Hidden folders are left out. A class's folder may
    be a link; for links to files see `find_images`.

    Raises UserError where the split is missing, has fewer than two classes, a folder whose name is not in
    ``classes``, no images at all, or, without ``classes``, an empty folder.
    """
    folder = root / split
    if not folder.is_dir():
        there = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
        hint = f"; there are {', '.join(there)}" if there else ""
        raise UserError(f"{folder}: no such folder; it should hold one folder of images a class{hint}")
    names = sorted(e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    if classes is None and len(names) < 2:
        raise UserError(f"{folder}: holds {len(names)} folders; one a class, and at least two, are needed")
    known = tuple(names if classes is None else classes)
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{folder / unknown[0]}: no class is called that; there are {', '.join(known)}")
    paths: list[Path] = []
    counts = [0] * len(known)
    for label, name in enumerate(known):
        if classes is not None and (name not in names or not any((folder / name).iterdir())):
            continue
        found = find_images([folder / name], follow_links=follow_links)
        paths += found
        counts[label] = len(found)
    if not paths:
        raise UserError(f"{folder}: holds no images")
    return LabelledImages(known, paths, np.repeat(np.arange(len(known)), counts))


def write_class_folder(dataset: Dataset, folder: Path, smallest: int = 64, context: float = 0.1) -> int:
    """Cut the objects of an annotated data set out, at their own size, into one folder a class.

    ``folder/CLASS/IMAGE_NUMBER.jpg`` are squares around the objects, `spp_det.data.crops.cut` with that
    ``context``. Difficult and crowd objects are left out, and objects whose longer side is below
    ``smallest`` pixels. Equal data sets give equal files. Returns the number of files.

    Raises `UnreadableImageError` for an image that cannot be read, UserError for a class whose name is no
    folder's (``../x``, ``a/b``).
    """
    if wrong := [name for name in dataset.classes if PurePath(name).name != name or leads_out(name)]:
        raise UserError(f"class {wrong[0]!r} cannot be the name of a folder in {folder}")

    def write(index: int) -> int:
        record = dataset.records[index]
        sides = (record.boxes[:, 2:] - record.boxes[:, :2]).max(axis=1, initial=0)
        wanted = np.flatnonzero((sides >= smallest) & ~record.difficult & ~record.crowd)
        image = read_image(record.path) if len(wanted) else None
        for number in wanted:
            assert image is not None
            size = round(float(sides[number]) * (1 + context))
            crop = cut(image, record.boxes[[number]], size, context)[0]
            name = f"{Path(record.image_id).stem}_{number}.jpg"
            write_whole(folder / dataset.classes[record.labels[number]] / name, encode_jpeg(crop))
        return len(wanted)

    return sum(ahead(write, range(len(dataset)), cores()))
