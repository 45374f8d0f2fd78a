"""``spp-det suggest``: which photos to label next."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.detect import windows_for
from spp_det.commands.terminal import say, say_skipped, show
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.boxes import Doubles, Floats, Ints
    from spp_det.images import Skipped, UnreadableImageError
    from spp_det.model.detector import Detector
    from spp_det.proposals.source import WindowSource
    from spp_det.runtime.cache import Cache

logger = logging.getLogger(__name__)


WRITTEN = (".json", ".csv", ".txt")


class Suggestion(NamedTuple):
    """A photo to label.

    Attributes:
        rank: from 1.
        file: the photo.
        doubt: corrections that its detections would need, by the detector's own account; those of a class
            count less, the more objects of it the photos with labels show.
        novelty: how far its look is from every photo that has labels or comes earlier: 0 to 1.
        found: detections that are more likely right than wrong. All three are None in random order.
    """

    rank: int
    file: str
    doubt: float | None = None
    novelty: float | None = None
    found: int | None = None


def suggest(
    model: Annotated[Path, typer.Argument(help="A model.safetensors.")],
    images: Annotated[list[str], typer.Argument(help="Photos, folders, patterns, lists (.txt).")],
    count: Annotated[int, typer.Option(min=1, help="Photos to suggest.")] = 12,
    labelled: Annotated[
        list[str] | None,
        typer.Option(help="Photos that have labels already, as IMAGES; left out, and avoided. Repeatable."),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="In random order instead, to compare with.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of --random.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the list there: .json, .csv, or .txt with names alone.")
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = 0,
    proposals: options.ProposalFile = None,
    edge_model: options.EdgeModel = None,
    follow_links: options.FollowLinks = False,
) -> None:
    """Say which photos to label next: where the detector is least sure, and different from one another."""
    from spp_det.data.folder import find_images
    from spp_det.model.detector import Detector
    from spp_det.report.tables import suggestion_table
    from spp_det.runtime.devices import choose_device
    from spp_det.runtime.whole_files import write_json, write_whole

    if out is not None and out.suffix.lower() not in WRITTEN:
        raise UserError(f"--out {out}: must end in {', '.join(WRITTEN)}")
    known = find_images(labelled, follow_links=follow_links) if labelled else []
    labels = {_content(path) for path in known}
    every = find_images(images, follow_links=follow_links)
    paths = [path for path in every if _content(path) not in labels]
    if not paths:
        raise UserError(f"all {len(every)} photos have labels already: there is none to suggest")
    detector = Detector.load(model, str(choose_device(device)), precision)
    skipped: list[Skipped] = []
    if random:
        found = in_random_order(paths, count, seed)
    else:
        source = windows_for(detector.searches, proposals, edge_model)
        found, skipped = suggestions(detector, paths, known, count, workers, source)
    if out is not None and out.suffix.lower() == ".json":
        write_json(out, [row._asdict() for row in found])
    elif out is not None:
        write_whole(out, as_text(found, out.suffix.lower()))
    show(suggestion_table([row._asdict() for row in found]))
    say_skipped(skipped)
    if out is not None:
        say(f"list: {escape(str(out))}")


def suggestions(
    detector: Detector,
    paths: Sequence[Path],
    labelled: Sequence[Path] = (),
    count: int = 12,
    workers: int = 0,
    source: WindowSource | None = None,
    cache: Cache | None = None,
) -> tuple[list[Suggestion], list[Skipped]]:
    """The photos to label next, best first, and the files that could not be read.

    Args:
        paths: the photos to choose from.
        labelled: photos that have labels already. They are searched too: the detector counts the objects of
            each class in them. Where ``source`` lacks windows for any of them, nothing is counted,
            with a warning.
        workers: images at a time; 0 is one a core.
        source: gives the windows; None: the search of the model's training.
        cache: where windows are looked up and kept; None keeps nothing.

    Raises UserError where no photo can be read.
    """
    import numpy as np

    from spp_det.images import UnreadableImageError, skipped
    from spp_det.model.informative import SHOWN, choose, doubt, expected_objects
    from spp_det.runtime.progress import track
    from spp_det.runtime.threads import ahead, cores

    source = source or windows_for(detector.searches)
    source.check((path, None) for path in paths)
    try:
        source.check((path, None) for path in labelled)
        counted = True
    except UserError as error:
        logger.warning("the objects in the photos with labels are not counted: %s", error)
        counted = False
    threads = (workers or cores()) if detector.device.type == "cpu" else 1
    every = [*((path, True) for path in paths), *((path, False) for path in labelled)]
    looked = ahead(lambda item: _look(detector, source, cache, item[0], item[1] or counted), every, threads)
    readable: list[tuple[Path, Looked]] = []
    unreadable: list[Skipped] = []
    of_labelled: list[Looked] = []
    for (path, wanted), result in zip(every, track(looked, "photos", len(every)), strict=True):
        if isinstance(result, UnreadableImageError):
            logger.warning("skipped: %s", result)
            unreadable.append(skipped(path, result))
        elif wanted:
            readable.append((path, result))
        else:
            of_labelled.append(result)
    if not readable:
        raise UserError(f"no photo could be read, the first was {paths[0]}: {unreadable[0]['reason']}")
    objects = np.zeros(len(detector.classes))
    for each in of_labelled:
        objects += expected_objects(each.p, each.labels, len(objects))
    doubts = np.array([doubt(each.p, each.labels, objects) for _, each in readable])
    looks = np.stack([each.look for _, each in readable])
    known = np.stack([each.look for each in of_labelled]) if of_labelled else None
    order, novelty = choose(doubts, looks, count, known)
    found = []
    for rank, (index, new) in enumerate(zip(order.tolist(), novelty.tolist(), strict=True), 1):
        path, each = readable[index]
        shown = int((each.p >= SHOWN).sum())
        found.append(Suggestion(rank, str(path), round(float(doubts[index]), 4), round(new, 4), shown))
    return found, unreadable


def in_random_order(paths: Sequence[Path], count: int, seed: int) -> list[Suggestion]:
    """So many of the photos in an order that the seed draws; none is read."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [Suggestion(rank, str(paths[index])) for rank, index in enumerate(order.tolist(), 1)]


def _content(path: Path) -> str:
    """A key of a file's bytes: the photo with labels may be a copy in another folder."""
    from spp_det.runtime.cache import file_digest
    from spp_det.runtime.files import MOST_BYTES

    try:
        return file_digest(path, MOST_BYTES)
    except (OSError, ValueError, UserError):
        return str(path.absolute())


class Looked(NamedTuple):
    """What is known of a photo: the probability and the class of each detection ``[n]``, its look ``[C]``."""

    p: Doubles
    labels: Ints
    look: Floats


def _look(
    detector: Detector, source: WindowSource, cache: Cache | None, path: Path, detect: bool
) -> Looked | UnreadableImageError:
    import numpy as np

    from spp_det.images import UnreadableImageError, read_image
    from spp_det.model.informative import describe, probabilities_of

    try:
        image = read_image(path)
        maps = detector.features.maps(image)
        if not detect:
            return Looked(np.zeros(0), np.zeros(0, np.int64), describe(maps[0]))
        if cache is None:
            windows = source.windows(image, path, threads=1)
        else:
            windows = source.windows_of_file(path, None, cache).boxes
    except UnreadableImageError as error:
        return error
    found = detector.detect_on(maps, windows, image.shape[1], image.shape[0])
    return Looked(probabilities_of(found, detector.probability), found["labels"], describe(maps[0]))


def as_text(found: Sequence[Suggestion], suffix: str) -> str:
    """The list as ``.csv``, or as ``.txt``: absolute paths, a line each, as other commands read lists."""
    from spp_det.detections.csv import quoted

    if suffix == ".txt":
        return "".join(f"{Path(row.file).absolute()}\n" for row in found)
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(Suggestion._fields)
    writer.writerows((row.rank, quoted(row.file), *row[2:]) for row in found)
    return file.getvalue()
