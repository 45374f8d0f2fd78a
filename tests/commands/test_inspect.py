"""`spp-det inspect` by its call: the numbers beside the pictures, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spp_det.commands.inspect import FILTERS, STRONGEST, inspect_image
from spp_det.config.network import FC, BackboneSettings, Pyramid
from spp_det.config.settings import Proposals
from spp_det.data.synthetic import CLASSES, scene
from spp_det.errors import UserError
from spp_det.images import read_image
from spp_det.model.backbone import Backbone
from spp_det.model.detector import Detector, own_windows
from spp_det.model.features import SPPFeatures
from spp_det.model.head import FCHead
from spp_det.model.model_file import ModelSettings
from spp_det.model.svm import LinearSVMs
from tests.command_line import assert_one_line, spp_det

WINDOW = np.float32([20, 10, 90, 80])


def detector_of(fc=None, **sections) -> Detector:
    """Two classes of random weights."""
    settings = ModelSettings(
        backbone=BackboneSettings(name="zf5_small", weights="random", scales=(96, 160)),
        pyramid=Pyramid(levels=(2, 1), normalize="hellinger"),
        fc=fc or FC(),
        **sections,
    )
    features = SPPFeatures(Backbone("zf5_small"), settings.backbone, settings.pyramid)
    head = None if fc is None else FCHead(fc.layer, features.dimension, fc.width)
    dimension = features.dimension if head is None else head.dimension
    weight = torch.randn(2, dimension, generator=torch.Generator().manual_seed(0))
    svms = LinearSVMs(0.05 * weight, torch.tensor([0.5, -1.0]))
    return Detector(("cat", "<b>dog"), features, head, svms, (), settings)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return detector_of()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder, paths = tmp_path_factory.mktemp("photos"), []
    for index in range(STRONGEST + 2):
        image = scene(np.random.default_rng(index), sizes=((140 - 4 * index, 100),)).image
        paths.append(folder / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def numbers_in(folder: Path):
    return json.loads((folder / "inspection.json").read_text())


@pytest.fixture(scope="module")
def inspected(detector, paths, tmp_path_factory):
    """Everything by default, over all photos and a file that is none."""
    folder = tmp_path_factory.mktemp("inspected")
    text = folder / "text.jpg"
    text.write_text("not a photo")
    inspection = inspect_image(detector, paths[0], folder / "out", over=[paths[0], text, *paths[1:]])
    return inspection, numbers_in(folder / "out"), text


def test_three_pictures_are_written(inspected):
    inspection, _, _ = inspected
    assert [path.name for path in inspection.pictures] == ["filters.png", "window.png", "contributions.png"]
    for path in inspection.pictures:
        assert read_image(path).std() > 1


def test_by_default_it_is_the_window_that_scores_highest(inspected, detector, paths):
    _, numbers, _ = inspected
    image = read_image(paths[0])
    _, scores = detector.score(detector.features.maps(image), own_windows(detector, image))
    assert max(numbers["window"]["scores"].values()) == pytest.approx(scores.max(), abs=1e-4)
    assert numbers["window"]["class"] == detector.classes[scores.max(0).argmax()]


def test_the_bins_add_up_to_the_score(inspected):
    _, numbers, _ = inspected
    window = numbers["window"]
    assert [(b["level"], b["row"], b["column"]) for b in window["bins"]] == [
        *((2, row, column) for row in range(2) for column in range(2)),
        (1, 0, 0),
    ]
    total = window["bias"] + sum(b["contribution"] for b in window["bins"])
    assert total == pytest.approx(window["scores"][window["class"]], abs=1e-4)
    assert window["bins"][-1]["cells"] == window["cells"]
    assert window["scale"] in (96, 160)


def test_the_strongest_images_are_sought_among_all_that_can_be_read(inspected, detector, paths):
    inspection, numbers, text = inspected
    assert [one["file"] for one in inspection.skipped] == [str(text)]
    assert len(numbers["filters"]) == FILTERS
    peaks = {
        path: np.max([m.cells.amax((1, 2)).numpy() for m in detector.features.maps(read_image(path))], axis=0)
        for path in paths
    }
    here = peaks[paths[0]]
    assert [f["filter"] for f in numbers["filters"]] == np.argsort(-here, kind="stable")[:FILTERS].tolist()
    for entry in numbers["filters"]:
        ranked = sorted(paths, key=lambda path: -peaks[path][entry["filter"]])[:STRONGEST]
        assert [Path(found["file"]) for found in entry["strongest"]] == ranked
        for found, path in zip(entry["strongest"], ranked, strict=True):
            assert found["activation"] == pytest.approx(peaks[path][entry["filter"]], rel=1e-4)
            x1, y1, x2, y2 = found["receptive_field"]
            assert 0 <= x1 < x2 <= 140
            assert 0 <= y1 < y2 <= 100


def test_what_is_asked_for_is_what_is_shown(detector, paths, tmp_path):
    seen = inspect_image(
        detector, paths[1], tmp_path, filters=[17, 3, 17], window=WINDOW, class_name="<b>dog"
    ).seen
    numbers = numbers_in(tmp_path)
    assert [entry["filter"] for entry in numbers["filters"]] == [17, 3]
    assert [entry["strongest"] for entry in numbers["filters"]] == [[], []]
    assert numbers["window"]["class"] == "<b>dog"
    assert numbers["window"]["box"] == WINDOW.tolist()
    assert seen.label == 1


def test_a_scorer_above_fc_layers_leaves_out_the_contributions(paths, tmp_path):
    (tmp_path / "contributions.png").write_bytes(b"of another model")
    subject = detector_of(FC(layer="fc6", weights="random", width=8))
    inspection = inspect_image(subject, paths[0], tmp_path, window=WINDOW)
    assert inspection.seen.contributions is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "filters.png",
        "inspection.json",
        "window.png",
    ]
    assert {b["contribution"] for b in numbers_in(tmp_path)["window"]["bins"]} == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": [3, 96]}, r"no filter 96; they are 0 to 95"),
        ({"filters": [-1]}, r"no filter -1"),
        ({"class_name": "horse"}, r"no class 'horse'; it knows cat, <b>dog"),
        ({"window": np.float32([200, 10, 300, 80])}, r"covers nothing of .*0\.png, which is 140 x 100"),
        ({"window": np.float32([30, 10, 30, 80])}, r"x1 below x2"),
        ({"window": np.float32([3, 10, np.nan, 80])}, r"x1 below x2"),
        ({"window": np.float32([3, 10, np.inf, 80])}, r"x1 below x2"),
        ({"window": np.float32([3, 10, 20])}, r"must be x1,y1,x2,y2"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(detector, paths, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        inspect_image(detector, paths[0], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_windows_from_elsewhere_have_to_be_named(detector, paths, tmp_path):
    settings = detector.settings.model_copy(update={"proposals": Proposals(mode="edgeboxes", edge_model="x")})
    subject = Detector(detector.classes, detector.features, None, detector.scorer, (), settings)
    with pytest.raises(UserError, match="--window"):
        inspect_image(subject, paths[0], tmp_path)
    inspect_image(subject, paths[0], tmp_path, window=WINDOW)


# ---------------------------------------------------------------- the command


def test_an_image_is_inspected(cli_folder, model, split):
    photo, out = next((cli_folder / "voc" / "JPEGImages").iterdir()), cli_folder / "inspected"
    ended = spp_det(
        *("inspect", photo, "--model", model, "--out", out, "--over", split, "--device", "cpu"),
        *("--filters", "5,17", "--window", "10,10,90,80", "--class", CLASSES[1]),
    )
    assert ended.code == 0, ended.err
    assert f"window 10, 10, 90, 80: {CLASSES[1]}" in ended.err
    for name in ("filters", "window", "contributions"):
        assert Image.open(out / f"{name}.png").size[0] > 600
        assert f"{name}.png" in ended.err.replace("\n", "")
    numbers = json.loads((out / "inspection.json").read_text())
    assert [len(entry["strongest"]) for entry in numbers["filters"]] == [3, 3]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--filters", "3,x"), ("--filters 3,x", "3,17")),
        (("--window", "1,2,three,4"), ("--window", "x1,y1,x2,y2")),
        (("--window", "500,500,600,600"), ("--window 500,500,600,600", "covers nothing")),
        (("--class", "horse"), ("'horse'", CLASSES[0])),
        (("--over", "nowhere"), ("nowhere",)),
    ],
)
def test_a_wrong_wish_to_inspect_is_one_line(cli_folder, model, options, parts):
    photo = next((cli_folder / "voc" / "JPEGImages").iterdir())
    out = cli_folder / "never"
    assert_one_line(
        spp_det("inspect", photo, "--model", model, "--out", out, "--device", "cpu", *options), *parts
    )
    assert not out.exists()
