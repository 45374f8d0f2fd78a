"""Which image files a user means by a file, a folder, a pattern or a list."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from spp_det.data.names import AnyPath, Links
from spp_det.data.photos import images_below, is_image, natural_order
from spp_det.data.voc import find_image, links_of, read_split
from spp_det.errors import UserError
from spp_det.images import IMAGE_SUFFIXES
from spp_det.runtime.files import read_text

Refused = dict[Path, UserError]  # photos that are links which lead out, and why they are not read


def find_images(
    inputs: Sequence[AnyPath], *, follow_links: bool = False, refused: Refused | None = None
) -> list[Path]:
    """The image files that the inputs stand for, in the order given, each once. Nothing is opened but lists.

    - A file is taken whatever its suffix.
    - A folder stands for the files below it whose suffix is one of `IMAGE_SUFFIXES`, in natural order
      (``2.jpg`` before ``10.jpg``). Hidden files and folders are left out (file systems and archives
      leave ``._photo.jpg`` beside ``photo.jpg``), links to folders are not followed. A link to a file
      outside the folder is refused unless ``follow_links``: the user named this folder and no other place.
      Where ``refused`` is given, such a photo is put there, and the others are found.
    - A pattern that the shell did not expand (``*``, ``?``, ``[]``, and ``**`` for any depth) stands for
      the image files and folders it matches, in natural order.
    - A ``.txt`` file is a list: one image a line, relative to the list's own folder, blank lines skipped.
      In ``ROOT/ImageSets/Main`` of a Pascal VOC data set the lines are ids of ``ROOT/JPEGImages`` (see
      `read_split`), and links there are refused as `read_voc` refuses them. Listed files need not exist:
      the code that decodes them reports it. Any other list is trusted as arguments are: its lines may lead
      anywhere.
    - ``-`` is such a list on standard input, relative to the current folder.

    Raises UserError, naming the input, for one that stands for no image.
    """
    found: dict[Path, Path] = {}  # absolute -> as given; a set that keeps the order
    for entry in inputs:
        if not os.fspath(entry):  # Path("") is the current folder, which nobody asked for
            raise UserError("an empty name stands for no images; the current folder is '.'")
        images = list(_expand(entry, follow_links, refused))
        if not images and entry == "-":
            raise UserError("-: standard input lists no images")
        if not images and refused:
            raise next(iter(refused.values()))
        if not images and Path(entry).exists():
            raise UserError(f"{entry}: holds no images ({' '.join(IMAGE_SUFFIXES)})")
        if not images:
            raise UserError(f"{entry}: no such file or folder, and no pattern that matches an image")
        for image in images:
            # Two links to one file are two images, two spellings of one path are not: no resolve() here.
            found.setdefault(Path(os.path.normpath(image.absolute())), image)
    return list(found.values())


def _below(folder: Path, follow_links: bool, refused: Refused | None) -> Iterator[Path]:
    links = Links(folder, follow=follow_links)
    if refused is None:
        yield from images_below(folder, links)
        return
    for image in images_below(folder, Links(folder, follow=True)):
        try:
            yield links.checked(image)
        except UserError as error:
            refused[image] = error


def _expand(entry: AnyPath, follow_links: bool, refused: Refused | None) -> Iterator[Path]:
    path = Path(entry)
    if entry == "-":
        lines = sys.stdin.buffer.read().split(b"\n")
        yield from (Path(os.fsdecode(line.rstrip(b"\r"))) for line in lines if line.strip())
    elif path.is_dir():
        yield from _below(path, follow_links, refused)
    elif path.suffix.lower() == ".txt" and path.is_file():
        yield from _listed(path, follow_links)
    elif path.is_file():
        yield path
    else:
        matches = glob.glob(os.fspath(entry), recursive=True)  # noqa: PTH207  Path.glob: no absolute patterns
        for match in sorted(map(Path, matches), key=natural_order):
            if match.is_dir():
                yield from _below(match, follow_links, refused)
            elif is_image(match.name):
                yield match


def _listed(path: Path, follow_links: bool) -> Iterator[Path]:
    folder = path.absolute().parent
    if (folder.parent.name, folder.name) == ("ImageSets", "Main"):
        root = Path(os.path.normpath(path.parent / ".." / ".."))
        ids = read_split(root, path.stem, follow_links=follow_links)
        links = links_of(root, follow_links)
        yield from (links.checked(find_image(root, image_id)) for image_id in ids)
        return
    yield from (path.parent / line.strip() for line in read_text(path).splitlines() if line.strip())
