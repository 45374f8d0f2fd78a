"""``spp-det inspect``: pictures of what conv5 sees in one image, and of why a window scores as it does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say, say_skipped
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.boxes import Boxes
    from spp_det.drawing.sheet import Panel
    from spp_det.images import RGB, Skipped
    from spp_det.model.detector import Detector
    from spp_det.model.explain import InspectedWindow, Peaks
    from spp_det.model.features import ConvMap, SPPFeatures

logger = logging.getLogger(__name__)

FILTERS = 6  # filters that are shown without --filters
STRONGEST = 5  # images shown of each filter


def inspect(
    image: Annotated[Path, typer.Argument(help="The image to look at.")],
    model: Annotated[Path, typer.Option(help="A model.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and inspection.json.")],
    filters: Annotated[
        str | None, typer.Option(help="Of conv5, as 3,17; those that respond most in the image if not given.")
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(help="Images (folder, pattern, list) to seek their strongest activations in."),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="x1,y1,x2,y2 in pixels; the one that scores highest if not given.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Whose score to explain; the highest if not given.")
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    follow_links: options.FollowLinks = False,
) -> None:
    """Draw what conv5 sees: filters at their strongest, a window's cells and bins, which bins say yes."""
    import numpy as np

    from spp_det.data.folder import find_images
    from spp_det.model.detector import Detector

    numbers = box = None
    if filters is not None:
        numbers = options.comma_separated(filters, int, "--filters", "numbers of filters, as 3,17")
    if window is not None:
        sides = options.comma_separated(window, float, "--window", "x1,y1,x2,y2 in pixels")
        box = np.array(sides, np.float32)
    paths = [] if over is None else find_images([over], follow_links=follow_links)
    detector = Detector.load(model, device, precision)
    inspection = inspect_image(
        detector, image, out, filters=numbers, over=paths, window=box, class_name=class_name
    )
    seen = inspection.seen
    name, score = escape(detector.classes[seen.label]), seen.scores[seen.label]
    say(f"window {', '.join(f'{value:g}' for value in seen.window)}: {name} {score:.2f}")
    if seen.contributions is None:
        say("no contributions of bins: this model does not score windows by SVMs on pool5 itself")
    for picture in inspection.pictures:
        say(f"[bold green]drawn[/] {escape(str(picture))}")
    say_skipped(inspection.skipped)


@dataclass(frozen=True, eq=False)
class Inspection:
    """The results of an inspection.

    Attributes:
        pictures: the files that were written.
        seen: the window and its score.
        skipped: files of the image set that could not be read, and why.
    """

    pictures: list[Path]
    seen: InspectedWindow
    skipped: list[Skipped]


@dataclass(frozen=True, eq=False)
class _Activation:
    """The strongest response of a filter in one image file, and its receptive field ``[4]`` there."""

    path: Path
    value: float
    field: Boxes


def inspect_image(
    detector: Detector,
    path: Path,
    folder: Path,
    *,
    filters: Sequence[int] | None = None,
    over: Sequence[Path] = (),
    window: Boxes | None = None,
    class_name: str | None = None,
) -> Inspection:
    """Write ``filters.png``, ``window.png``, ``contributions.png`` and their numbers, ``inspection.json``.

    Args:
        filters: numbers of conv5's filters; None: the filters that respond most in the image.
        over: images among which the strongest activations of these filters are sought.
        window: ``[4]`` in pixels of the image; None: the window that scores highest.
        class_name: the class whose score is explained; None: the class that scores highest.

    There are no contributions where windows are not scored by SVMs on pool5. Raises UserError for an
    unreadable image, an unknown filter or class, a window outside the image, and a model with R-CNN's
    features. Raises it too where no window is given and the model was trained on a file's windows or on
    Edge Boxes.
    """
    import numpy as np

    from spp_det.images import encode_png, read_image
    from spp_det.model import explain
    from spp_det.model.detector import label_of
    from spp_det.proposals.source import WindowSource
    from spp_det.report.conv5_sheets import contributions_sheet, field_panel, filters_sheet, window_sheet
    from spp_det.runtime.whole_files import write_json, write_whole

    features = explain.spp_features(detector)
    label = None if class_name is None else label_of(detector.classes, class_name)
    _check_filters(filters, features.backbone.channels)
    image = read_image(path)
    if window is not None:
        _check_window(window, image, path)
        maps = features.maps(image)
    else:
        source = WindowSource.of_model(detector.searches, "say which to look at, --window x1,y1,x2,y2")
        maps = features.maps(image)
        window, label = explain.best_window(detector, maps, source.windows(image), label)
    seen = explain.inspect_window(detector, maps, window, label)
    peaks = explain.find_peaks(maps, features.backbone.geometry, image.shape[1], image.shape[0])
    if filters is None:
        filters = np.argsort(-peaks.values, kind="stable")[:FILTERS].tolist()
    filters = list(dict.fromkeys(filters))
    strongest, searched, left_out = _strongest(features, over, filters)

    def panel(activation: _Activation) -> Panel:
        caption = f"{_short(activation.value)}: {activation.path.name}"
        return field_panel(read_image(activation.path), activation.field, caption)

    rows = [
        [*_filter_in_image(features, image, maps, peaks, number), *map(panel, strongest[number])]
        for number in filters
    ]
    grid = explain.CellGrid.of(features.backbone.geometry, maps[seen.scale].enlargement)
    pictures = {
        "filters.png": filters_sheet(path.name, searched, rows),
        "window.png": window_sheet(
            path.name, image, explain.energy(maps[seen.scale].cells), grid, features.levels, seen
        ),
    }
    if seen.contributions is not None:
        pictures["contributions.png"] = contributions_sheet(
            path.name, image, grid, features.levels, seen, detector.classes
        )
    else:  # an earlier model's picture would be taken for this model's
        (folder / "contributions.png").unlink(missing_ok=True)
    for name, picture in pictures.items():
        write_whole(folder / name, encode_png(picture))
    numbers = {
        "image": str(path),
        "window": _window_numbers(detector.classes, features, seen),
        "filters": [
            {
                "filter": number,
                "here": _numbers(_Activation(path, float(peaks.values[number]), peaks.fields[number])),
                "strongest": [_numbers(activation) for activation in strongest[number]],
            }
            for number in filters
        ],
    }
    write_json(folder / "inspection.json", numbers)
    return Inspection([folder / name for name in pictures], seen, left_out)


def _check_filters(filters: Sequence[int] | None, channels: int) -> None:
    for number in filters or ():
        if not 0 <= number < channels:
            raise UserError(f"--filters: conv5 has no filter {number}; they are 0 to {channels - 1}")


def _check_window(window: Boxes, image: RGB, path: Path) -> None:
    import numpy as np

    from spp_det.boxes import intersection

    height, width = image.shape[:2]
    box = ",".join(f"{value:g}" for value in window.tolist())
    if window.shape != (4,) or not np.isfinite(window).all() or not (window[:2] < window[2:]).all():
        raise UserError(f"--window {box}: must be x1,y1,x2,y2 in pixels, x1 below x2 and y1 below y2")
    if not intersection(window[None], np.array([[0, 0, width, height]], np.float32)).any():
        raise UserError(f"--window {box}: covers nothing of {path}, which is {width} x {height} pixels")


def _strongest(
    features: SPPFeatures, paths: Sequence[Path], filters: Sequence[int]
) -> tuple[dict[int, list[_Activation]], int, list[Skipped]]:
    """Each filter's strongest activations; the number of images that were read; the unreadable images."""
    from spp_det.images import UnreadableImageError, read_image, skipped
    from spp_det.model.explain import find_peaks
    from spp_det.runtime.progress import track
    from spp_det.runtime.threads import ahead, cores

    def look(path: Path) -> Peaks | UnreadableImageError:
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            return error
        height, width = image.shape[:2]
        return find_peaks(features.maps(image), features.backbone.geometry, width, height)

    on_cpu = features.backbone.mean.device.type == "cpu"
    results = ahead(look, paths, cores()) if on_cpu else map(look, paths)
    strongest: dict[int, list[_Activation]] = {number: [] for number in filters}
    left_out: list[Skipped] = []
    for path, peaks in zip(paths, track(results, "activations", len(paths)), strict=True):
        if isinstance(peaks, UnreadableImageError):
            logger.warning("skipped: %s", peaks)
            left_out.append(skipped(path, peaks))
            continue
        for number, best in strongest.items():
            best.append(_Activation(path, float(peaks.values[number]), peaks.fields[number]))
            best.sort(
                key=lambda activation: -activation.value
            )  # equal values stay in the order of the images
            del best[STRONGEST:]
    return strongest, len(paths) - len(left_out), left_out


def _filter_in_image(
    features: SPPFeatures, image: RGB, maps: Sequence[ConvMap], peaks: Peaks, number: int
) -> tuple[Panel, Panel]:
    from spp_det.model.explain import CellGrid
    from spp_det.report.conv5_sheets import field_panel, filter_panel

    conv_map = maps[int(peaks.scales[number])]
    values = conv_map.cells[number].float().cpu().numpy()
    grid = CellGrid.of(features.backbone.geometry, conv_map.enlargement)
    field = peaks.fields[number]
    return (
        field_panel(image, field, f"filter {number}: {_short(float(peaks.values[number]))} here"),
        filter_panel(image, values, grid, field, "its map"),
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _numbers(activation: _Activation) -> dict[str, Any]:
    return {
        "file": str(activation.path),
        "activation": activation.value,
        "receptive_field": activation.field.tolist(),
    }


def _window_numbers(classes: Sequence[str], features: SPPFeatures, seen: InspectedWindow) -> dict[str, Any]:
    from spp_det.model.explain import bin_cells

    cells = bin_cells(seen.rectangle, features.levels).tolist()
    places = [(n, row, column) for n in features.levels for row in range(n) for column in range(n)]
    shares = [None] * len(places) if seen.contributions is None else seen.contributions.tolist()
    return {
        "box": seen.window.tolist(),
        "scale": features.scales[seen.scale],
        "cells": seen.rectangle.tolist(),
        "scores": dict(zip(classes, seen.scores.tolist(), strict=True)),
        "class": classes[seen.label],
        "bias": None if seen.contributions is None else seen.bias,
        "bins": [
            {"level": n, "row": row, "column": column, "cells": rectangle, "contribution": share}
            for (n, row, column), rectangle, share in zip(places, cells, shares, strict=True)
        ],
    }
