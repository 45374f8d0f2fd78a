"""CVAT's XML: a file by hand, what is written reads back, and damage is one line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from spp_det.data.corrected import Labelled
from spp_det.data.cvat_xml import read_cvat, write_cvat
from spp_det.errors import UserError

EXPORT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>7</id><labels>
    <label><name>cat</name><color>#ff0000</color><type>any</type><attributes></attributes></label>
    <label><name>dog</name><attributes></attributes></label>
  </labels></task><dumped>2026-01-01</dumped></meta>
  <image id="0" name="a.jpg" width="100" height="80">
    <box label="dog" source="manual" occluded="0" xtl="1.50" ytl="2.00" xbr="30.25" ybr="40.00" z_order="0">
      <attribute name="age">old</attribute>
    </box>
    <polygon label="cat" occluded="0" points="1,1;2,2;3,1" z_order="0"></polygon>
    <box label="cat" occluded="0" xtl="1" ytl="2" xbr="3" ybr="4" rotation="30.0" z_order="0"></box>
  </image>
  <image id="1" name="sub/b.jpg" width="100" height="80"></image>
</annotations>
"""


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "sub/b.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def read(text: str, photos):
    path = photos.parent / "annotations.xml"
    path.write_text(text, encoding="utf-8")
    return read_cvat(path, photos)


def test_an_export_by_hand(photos, caplog):
    dataset = read(EXPORT, photos)
    assert dataset.classes == ("cat", "dog")
    assert [record.image_id for record in dataset.records] == ["a.jpg", "sub/b.jpg"]
    np.testing.assert_array_equal(dataset.records[0].boxes, [[1.5, 2, 30.25, 40]])
    assert dataset.records[0].labels.tolist() == [1]
    assert dataset.records[0].size == (100, 80)
    assert len(dataset.records[1]) == 0
    assert "2 shapes that are no upright boxes are left out" in caplog.text


def test_what_is_written_reads_back(photos):
    images = [
        Labelled("a", "a.jpg", (100, 80), [(0.25, 1, 50.5, 60), (3, 4, 5, 6)], ['q"<&>', "dog"]),
        Labelled("b", "sub/b.jpg", (100, 80)),
    ]
    file = io.StringIO()
    write_cvat(images, ["dog", 'q"<&>', "unused"], file)
    dataset = read(file.getvalue(), photos)
    assert dataset.classes == ("dog", 'q"<&>', "unused")
    for image, record in zip(images, dataset.records, strict=True):
        assert (record.image_id, record.size) == (image.name, image.size)
        np.testing.assert_allclose(record.boxes.reshape(-1, 4), np.reshape(image.boxes, (-1, 4)), atol=0.005)
        assert [dataset.classes[label] for label in record.labels] == list(image.classes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<annotations>", "<annotations", "not a readable XML file"),
        ("<annotations>", '<!DOCTYPE x [<!ENTITY a "b">]><annotations>', "DOCTYPE"),
        ('xtl="1.50"', 'xtl="nan"', r"image 1 \(a.jpg\): <box> has xtl 'nan', which is not a number"),
        ('xtl="1.50"', "", "has xtl ''"),
        ('xtl="1.50"', 'xtl="1e999"', "which is not a number"),
        ('width="100"', 'width="inf"', "which is not a number"),
        ('label="dog"', 'label=""', "lacks its label"),
        ('xtl="1.50"', 'xtl="90"', "inverted box"),
        ("<meta>", "<track/><meta>", "CVAT for video"),
    ],
)
def test_damage_is_one_line(photos, old, new, message):
    assert old in EXPORT
    with pytest.raises(UserError, match=message) as caught:
        read(EXPORT.replace(old, new, 1), photos)
    assert "\n" not in str(caught.value)


def test_another_xml_file_is_refused(photos):
    with pytest.raises(UserError, match="not CVAT's XML: it holds <annotation>"):
        read("<annotation/>", photos)
