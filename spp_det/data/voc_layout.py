"""Where the annotations and photos of a VOC data set lie if it has no split lists, as labelImg leaves it.

Photos and XML files lie side by side, or in two folders such as ``Annotations`` and ``images``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from spp_det.data.names import Links
from spp_det.data.photos import images_below
from spp_det.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)


def annotations_below(root: Path, links: Links) -> dict[str, Path]:
    """The XML files below a folder by image id, in the order of the ids.

    An id is the path of the XML file below ``root`` without its suffix and without a first folder
    ``Annotations``. Hidden files and folders are left out. Raises UserError for a link that leads out.
    """
    found: dict[str, Path] = {}
    for parent, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if name.lower().endswith(".xml") and not name.startswith(".") and path.is_file():
                inner = path.relative_to(root).with_suffix("")
                parts = inner.parts[inner.parts[0].lower() == "annotations" and len(inner.parts) > 1 :]
                found["/".join(parts)] = links.checked(path)
    return dict(sorted(found.items()))


class Photos:
    """The photos below a folder, to be found by what an annotation says of its photo."""

    def __init__(self, root: Path, links: Links) -> None:
        """List the photos below ``root`` once; no file is opened."""
        self.paths = images_below(root, links)
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.paths:
            self._by_name.setdefault(path.name, []).append(path)
            self._by_stem.setdefault(path.stem, []).append(path)

    def of(self, annotation: Path, file_name: str | None) -> Path:
        """The photo of an XML file that states ``file_name``; where there is none, where it would lie.

        A photo of the annotation's own stem comes before one that has the stated name alone: tools copy and
        rename photos and leave the name as it was. Of several, one in the annotation's folder counts first,
        then one in a folder beside it.
        """
        stated = PurePosixPath((file_name or "").replace("\\", "/")).name
        same = self._nearest(annotation, self._by_stem.get(annotation.stem, []))
        if same:
            return choose_photo(same, stated)
        named = self._nearest(annotation, self._by_name.get(stated, []))
        return named[0] if named else annotation.with_suffix(".jpg")

    @staticmethod
    def _nearest(annotation: Path, photos: Sequence[Path]) -> list[Path]:
        """Of photos in several folders those in the folder that is nearest to the annotation's."""

        def distance(photo: Path) -> tuple[int, int, str]:
            common = os.path.commonpath([photo.parent, annotation.parent])
            steps = len(photo.parent.parts) + len(annotation.parent.parts) - 2 * len(Path(common).parts)
            return (photo.parent != annotation.parent, steps, str(photo.parent))

        folder = min(photos, key=distance).parent if photos else None
        return [photo for photo in photos if photo.parent == folder]


def choose_photo(photos: Sequence[Path], stated: str | None) -> Path:
    """Of photos with one stem in one folder, such as ``a.jpg`` and ``a.png``: the one that is meant.

    That is the one that the annotation states. Where it states none of them, the first in the order of
    `IMAGE_SUFFIXES` is taken, with a warning.
    """
    if len(photos) == 1:
        return photos[0]
    for photo in photos:
        if photo.name == stated:
            return photo
    ranked = sorted(photos, key=lambda photo: (_rank(photo.suffix.lower()), photo.name))
    others = ", ".join(photo.name for photo in ranked[1:])
    logger.warning(
        "%s is taken, and not %s: <filename> in its annotation names none of them", ranked[0], others
    )
    return ranked[0]


def _rank(suffix: str) -> int:
    return IMAGE_SUFFIXES.index(suffix) if suffix in IMAGE_SUFFIXES else len(IMAGE_SUFFIXES)


def warn_unlabelled(source: str, photos: Iterable[Path], used: Iterable[Path]) -> None:
    """Say in one warning how many photos have no annotation, and name the first."""
    taken = set(used)
    rest = [photo for photo in photos if photo not in taken]
    if rest:
        logger.warning(
            "%s: %d photos have no annotation and are left out, the first is %s", source, len(rest), rest[0]
        )
