"""The report page: what its file holds, and what a browser makes of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.data.records import Dataset, Record
from spp_det.detections.align import align
from spp_det.evaluation.results import evaluate
from spp_det.report.page import write_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\u202e"
CLASSES = ("cat", HOSTILE)
CAT, ODD = 0, 1
CORRECT = (10, 10, 50, 50)
LOOSE = (10, 10, 50, 26)  # IoU 0.4 with it


def scenes(folder: Path, count: int = 3) -> tuple[Dataset, list]:
    """Images of 120 x 80 with a cat each; the second has a hostile name, the third an object that is missed.

    Found are, at .9 a cat, at .8 - i/10 a loose one in image i, and in the first image one where nothing is.
    """
    records, results = [], []
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(generator.integers(0, 255, (80, 120, 3), np.uint8)).save(path)
        boxes, labels = [CORRECT], [CAT]
        if index == 2:
            boxes, labels = [*boxes, (60, 20, 110, 70)], [*labels, ODD]
        flags = np.zeros(len(boxes), np.bool_)
        name = HOSTILE if index == 1 else f"image {index}"
        records.append(
            Record(name, path, np.array(boxes, np.float32), np.array(labels), flags, flags, (120, 80))
        )
        for (x1, y1, x2, y2), score in ((CORRECT, 0.9), (LOOSE, 0.8 - 0.1 * index)):
            results.append(
                {
                    "image_id": index + 1,
                    "category_id": 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    results.append({"image_id": 1, "category_id": 2, "bbox": [80, 40, 30, 30], "score": -0.25})
    return Dataset(CLASSES, records), results


def write(folder: Path, count: int = 3) -> Path:
    dataset, results = scenes(folder, count)
    return write_report(folder, f"run {HOSTILE}", dataset, results)


def write_report(folder: Path, title: str, dataset: Dataset, results: list) -> Path:
    page = folder / "report.html"
    write_page(page, title, evaluate(dataset, align(dataset, results)))
    return page


def write_every_kind(folder: Path) -> Path:
    """One photo of three cats and a dog, with something of every kind found in it at 0.9, 0.8, 0.7 ..."""
    path = folder / "all.png"
    Image.fromarray(np.full((80, 200, 3), 90, np.uint8)).save(path)
    first, loosely, dog, missed = (10, 10, 50, 50), (60, 10, 90, 40), (100, 10, 140, 50), (150, 50, 190, 70)
    labels, flags = np.array([0, 0, 1, 0]), np.zeros(4, np.bool_)
    boxes = np.float32([first, loosely, dog, missed])
    dataset = Dataset(("cat", "dog"), [Record("all kinds", path, boxes, labels, flags, flags, (200, 80))])
    found = [first, (10, 10, 50, 46), (60, 10, 90, 24), (100, 10, 140, 48), (5, 60, 25, 78)]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9 - index / 10}
        for index, (x1, y1, x2, y2) in enumerate(found)
    ]
    return write_report(folder, "every kind", dataset, results)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory) -> Path:
    return write_every_kind(tmp_path_factory.mktemp("kinds"))


# ---- the file


class Elements(HTMLParser):
    """Counts elements as a parser sees them, and collects the attributes that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        self.handlers += [name for name, _ in attributes if name.startswith("on") or name == "style"]


def test_names_add_no_element_and_nothing_is_linked(page):
    elements = Elements(page.read_text())
    assert elements.counts["script"] == 2 + 3  # data, the page's own, and three images
    assert "img" not in elements.counts
    assert elements.links == []
    assert elements.handlers == []
    assert "\u202e" not in page.read_text()


def test_the_policy_lets_nothing_in(page):
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', page.read_text())
    assert "default-src &#39;none&#39;" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_page_without_objects_or_detections(tmp_path):
    dataset = Dataset(("cat",), [Record("0", tmp_path / "none.png", *empty_annotation())])
    path = write_report(tmp_path, "nothing", dataset, [])
    assert '<script type="text/plain" id="picture-0"></script>' in path.read_text()  # a blank, with a warning


def empty_annotation():
    none = np.zeros(0, np.bool_)
    return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), none, none


# ---- in a browser

BOXES = "document.querySelectorAll('#gallery .card:not([hidden]) rect:not(.halo):not(.truth)').length"
TEXT = "document.getElementById('{}').textContent"
SET = """(() => {{
    const control = document.getElementById('{}');
    control.value = '{}';
    control.dispatchEvent(new Event('{}'));
}})()"""
DRAWN = "[...document.querySelectorAll('#gallery canvas')].every(one => one.dataset.drawn)"


def kind_counts(browser) -> dict[str, int]:
    return dict(
        browser.run(
            "[...document.querySelectorAll('.kind')].map(k => [k.dataset.kind, +k.lastChild.textContent])"
        )
    )


def test_the_slider_changes_boxes_and_counts(browser, page):
    browser.open(page, "#score=-1", height=3000)  # the images are near the screen
    assert browser.run(BOXES) == 3 + 3 + 1 + 1  # correct, loose, on nothing, missed
    assert kind_counts(browser) == {
        **{"correct": 3, "localisation": 3, "confused": 0, "duplicate": 0},
        **{"background": 1, "missed": 1},
    }
    browser.run(SET.format("score", 0.65, "input"))
    assert browser.run(BOXES) == 3 + 2 + 1
    assert kind_counts(browser)["localisation"] == 2
    assert browser.run(TEXT.format("summary")) == (
        "5 detections shown: 3 of 4 objects found, precision 60.0 %, recall 75.0 %, F1 66.7 %"
    )
    browser.run(SET.format("score", 0.9, "input"))  # what scores just that is shown
    assert (kind_counts(browser)["correct"], kind_counts(browser)["localisation"]) == (3, 0)


def test_the_filter_changes_boxes_and_counts(browser, page):
    browser.open(page, "#score=-1", height=3000)  # the images are near the screen
    browser.run(SET.format("class", ODD, "change"))
    assert browser.run(BOXES) == 2  # one on nothing, one missed
    assert browser.run(TEXT.format("image-count")) == "2 of 3"
    assert kind_counts(browser)["background"] == 1
    browser.run(SET.format("class", CAT, "change"))
    assert browser.run(BOXES) == 6
    assert browser.run("location.hash").startswith("#score=-1&class=cat&kind=")


def test_the_page_begins_at_the_best_f1(browser, page):
    browser.open(page)
    assert browser.run(TEXT.format("score-value")) == "0.90"
    assert kind_counts(browser)["correct"] == 3


def test_errors_are_sorted_by_kind_and_open_their_image(browser, page):
    browser.open(page, "#score=-1&kind=localisation")
    captions = (
        "[...document.querySelectorAll('#crops .card')].map(one => one.children[1].lastChild.textContent)"
    )
    assert browser.run(captions) == ["0.80", "0.70", "0.60"]
    browser.run("document.querySelectorAll('#crops .card')[2].click()")
    assert browser.run("document.getElementById('viewer').open")
    assert browser.run(TEXT.format("viewer-name")) == "image 2"
    assert browser.run("document.querySelectorAll('#stage rect:not(.halo)').length") == 4
    assert browser.run(
        "[...document.querySelectorAll('#stage .tag:not([hidden])')].map(t => t.textContent)"
    ) == [
        "cat 0.60"  # of what was opened alone
    ]
    assert "image=3" in browser.run("location.hash")


@pytest.mark.parametrize(
    ("kind", "score", "why"),
    [
        ("correct", "0.90", "IoU 1.00"),
        ("duplicate", "0.80", "IoU 0.90"),
        ("localisation", "0.70", "IoU 0.47"),
        ("confused", "0.60", "is dog, IoU 0.95"),
        ("background", "0.50", None),
        ("missed", "", None),
    ],
)
def test_every_kind_is_counted_shown_and_opened(browser, every_kind, kind, score, why):
    browser.open(every_kind, "#score=0")
    assert kind_counts(browser) == {
        **{"correct": 1, "localisation": 1, "confused": 1, "duplicate": 1},
        **{"background": 1, "missed": 3},  # that which nothing is near, the loosely found one, the dog
    }
    browser.run(f"document.querySelector('.kind[data-kind={kind}]').click()")
    last = "[...document.querySelectorAll('#crops .card')].at(-1)"  # of those missed the smallest
    cards = browser.run("document.querySelectorAll('#crops .card').length")
    assert cards == kind_counts(browser)[kind]
    assert browser.run(f"{last}.children[1].lastChild.textContent") == score
    assert browser.run(f"{last}.children[2].textContent") == (why or "all kinds")
    assert browser.run(f"{last}.querySelector('rect.{kind}') !== null")
    browser.run(f"{last}.click()")
    assert browser.run("document.getElementById('viewer').open")
    chosen = "document.querySelector('#list button.chosen')"
    assert browser.run(f"{chosen}.querySelector('.swatch').classList.contains('{kind}')")
    if why:
        assert browser.run(f"{chosen}.querySelector('.why').textContent") == f"{kind}, {why}"


CELLS = "[...document.querySelectorAll('#{} tbody tr')].map(row => [...row.cells].map(c => c.textContent))"


def test_the_counts_by_class_and_the_confusion_follow_the_slider(browser, every_kind):
    browser.open(every_kind, "#score=0")
    counts = browser.run(CELLS.format("counts"))
    assert counts == [["cat", "1", "1", "1", "1", "1", "2"], ["dog", "0", "0", "0", "0", "0", "1"]]
    confusion = browser.run(CELLS.format("confusion"))
    assert confusion == [["cat", "1", "", "2"], ["dog", "1", "", "1"], ["no object", "3", "", ""]]
    browser.run(SET.format("score", 0.65, "input"))
    confusion = browser.run(CELLS.format("confusion"))
    assert confusion == [["cat", "1", "", "2"], ["dog", "", "", "1"], ["no object", "2", "", ""]]


def test_an_address_is_a_view(browser, page):
    browser.open(page, "#score=0.75&class=cat&kind=correct&image=1")
    assert browser.run(TEXT.format("viewer-place")) == "1 of 3"
    assert browser.run("document.querySelectorAll('#list button').length") == 2
    browser.run("location.hash = '#score=0.85'")
    browser.until("!document.getElementById('viewer').open")
    assert kind_counts(browser)["localisation"] == 0


@pytest.mark.parametrize("fragment", ["#", "#score=x&image=99&class=dog&kind=ignored", "#image=-1", "#%"])
def test_an_address_that_makes_no_sense_does_no_harm(browser, page, fragment):
    browser.open(page, fragment)
    assert browser.run(TEXT.format("score-value")) == "0.90"
    assert not browser.run("document.getElementById('viewer').open")
    assert not browser.complaints


def test_the_keyboard_is_enough(browser, page):
    browser.open(page, "#score=-1")
    browser.run("document.getElementById('score').focus()")
    browser.press("ArrowRight")
    assert -1 < browser.run("Number(document.getElementById('score').value)") <= 0
    browser.press("End")
    browser.until("document.getElementById('score-value').textContent === '0.90'")
    browser.run("document.querySelector('#gallery .card').focus()")
    browser.press("Enter")
    assert browser.run(TEXT.format("viewer-name")) == "image 0"
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert browser.run(TEXT.format("viewer-name")) == "image 2"
    browser.press("ArrowRight")
    browser.press("ArrowLeft")
    assert browser.run(TEXT.format("viewer-name")) == "image 2"
    browser.press("Escape")
    assert not browser.run("document.getElementById('viewer').open")
    assert browser.run("document.activeElement === document.querySelector('#gallery .card')")


def test_the_table_sorts(browser, page):
    browser.open(page)
    names = "[...document.querySelectorAll('#classes tbody th')].map(one => one.textContent.slice(0, 3))"
    click = "document.querySelectorAll('#classes thead button')[{}].click()"
    browser.run(click.format(2))  # AP, highest first
    assert browser.run(names) == ["cat", "</s"]
    browser.run(click.format(2))
    assert browser.run(names) == ["</s", "cat"]
    assert browser.run("document.querySelectorAll('#classes thead th')[2].ariaSort") == "ascending"


def test_hostile_names_are_text_and_no_request_leaves_the_page(browser, page):
    browser.open(page, "#score=-1&image=2")
    browser.until(DRAWN)
    shown = HOSTILE.removesuffix("\u202e")
    assert browser.run(TEXT.format("viewer-name")) == shown
    assert browser.run("document.querySelector('h1').textContent") == f"run {shown}"
    assert browser.run("document.getElementById('class').options[2].textContent") == shown
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert [address.partition("#")[0] for address in browser.requests] == [page.as_uri()]


@pytest.mark.parametrize(("width", "phone"), [(360, True), (1280, False)])
def test_nothing_is_wider_than_the_screen(browser, page, width, phone):
    browser.open(page, "#score=-1", width=width, phone=phone)
    assert browser.run("innerWidth") == width  # a phone shows a page that is too wide from further away
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.open(page, "#score=-1&image=2", width=width, phone=phone)
    parts = "[...document.querySelectorAll('.bar button, .list button, .tag:not([hidden])')]"
    boxes = f"{parts}.map(one => one.getBoundingClientRect())"
    assert browser.run(f"{boxes}.every(box => box.left >= 0 && box.right <= innerWidth + 0.5)")


def test_a_phone_opens_what_is_touched(browser, page):
    browser.open(page, "#score=-1", width=360, height=740, phone=True)
    assert browser.run("matchMedia('(pointer: coarse)').matches")
    browser.run("document.querySelector('#gallery .card').scrollIntoView({block: 'center'})")
    browser.tap("#gallery .card")
    browser.until("document.getElementById('viewer').open")
    assert browser.run(TEXT.format("viewer-name")) == "image 0"
    browser.tap("#next")
    browser.until(TEXT.format("viewer-place") + " === '2 of 3'")
    browser.tap("#close")
    browser.until("!document.getElementById('viewer').open")


COLOURS = """[...document.querySelectorAll('body *')].filter(one => one.checkVisibility()
    && !one.closest('svg, noscript') && [...one.childNodes].some(n => n.nodeType === 3 && n.data.trim())
).map(one => {
    const ground = (place) => getComputedStyle(place).backgroundColor;
    let behind = one;
    while (behind !== document.body && ground(behind) === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [one.tagName, getComputedStyle(one).color, ground(behind)];
})"""


def luminance(color: str) -> float:
    """WCAG's relative luminance, of an opaque ``rgb(...)``."""
    channels = [int(number) / 255 for number in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", color).groups()]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_text_is_readable_in_either_colour_scheme(browser, page, scheme, dark):
    browser.open(page, "#score=-1", scheme=scheme)
    body = "getComputedStyle(document.body)"
    ground, ink = (luminance(browser.run(f"{body}.{name}")) for name in ("backgroundColor", "color"))
    assert (ground < 0.05, ink > 0.7) == (dark, dark)
    texts = browser.run(COLOURS)
    assert len(texts) > 60
    for tag, color, behind in texts:
        lighter, darker = sorted((luminance(color), luminance(behind)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (tag, color, behind)


def test_images_have_content_only_near_the_screen(browser, tmp_path):
    browser.open(write(tmp_path, 60), "#score=-1", height=400, width=600)
    filled = "document.querySelectorAll('#gallery canvas').length"
    top = browser.run(filled)
    assert browser.run("document.querySelectorAll('#gallery .card').length") == 60
    browser.run("scrollTo(0, document.body.scrollHeight)")
    browser.until("document.querySelector('#gallery').lastChild.querySelector('canvas') !== null")
    browser.until("document.querySelector('#gallery').firstChild.querySelector('canvas') === null")
    assert top < 60
    assert browser.run(filled) < 60
    browser.until(DRAWN)
    assert kind_counts(browser)["correct"] == 60  # counts are of all of them


def test_the_memory_of_four_hundred_photos_is_that_of_those_on_the_screen(browser, tmp_path):
    """All drawn, at 640 x 480 pixels of four bytes, they would take 470 MB alone."""
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.jpg" for index in range(40)]
    for path in paths:
        blocks = Image.fromarray(generator.integers(0, 255, (48, 64, 3), np.uint8))
        blocks.resize((640, 480), Image.Resampling.BICUBIC).save(path)
    records, results = [], []
    for index in range(400):
        corners = generator.uniform(0, 300, (3, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(20, 180, (3, 2))], 1).astype(np.float32)
        flags = np.zeros(3, np.bool_)
        labels = generator.integers(0, 20, 3)
        path = paths[index % len(paths)]
        records.append(Record(f"{index}", path, boxes, labels, flags, flags, (640, 480)))
        for x1, y1, x2, y2 in np.repeat(boxes, 5, axis=0) + generator.normal(0, 20, (15, 4)):
            bbox = [min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)]
            label, score = int(generator.integers(1, 21)), float(generator.normal())
            results.append({"image_id": index + 1, "category_id": label, "bbox": bbox, "score": score})
    dataset = Dataset(tuple(f"class {index}" for index in range(20)), records)
    page = write_report(tmp_path, "four hundred", dataset, results)

    browser.open(page, "#score=0")
    at_rest = browser.private_megabytes()
    browser.run("""await (async () => {
        for (let y = 0; y < document.body.scrollHeight; y += 1600) {
            scrollTo(0, y);
            await new Promise(done => setTimeout(done, 20));
        }
    })()""")
    scrolled = browser.private_megabytes()
    assert max(at_rest, scrolled) < 300
