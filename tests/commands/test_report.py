"""From a folder of detections to its page: where the truth comes from, and what is said without it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from spp_det.commands.report import run_report, write_report
from spp_det.commands.truth import Truth, score
from spp_det.data.coco import coco_instances
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from tests.command_line import assert_one_line, spp_det


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two generated photos in VOC's layout, and a COCO file of the same."""
    root = tmp_path_factory.mktemp("reporting") / "voc"
    generate_voc(root, {"test": 2}, seed=1, sizes=((130, 110),))
    dataset = read_voc(root, "test")
    instances = coco_instances(dataset, [record.size or (0, 0) for record in dataset.records])
    (root.parent / "instances.json").write_text(json.dumps(instances))
    return root


def write_detections(folder: Path, data: Path) -> None:
    """Every object, found just where it is."""
    dataset = read_voc(data, "test")
    rows = [
        {
            "image_id": number,
            "category_id": int(label) + 1,
            "bbox": [float(v) for v in (*box[:2], *(box[2:] - box[:2]))],
            "score": 0.5,
        }
        for number, record in enumerate(dataset.records, 1)
        for box, label in zip(record.boxes, record.labels, strict=True)
    ]
    folder.mkdir(parents=True)
    (folder / "detections.json").write_text(json.dumps(rows))


def write_config(run: Path, **data) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))


def test_a_run_names_its_data(tmp_path, data):
    run = tmp_path / "my run"
    write_detections(run / "test", data)
    write_config(run, root=str(data), test="test")
    page = run_report(run)
    assert page == run / "report.html"
    text = page.read_text()
    assert "<h1>my run</h1>" in text
    assert "<dd>100.0</dd>" in text


def test_any_folder_with_detections_and_the_truth(tmp_path, data):
    write_detections(tmp_path / "found", data)
    by_voc = run_report(tmp_path / "found", Truth(voc=data), tmp_path / "voc.html")
    coco, images = data.parent / "instances.json", data / "JPEGImages"
    by_coco = run_report(tmp_path / "found", Truth(coco=coco, images=images), tmp_path / "coco.html")
    pictures = [re.findall(r'id="picture-.*', page.read_text()) for page in (by_voc, by_coco)]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 2
    assert all("<dd>100.0</dd>" in page.read_text() for page in (by_voc, by_coco))


def test_images_that_are_not_there_are_counted_in_one_warning(tmp_path, data, caplog):
    write_detections(tmp_path / "found", data)
    shutil.copy(data.parent / "instances.json", tmp_path)  # away from the photos
    run_report(tmp_path / "found", Truth(coco=tmp_path / "instances.json"))
    assert [r.getMessage()[:33] for r in caplog.records] == ["2 of 2 images cannot be read and "]


def test_links_out_of_the_data_are_followed_only_where_that_is_said(tmp_path, data):
    write_detections(tmp_path / "run", data)
    shutil.copytree(data, tmp_path / "voc")
    photo = next((tmp_path / "voc" / "JPEGImages").iterdir())
    photo.rename(tmp_path / "elsewhere.jpg")
    photo.symlink_to(tmp_path / "elsewhere.jpg")
    write_config(tmp_path / "run", root=str(tmp_path / "voc"), test="test")
    for truth in ({}, {"voc": tmp_path / "voc"}):
        with pytest.raises(UserError, match=r"leads out of .*--follow-links"):
            run_report(tmp_path / "run", Truth(**truth))
        assert run_report(tmp_path / "run", Truth(**truth, follow_links=True)).exists()


def test_a_run_allows_itself_no_links_and_its_photos_may_be_taken_from_another_folder(tmp_path, data):
    """Its config.yaml may be a stranger's, whose page would show photos of the folder that it names."""
    run, private = tmp_path / "run", tmp_path / "private"
    write_detections(run / "test", data)
    shutil.copytree(data, private)
    shutil.copytree(data, tmp_path / "voc")
    photo = next((tmp_path / "voc" / "JPEGImages").iterdir())
    photo.unlink()
    photo.symlink_to(private / "JPEGImages" / photo.name)
    write_config(run, root=str(tmp_path / "voc"), test="test", follow_links=True)
    assert_one_line(spp_det("report", run), photo, "leads out of")
    write_config(run, root=str(private), test="test")
    for options, folder in ((), private), (("--data", data), data):
        ended = spp_det("report", run, *options)
        assert ended.code == 0
        assert f"photos in the page are those of {folder / 'JPEGImages'}\n" in ended.err.replace("\n/", " /")
        assert f"photos from {folder / 'JPEGImages'}<" in (run / "report.html").read_text()
    assert_one_line(spp_det("report", run, "--data", data, "--voc", data), "--data", "leave --voc")


@pytest.mark.parametrize(
    "name", ["config.yaml", "held_out.txt", "test", "test/detections.json", "test/images.json"]
)
def test_links_out_of_a_run_are_refused_before_they_are_read(tmp_path, data, name):
    run = tmp_path / "run"
    write_detections(run / "test", data)
    write_config(run, root=str(data), test="test")
    (run / "test" / "images.json").write_text("{}")
    (run / "held_out.txt").touch()
    (run / name).rename(tmp_path / "secret")
    if (tmp_path / "secret").is_file():
        (tmp_path / "secret").write_text("the secret words")
    (run / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="leads out of") as caught:
        run_report(run)
    assert str(run / name) in str(caught.value)
    assert "secret words" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path, data):
    with pytest.raises(UserError, match=r"holds neither test/detections\.json nor"):
        run_report(tmp_path, Truth(voc=data))
    write_detections(tmp_path / "run", data)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        run_report(tmp_path / "run")
    write_config(tmp_path / "run", root=str(data))
    with pytest.raises(UserError, match=r"config\.yaml: data\.test names no split"):
        run_report(tmp_path / "run")


def test_a_page_is_called_after_the_folder_of_its_detections(tmp_path, data, monkeypatch):
    write_detections(tmp_path / "run" / "found", data)
    evaluation = score(tmp_path / "run" / "found", Truth(voc=data))
    monkeypatch.chdir(tmp_path / "run" / "found")
    for named in ("../found", "detections.json", ".", tmp_path / "run" / "found" / "detections.json"):
        write_report(tmp_path / "page.html", Path(named), evaluation)
        assert "<h1>found</h1>" in (tmp_path / "page.html").read_text()


def test_figures_at_further_ious_are_on_the_page(tmp_path, data):
    write_detections(tmp_path / "found", data)
    evaluation = score(tmp_path / "found", Truth(voc=data), ious=[0.75, 0.9])
    write_report(tmp_path / "page.html", tmp_path / "found", evaluation)
    text = (tmp_path / "page.html").read_text()
    columns = re.findall(r">([^<>]*)</button></th>", text)
    assert columns[:7] == ["class", "objects", "AP %", "11-point %", "AP@0.75 %", "AP@0.9 %", "best F1 at"]
    rows = re.findall(r"<tr data-label.*?</tr>", text, re.DOTALL)
    assert {row.count("<td") for row in rows} == {len(columns) - 1}
    assert "mAP at IoU 0.9" in text


# ---------------------------------------------------------------- the command


def test_the_report_of_a_folder_is_a_page_in_it(cli_folder, found):
    ended = spp_det("report", found, "--voc", cli_folder / "voc")
    assert ended.code == 0, ended.err
    assert str(found / "report.html") in ended.err
    assert (found / "report.html").read_text().startswith("<!doctype html>")
    assert_one_line(spp_det("report", cli_folder / "voc"), cli_folder / "voc", "holds neither")
