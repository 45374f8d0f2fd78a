"""A model of edges small enough to be written by hand: OpenCV's own is 5 MB and comes from elsewhere."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

OPTIONS = {
    "stride": 2,
    "shrinkNumber": 2,
    "patchSize": 32,
    "patchInnerSize": 16,
    "numberOfGradientOrientations": 4,
    "gradientSmoothingRadius": 0,
    "regFeatureSmoothingRadius": 2,
    "ssFeatureSmoothingRadius": 8,
    "gradientNormalizationRadius": 4,
    "selfsimilarityGridSize": 5,
    "numberOfTrees": 1,
    "numberOfTreesToEvaluate": 1,
}


def edge_model_text(threshold: float = 1.0) -> str:
    """One tree of one decision: where the gradient in the middle of a patch is strong, there is an edge."""
    middle = [y * 16 + x for y in (7, 8) for x in (7, 8)]  # of the inner patch, orientation 0
    bins = 32 * middle  # each counts 1/32
    tables = {
        "childs": "[2, 0, 0]",
        "featureIds": f"[{3 * 16 * 16 + 8 * 16 + 8}, 0, 0]",  # channel 3 of a patch of 16 x 16 shrunk cells
        "thresholds": f"[{threshold}, 0., 0.]",
        "edgeBoundaries": f"[0, 0, 0, {len(bins)}]",
        "edgeBins": str(bins),
    }
    options = "".join(f"   {name}: {value}\n" for name, value in OPTIONS.items())
    return f"%YAML:1.0\n---\noptions:\n{options}" + "".join(f"{k}:\n   - {v}\n" for k, v in tables.items())


@pytest.fixture(scope="session")
def edge_model(tmp_path_factory) -> Path:
    """Such a model as OpenCV reads it."""
    path = tmp_path_factory.mktemp("edges") / "model.yml.gz"
    path.write_bytes(gzip.compress(edge_model_text().encode()))
    return path
