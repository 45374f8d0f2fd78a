"""Pictures of conv5: filters at their strongest, cells and bins of a window, each bin's share of a score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from spp_det.boxes import Boxes, Doubles, Floats, Ints, as_boxes
from spp_det.drawing.draw import draw_box
from spp_det.drawing.heat import AGAINST, FOR, faded, heat, tint
from spp_det.drawing.palette import BLACK, WHITE, Color, text_color
from spp_det.drawing.sheet import GRAY, Panel, compose, text_width, write
from spp_det.images import RGB
from spp_det.model.explain import CellGrid, InspectedWindow, bin_cells
from spp_det.runtime.opencv import cv2

WINDOW: Color = (255, 122, 0)
CELLS: Color = (86, 220, 255)
NO_CELL: Color = (216, 216, 216)  # the border of an image, which belongs to no cell
# The largest width and height in pixels of a panel where two, four or seven panels make a row.
_HALF, _HALF_FLAT, _QUARTER, _SEVENTH = (560, 560), (560, 420), (273, 400), (200, 200)
_A_ROW = 4
_AROUND = 0.1  # margin that is shown around a window, a fraction of its longer side
_NUMBER = 12  # size of the numbers in bins

Pixels = tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """A part of an image as a panel shows it.

    Attributes:
        part: ``(x1, y1, x2, y2)`` in whole pixels of the image, half-open.
        size: width and height of the panel in pixels.
    """

    part: Pixels
    size: tuple[int, int]

    @classmethod
    def of(cls, image: RGB, room: tuple[int, int], around: Boxes | None = None) -> View:
        """The image, or its part around a box ``[4]``, as large as fits into ``room``, a width and height."""
        height, width = image.shape[:2]
        x1, y1, x2, y2 = 0, 0, width, height
        if around is not None:
            margin = _AROUND * float((around[2:] - around[:2]).max())
            x1, y1 = (max(0, int(np.floor(value - margin))) for value in around[:2])
            x2, y2 = (
                min(most, int(np.ceil(value + margin)))
                for value, most in zip(around[2:], (width, height), strict=True)
            )
        factor = min(room[0] / (x2 - x1), room[1] / (y2 - y1))
        return cls((x1, y1, x2, y2), (max(1, round((x2 - x1) * factor)), max(1, round((y2 - y1) * factor))))

    def photo(self, image: RGB) -> RGB:
        """The view's part of the image, at the panel's size."""
        x1, y1, x2, y2 = self.part
        method = cv2.INTER_AREA if self.size[0] < x2 - x1 else cv2.INTER_CUBIC
        part = cv2.resize(image[y1:y2, x1:x2], self.size, interpolation=method)
        return np.asarray(part, np.uint8)

    def map(self, values: Floats, grid: CellGrid) -> RGB:
        """A map ``[h, w]`` in colours, every cell as its tile. The whole map sets the range of colours."""
        index, inside = [], []
        for axis, (length, cells) in enumerate(zip(self.size, reversed(values.shape), strict=True)):
            first, last = self.part[axis], self.part[axis + 2]
            pixels = first + (np.arange(length) + 0.5) * ((last - first) / length)  # of the image
            at = np.floor((pixels - grid.centre[axis]) / grid.stride[axis] + 0.5).astype(np.int64)
            index.append(np.clip(at, 0, cells - 1))
            inside.append((at >= 0) & (at < cells))
        colors: RGB = heat(values)[index[1][:, None], index[0][None]]
        colors[~(inside[1][:, None] & inside[0][None])] = NO_CELL
        return colors

    def boxes(self, boxes: Boxes) -> list[Pixels]:
        """Boxes ``[N, 4]`` of the image in whole pixels of the panel, each at least one large."""
        x1, y1, x2, y2 = self.part
        width, height = self.size
        factor = np.array([width / (x2 - x1), height / (y2 - y1)] * 2)
        placed = np.rint((boxes - np.array([x1, y1, x1, y1])) * factor)
        left, top = np.clip(placed[:, 0], 0, width - 1), np.clip(placed[:, 1], 0, height - 1)
        right, bottom = np.clip(placed[:, 2], left + 1, width), np.clip(placed[:, 3], top + 1, height)
        rows = np.stack([left, top, right, bottom], axis=1).astype(int).tolist()
        return [(a, b, c, d) for a, b, c, d in rows]


def field_panel(image: RGB, field: Boxes, caption: str) -> Panel:
    """An image, small, with one receptive field ``[4]`` on it."""
    view = View.of(image, _SEVENTH)
    return Panel(_boxed(view.photo(image), view.boxes(field[None]), CELLS), caption)


def filter_panel(image: RGB, values: Floats, grid: CellGrid, field: Boxes, caption: str) -> Panel:
    """One filter's map ``[h, w]`` of an image, with the receptive field ``[4]`` of its strongest cell."""
    view = View.of(image, _SEVENTH)
    return Panel(_boxed(view.map(values, grid), view.boxes(field[None]), WHITE), caption)


def filters_sheet(name: str, over: int, rows: Sequence[Sequence[Panel]]) -> RGB:
    """The paper's figure 2: a row of panels a filter, made by `field_panel` and `filter_panel`.

    ``over`` is the number of images in which the strongest activations were sought. Where it is 0, several
    filters share a row.
    """
    here = "where it responds most in this image, its map (dark is 0, yellow the most)"
    notes = [
        f"Each row is a filter: {here}, and those of {over} images where it responds most."
        if over
        else f"Of each filter: {here}.",
        "Boxes are receptive fields, cut at the border: all that the strongest cell sees.",
    ]
    if not over:
        rows = [[panel for row in rows[i : i + 3] for panel in row] for i in range(0, len(rows), 3)]
    return compose(f"{name}: conv5 filters", notes, rows)


def window_sheet(
    name: str, image: RGB, values: Floats, grid: CellGrid, levels: Sequence[int], seen: InspectedWindow
) -> RGB:
    """A window, its rectangle of cells and its pyramid's bins, over the image and over the image's map.

    Args:
        values: float32 ``[h, w]``, the energy of the map that the window is pooled from.
        grid: the places of that map's cells in the image.
        levels: the pyramid's levels.
    """
    window = as_boxes(seen.window[None])
    cells = grid.tiles(seen.rectangle[None])
    whole = View.of(image, _HALF)
    pair = []
    for picture, caption in (
        (whole.photo(image), "image"),
        (whole.map(values, grid), f"energy of its conv5 map, {values.shape[1]} x {values.shape[0]} cells"),
    ):
        picture = _boxed(picture, whole.boxes(cells), CELLS)
        pair.append(Panel(_boxed(picture, whole.boxes(window), WINDOW), caption))
    close = View.of(image, _QUARTER, _extent(grid, seen))
    # The photo is darkened, so that white lines are visible on white objects.
    backgrounds = (close.photo(image) * 0.75).astype(np.uint8), close.map(values, grid)
    over_image, over_map = (
        [Panel(_with_bins(picture, close, grid, seen.rectangle, n), _level(n)) for n in levels]
        for picture in backgrounds
    )
    columns, lines = (seen.rectangle[2:] - seen.rectangle[:2]).tolist()
    notes = [
        f"The window (orange) {_numbers(seen.window)} pools {columns} x {lines} cells (blue), those whose "
        "receptive fields are centred in it. Each cell is drawn as the pixels it stands for.",
        "Below: the bins of every level. Shaded cells belong to several bins.",
    ]
    rows = [pair]
    for start in range(0, len(levels), _A_ROW):
        rows += [over_image[start : start + _A_ROW], over_map[start : start + _A_ROW]]
    return compose(f"{name}: a window on conv5", notes, rows)


def _extent(grid: CellGrid, seen: InspectedWindow) -> Boxes:
    """The box ``[4]`` around the window and its cells, which reach beyond a small window."""
    tiles = grid.tiles(seen.rectangle[None])[0]
    return np.concatenate([np.minimum(seen.window, tiles)[:2], np.maximum(seen.window, tiles)[2:]])


def _with_bins(picture: RGB, view: View, grid: CellGrid, rectangle: Ints, n: int) -> RGB:
    """The bins of one level. Cells that belong to several bins are shaded."""
    bins = bin_cells(rectangle, [n])
    x1, y1, x2, y2 = rectangle.tolist()
    shared = [(left, y1, right, y2) for left, right in _overlaps(bins[:n, [0, 2]])]
    shared += [(x1, top, x2, bottom) for top, bottom in _overlaps(bins[::n, [1, 3]])]
    shade = Image.new("L", view.size, 0)
    for left, top, right, bottom in view.boxes(grid.tiles(np.array(shared).reshape(-1, 4))):
        ImageDraw.Draw(shade).rectangle((left, top, right - 1, bottom - 1), fill=90)
    result = Image.fromarray(picture)
    result.paste(Image.new("RGB", view.size, WHITE), mask=shade)
    canvas = ImageDraw.Draw(result, "RGBA")
    for left, top, right, bottom in view.boxes(grid.tiles(bins)):
        canvas.rectangle((left, top, right - 1, bottom - 1), outline=(*WHITE, 200))
    draw_box(canvas, view.boxes(grid.tiles(rectangle[None]))[0], CELLS, 2)
    return np.array(result)


def _overlaps(bounds: Ints) -> Iterator[tuple[int, int]]:
    """The intersection of each two neighbours among half-open intervals ``[n, 2]``, in order."""
    for (_, end), (start, _) in pairwise(bounds.tolist()):
        if start < end:
            yield start, end


def contributions_sheet(
    name: str,
    image: RGB,
    grid: CellGrid,
    levels: Sequence[int],
    seen: InspectedWindow,
    classes: Sequence[str],
) -> RGB:
    """The share of each bin of a window in the score of a class, a panel a level.

    In a level of n x n bins, the full colour stands for an n-th of its share at the level of one bin. Shares
    shrink about as fast from level to level: with one range of colours for all, small bins would be pale.

    Raises ValueError where the window has no contributions.
    """
    if seen.contributions is None:
        raise ValueError("the scorer of this window does not read bins")
    score, class_name = float(seen.scores[seen.label]), classes[seen.label]
    window = as_boxes(seen.window[None])
    parts = np.split(seen.contributions, np.cumsum([n * n for n in levels])[:-1])
    whole = View.of(image, _HALF_FLAT)
    photo = _boxed(whole.photo(image), whole.boxes(window), WINDOW)
    sums = [(_level(n), float(part.sum())) for n, part in zip(levels, parts, strict=True)]
    table = _bars([*sums, ("bias", seen.bias)], score, _HALF[0])
    most = max(n * float(np.abs(part).max()) for n, part in zip(levels, parts, strict=True))
    panels = []
    close = View.of(image, _QUARTER, _extent(grid, seen))
    background = faded(close.photo(image))
    for n, part, (_, total) in zip(levels, parts, sums, strict=True):
        picture = _with_shares(background, close, grid, seen.rectangle, n, part, most / n)
        panels.append(Panel(picture, f"{_level(n)}: {total:+.2f}, full colour at {most / n:.2f}"))
    notes = [
        f"Red bins speak for {class_name}, blue bins against it. A bin's share of the score is the sum over "
        "channels of weight times feature; all shares and the bias add up to the score.",
        "Cells that two bins pool are drawn half and half.",
    ]
    rows = [[Panel(photo, "window"), Panel(table, f"score of {class_name}: {score:+.2f}")]]
    rows += [panels[start : start + _A_ROW] for start in range(0, len(panels), _A_ROW)]
    return compose(f"{name}: which bins speak for {class_name}", notes, rows)


def _with_shares(
    background: RGB, view: View, grid: CellGrid, rectangle: Ints, n: int, shares: Doubles, limit: float
) -> RGB:
    """The contributions ``[n * n]`` of a level, each drawn over its own n-th of the rectangle's sides."""
    x1, y1, x2, y2 = rectangle.tolist()
    across, down = np.linspace(x1, x2, n + 1), np.linspace(y1, y2, n + 1)
    places = [(across[j], down[i], across[j + 1], down[i + 1]) for i in range(n) for j in range(n)]
    boxes = view.boxes(grid.tiles(np.array(places)))
    picture = background.copy()
    for (left, top, right, bottom), share in zip(boxes, shares.tolist(), strict=True):
        under = picture[top:bottom, left:right]
        under[:] = tint(under, share, limit)
    result = Image.fromarray(picture)
    canvas = ImageDraw.Draw(result)
    for (left, top, right, bottom), share in zip(boxes, shares.tolist(), strict=True):
        canvas.rectangle((left, top, right - 1, bottom - 1), outline=GRAY)
        text = f"{share:+.2f}".replace("0.", ".", 1)
        width = text_width(text, _NUMBER)
        if width + 4 <= right - left and bottom - top >= _NUMBER + 4:
            red, green, blue = picture[top:bottom, left:right].mean((0, 1)).round().astype(int).tolist()
            corner = ((left + right - width) / 2, (top + bottom - _NUMBER) / 2)
            write(canvas, corner, text, _NUMBER, text_color((red, green, blue)))
    return np.array(result)


def _bars(sums: Sequence[tuple[str, float]], score: float, width: int) -> RGB:
    """Names, bars and numbers of the terms that add up to the score."""
    size, line = 15, 34
    rows = [*sums, ("score", score)]
    name_width = max(text_width(name, size) for name, _ in rows) + 16
    number_width = max(text_width(f"{value:+.2f}", size) for _, value in rows) + 16
    room = (width - name_width - number_width) / 2
    most = max(max(abs(value) for _, value in rows), 1e-12)
    picture = Image.new("RGB", (width, line * len(rows) + 8), WHITE)
    canvas = ImageDraw.Draw(picture)
    zero = name_width + room
    for index, (name, value) in enumerate(rows):
        y = 4 + index * line
        if index == len(sums):
            canvas.line((0, y - 1, width, y - 1), fill=BLACK)
        write(canvas, (0, y + (line - size) / 2), name, size)
        ends = sorted((zero, zero + room * value / most))
        canvas.rectangle((ends[0], y + 6, ends[1], y + line - 8), fill=FOR if value > 0 else AGAINST)
        text = f"{value:+.2f}"
        write(canvas, (width - text_width(text, size), y + (line - size) / 2), text, size)
    canvas.line((zero, 4, zero, line * len(rows) + 4), fill=BLACK)
    return np.array(picture)


def _boxed(picture: RGB, boxes: Sequence[Pixels], color: Color) -> RGB:
    result = Image.fromarray(picture)
    canvas = ImageDraw.Draw(result, "RGBA")
    for box in boxes:
        draw_box(canvas, box, color, 2)
    return np.array(result)


def _level(n: int) -> str:
    return f"{n} x {n} bins" if n > 1 else "1 bin"


def _numbers(box: Boxes) -> str:
    return "(" + ", ".join(f"{round(value, 1):g}" for value in box.tolist()) + ")"
