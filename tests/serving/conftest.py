"""Photos, a recipe that learns in seconds, and requests as Label Studio 1.23 sends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc


@pytest.fixture(scope="session")
def serving_folder(tmp_path_factory) -> Path:
    """Five small photos, and a cache for all tests."""
    folder = tmp_path_factory.mktemp("serving")
    generate_voc(folder / "voc", {"trainval": 5}, seed=1, sizes=((130, 110),))
    return folder


@pytest.fixture(scope="session")
def photos(serving_folder) -> Path:
    return serving_folder / "voc" / "JPEGImages"


@pytest.fixture(scope="session")
def truth(serving_folder) -> Dataset:
    return read_voc(serving_folder / "voc", "trainval")


@pytest.fixture(scope="session")
def small_config(serving_folder) -> Config:
    tree = {
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [96]},
        "pyramid": {"normalize": "hellinger"},
        "runtime": {"device": "cpu", "cache": str(serving_folder / "cache")},
    }
    return parse_config(tree, "test")


class Studio:
    """The requests of a project with the photos of a data set."""

    def __init__(self, truth: Dataset) -> None:
        self.truth = truth
        labels = "".join(f'<Label value="{name}"/>' for name in truth.classes)
        self.config = (
            '<View><Image name="photo" value="$image"/>'
            f'<RectangleLabels name="objects" toName="photo">{labels}</RectangleLabels></View>'
        )
        self.project = {"id": 7, "title": "photos", "label_config": self.config}

    def task(self, index: int) -> dict[str, Any]:
        name = self.truth.records[index].path.name
        data = {"image": f"/data/upload/7/0123abcd-{name}"}
        return {"id": 100 + index, "data": data, "project": 7, "is_labeled": False, "overlap": 1}

    def result(self, index: int) -> list[dict[str, Any]]:
        record = self.truth.records[index]
        width, height = record.size or (0, 0)
        regions = []
        for number, ((x1, y1, x2, y2), label) in enumerate(
            zip(record.boxes.tolist(), record.labels, strict=True)
        ):
            value = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0}
            value |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
            value |= {"rectanglelabels": [self.truth.classes[label]]}
            regions.append({
                "id": f"r{number}", "type": "rectanglelabels", "from_name": "objects", "to_name": "photo",
                "origin": "manual", "original_width": width, "original_height": height, "image_rotation": 0,
                "value": value,
            })  # fmt: skip
        return regions

    def event(self, action: str, index: int, **changes: Any) -> dict[str, Any]:
        """An annotation that was created or updated."""
        annotation = {"id": 500 + index, "task": 100 + index, "project": 7, "result": self.result(index)}
        annotation |= {"was_cancelled": False, "ground_truth": False, "lead_time": 2.5}
        annotation |= {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", **changes}
        return {"action": action, "annotation": annotation, "task": self.task(index), "project": self.project}

    def predict(self, *indices: int) -> dict[str, Any]:
        params = {"login": None, "password": None, "context": None}
        tasks = [self.task(index) for index in indices]
        return {"tasks": tasks, "project": "7.1760000000", "label_config": self.config, "params": params}


@pytest.fixture(scope="session")
def studio(truth) -> Studio:
    return Studio(truth)
