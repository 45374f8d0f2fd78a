"""One annotation file: the coordinate convention both ways, and every way in which a file can be bad."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.boxes import as_boxes
from spp_det.data.voc_xml import Annotation, annotation_xml, read_annotation
from spp_det.errors import UserError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"""
CAT = {"name": "cat", "difficult": 0, "xmin": 1, "ymin": 1, "xmax": 10, "ymax": 20}
SIZE = "<size><width>100</width><height>80</height><depth>3</depth></size>"


def an_object(**changes: object) -> str:
    return OBJECT.format(**(CAT | changes))


def read(tmp_path: Path, body: str | bytes, name: str = "a.xml") -> Annotation:
    path = tmp_path / name
    path.write_bytes(body if isinstance(body, bytes) else f"<annotation>{body}</annotation>".encode())
    return read_annotation(path)


def error_of(tmp_path: Path, body: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(tmp_path, body)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.xml'}: ")
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- reading


def test_inclusive_coordinates_from_one_become_half_open_from_zero(tmp_path: Path) -> None:
    found = read(tmp_path, f"<filename>x.jpg</filename>{SIZE}" + an_object() + an_object(xmin=10, ymin=20))
    assert found.boxes.dtype == np.float32
    assert found.boxes.tolist() == [[0, 0, 10, 20], [9, 19, 10, 20]]  # the second is one pixel
    assert found.names == ("cat", "cat")
    assert found.size == (100, 80)
    assert found.file_name == "x.jpg"


def test_no_objects(tmp_path: Path) -> None:
    found = read(tmp_path, SIZE)
    assert found.boxes.shape == (0, 4)
    assert found.names == ()
    assert found.difficult.shape == (0,)
    assert found.difficult.dtype == np.bool_


@pytest.mark.parametrize(("text", "wanted"), [("0", False), ("1", True), (" 1\n", True), ("", False)])
def test_difficult(tmp_path: Path, text: str, wanted: bool) -> None:
    assert read(tmp_path, an_object(difficult=text)).difficult.tolist() == [wanted]


def test_difficult_may_be_missing(tmp_path: Path) -> None:
    body = an_object().replace("<difficult>0</difficult>", "")
    assert read(tmp_path, body).difficult.tolist() == [False]


def test_fractional_coordinates_are_kept(tmp_path: Path) -> None:
    found = read(tmp_path, an_object(xmin="12.5", ymin=" 3.25 ", xmax="2e1", ymax="4.75"))
    assert found.boxes.tolist() == [[11.5, 2.25, 20, 4.75]]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>0</width><height>80</height></size>",
    ],
)
def test_size_may_be_missing_or_zero(tmp_path: Path, body: str) -> None:
    assert read(tmp_path, body + an_object()).size is None


def test_body_parts_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part></object>"
    found = read(tmp_path, an_object().replace("</object>", part))
    assert found.names == ("cat",)
    assert found.boxes.tolist() == [[0, 0, 10, 20]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><annotation>{an_object(name="Käfer")}</annotation>'
    assert read(tmp_path, text.encode(encoding)).names == ("Käfer",)


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "object 1 lacks <name>"),
        ({"name": "  "}, "object 1 lacks <name>"),
        ({"xmin": ""}, r"object 1 (cat) lacks <xmin>"),
        ({"xmin": "left"}, "object 1 (cat) has <xmin> 'left', which is not a number"),
        ({"ymax": "nan"}, "object 1 (cat) has <ymax> 'nan'"),
        ({"ymax": "inf"}, "object 1 (cat) has <ymax> 'inf'"),
        ({"xmax": "1e300"}, "object 1 (cat) has <xmax> '1e300'"),
        ({"xmin": 11}, "object 1 (cat) has an inverted box: x 11 to 10, y 1 to 20"),
        ({"ymin": 21}, "object 1 (cat) has an inverted box"),
    ],
)
def test_bad_object_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    assert message in error_of(tmp_path, an_object(**changes))


def test_the_bad_one_of_several_objects_is_named(tmp_path: Path) -> None:
    body = an_object() + an_object(name="dog", xmin=50) + an_object()
    assert "object 2 (dog)" in error_of(tmp_path, body)


def test_a_missing_box_is_named(tmp_path: Path) -> None:
    assert "object 1 (cat) lacks <bndbox>" in error_of(tmp_path, "<object><name>cat</name></object>")


@pytest.mark.parametrize(
    ("text", "difficult", "unclear"),
    [
        *((text, False, ()) for text in ("", "0", "0.0", "False", " FALSE ", "-0")),
        *((text, True, ()) for text in ("1", "1.0", "True", "TRUE", "+1")),
        *((text, False, (text.lower(),)) for text in ("Unspecified", "maybe", "2", "nan", "yes")),
    ],
)
def test_difficult_is_yes_where_it_says_so_and_else_no(tmp_path: Path, text, difficult, unclear) -> None:
    found = read(tmp_path, an_object(difficult=text))
    assert (found.difficult.tolist(), found.unclear) == ([difficult], unclear)


@pytest.mark.parametrize(
    "size",
    [
        "<size/>",
        "<size><width>3</width></size>",
        "<size><width></width><height></height></size>",
        "<size><width>None</width><height>None</height><depth>Unspecified</depth></size>",
        "<size><width>0</width><height>5</height></size>",
        "<size><width>-7</width><height>5</height></size>",
        "<size><width>1e300</width><height>5</height></size>",
        "<size><width>3.5</width><height>5</height></size>",
    ],
)
def test_a_size_that_is_not_told_is_none(tmp_path: Path, size) -> None:
    found = read(tmp_path, size + an_object())
    assert found.size is None
    assert len(found.boxes) == 1


def test_a_depth_in_words_and_a_size_of_floats_do_not_matter(tmp_path: Path) -> None:
    size = "<size><width>200.0</width><height>100</height><depth>RGB</depth></size>"
    assert read(tmp_path, size).size == (200, 100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not xml",
        b"<annotation><object></annotation>",
        b"<annotation>\0</annotation>",
        b'<?xml version="1.0" encoding="klingon"?><annotation/>',
        b"<annotation>&unknown;</annotation>",
        "<annotation>ä</annotation>".encode("latin-1"),
    ],
)
def test_broken_xml(tmp_path: Path, data: bytes) -> None:
    assert "not a readable XML file" in error_of(tmp_path, data)


def test_other_xml(tmp_path: Path) -> None:
    assert "not a VOC annotation: it holds <html>" in error_of(tmp_path, b"<html/>")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.xml: no such file"):
        read_annotation(tmp_path / "nowhere.xml")


ENTITY_BOMB = """<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotation><filename>&c;</filename></annotation>"""
EXTERNAL_ENTITY = """<!DOCTYPE annotation [<!ENTITY file SYSTEM "file:///etc/hostname">]>
<annotation><filename>&file;</filename></annotation>"""
EXTERNAL_DTD = '<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd"><annotation/>'


@pytest.mark.parametrize(
    "data",
    [
        ENTITY_BOMB.format(encoding="utf-8").encode(),
        ENTITY_BOMB.format(encoding="utf-16").encode("utf-16"),
        EXTERNAL_ENTITY.encode(),
        EXTERNAL_DTD.encode(),
    ],
    ids=["entity bomb", "entity bomb in UTF-16", "external entity", "external DTD"],
)
def test_hostile_xml_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "DOCTYPE" in error_of(tmp_path, data)


def test_deep_nesting_does_not_crash(tmp_path: Path) -> None:
    read(tmp_path, "<a>" * 100_000 + "</a>" * 100_000)


# ---------------------------------------------------------------- writing

edge = st.integers(-1000, 2**24 - 1)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zs", "Zl", "Zp"]), min_size=1
)


Objects = tuple[list[list[int]], list[str], list[bool]]


@st.composite
def annotated_objects(draw: st.DrawFn) -> Objects:
    """Boxes as VOC writes them, ``xmin ymin xmax ymax``, with names and flags."""
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        (xmin, xmax), (ymin, ymax) = (sorted((draw(edge), draw(edge))) for _ in range(2))
        boxes.append([xmin, ymin, xmax, ymax])
    return boxes, [draw(names) for _ in boxes], [draw(st.booleans()) for _ in boxes]


@given(annotated_objects())
def test_integers_survive_a_round_trip(tmp_path_factory: pytest.TempPathFactory, objects: Objects) -> None:
    voc_boxes, class_names, difficult = objects
    path = tmp_path_factory.getbasetemp() / "round_trip.xml"
    body = "".join(
        an_object(name="x", xmin=box[0], ymin=box[1], xmax=box[2], ymax=box[3]) for box in voc_boxes
    )
    path.write_text(f"<annotation>{body}</annotation>")
    first = read_annotation(path)
    path.write_text(
        annotation_xml("a & b.jpg", 30, 20, first.boxes, class_names, difficult), encoding="utf-8"
    )
    second = read_annotation(path)
    assert np.array_equal(first.boxes, second.boxes)
    assert second.names == tuple(class_names)
    assert second.difficult.tolist() == difficult
    assert second.size == (30, 20)
    assert second.file_name == "a & b.jpg"
    written = [
        [int(box.findtext(tag, "")) for tag in ("xmin", "ymin", "xmax", "ymax")]
        for box in ElementTree.parse(path).iter("bndbox")
    ]
    assert written == voc_boxes


def test_fractions_are_rounded_half_up_and_keep_a_pixel() -> None:
    boxes = as_boxes([[0.5, 1.49, 9.5, 10.49], [3.1, 3.1, 3.2, 3.2]])
    root = ElementTree.fromstring(annotation_xml("a.jpg", 20, 20, boxes, ["cat", "cat"]))
    written = [[child.text for child in box] for box in root.iter("bndbox")]
    assert written == [["2", "2", "10", "10"], ["4", "4", "4", "4"]]


def test_scores_are_written_in_full() -> None:
    scores = np.array([0.1, -1.2345678], np.float32)
    text = annotation_xml("a.jpg", 20, 20, as_boxes([[0, 0, 5, 5]] * 2), ["cat", "dog"], scores=scores)
    written = [np.float32(element.text) for element in ElementTree.fromstring(text).iter("score")]
    assert written == list(scores)


def test_layout_is_the_devkits() -> None:
    text = annotation_xml("a.jpg", 20, 10, as_boxes([[0, 0, 5, 5]]), ["cat"], [True])
    root = ElementTree.fromstring(text)
    assert [child.tag for child in root] == ["filename", "size", "segmented", "object"]
    fields = [child.tag for child in root.find("object") or ()]
    assert fields == ["name", "pose", "truncated", "difficult", "bndbox"]
    assert text.startswith("<annotation>\n\t<filename>a.jpg</filename>\n")


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one entry an object"):
        annotation_xml("a.jpg", 20, 10, as_boxes([[0, 0, 5, 5]]), [])


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\ud800", "\x1b[31m"])
def test_names_that_xml_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="XML cannot hold"):
        annotation_xml("a.jpg", 20, 10, as_boxes([[0, 0, 5, 5]]), [name])


def read_whole(tmp_path: Path, text: str) -> Annotation:
    (tmp_path / "a.xml").write_text(text)
    return read_annotation(tmp_path / "a.xml")


def test_boxes_of_detections_survive_a_round_trip_unless_somebody_moves_them(tmp_path: Path) -> None:
    boxes = as_boxes([(3.3, 4.7, 60.123, 70.9), (0, 1, 20, 30), (5.2, 5.2, 5.2, 5.2)])
    text = annotation_xml("a.jpg", 100, 80, boxes, ["cat"] * 3, scores=np.float32([0.1, -2, 3]))
    assert text.count("<exact>") == 2
    read_back = read_whole(tmp_path, text)
    np.testing.assert_array_equal(read_back.boxes, boxes)
    np.testing.assert_array_equal(np.float32(read_back.scores), np.float32([0.1, -2, 3]))
    moved = read_whole(tmp_path, text.replace("<xmin>4<", "<xmin>9<"))
    np.testing.assert_array_equal(moved.boxes[0], [8, 5, 60, 71])


@pytest.mark.parametrize("exact", ["", "1 2 3", "a b c d", "nan nan nan nan", "1e300 0 0 0"])
def test_an_exact_box_that_makes_no_sense_does_not_count(tmp_path: Path, exact: str) -> None:
    boxes = as_boxes([(3.3, 4.7, 60.1, 70.9)])
    text = annotation_xml("a.jpg", 100, 80, boxes, ["cat"], scores=np.float32([1]))
    text = text.replace("3.3 4.7 60.1 70.9", exact)
    np.testing.assert_array_equal(read_whole(tmp_path, text).boxes, [(3, 5, 60, 71)])


def test_a_score_is_a_number_or_absent(tmp_path: Path) -> None:
    text = annotation_xml("a.jpg", 100, 80, as_boxes([(0, 0, 5, 5)]), ["cat"], scores=np.float32([1]))
    assert np.isnan(read_whole(tmp_path, text.replace("score>", "rank>")).scores).all()
    with pytest.raises(UserError, match=r"object 1 \(cat\) has <score> 'high'"):
        read_whole(tmp_path, text.replace("<score>1.0<", "<score>high<"))
