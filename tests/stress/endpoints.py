"""The endpoints of ``spp-det serve`` as readers: damaged requests, and requests of no known kind.

A request is a file that is damaged like any other. The server runs in this process, with small photos. It
must answer each request by JSON, with what was asked for or with a line of refusal; `tests.stress.guard` sees
what it opens beside its folders, and `_Studio` what it would fetch.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from starlette.testclient import TestClient

from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.model.detector import Detector
from spp_det.runtime.cache import Cache
from spp_det.serving import desk as desks
from spp_det.serving.app import make_app
from spp_det.serving.desk import Desk
from spp_det.serving.fetch import LabelStudio
from spp_det.training.live import LiveTraining
from tests.stress.corrupt import VALUES, Rng
from tests.stress.data_sets import Reader

STUDIO = "http://127.0.0.1:9/studio/"
CONFIG = (
    '<View><Image name="photo" value="$image"/><RectangleLabels name="boxes" toName="photo">'
    '<Label value="cross"/><Label value="star"/></RectangleLabels></View>'
)
PATHS = ("/", "/health", "/validate", "/setup", "/predict", "/webhook", "/versions", "/detect", "/docs")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE")
HEADERS = ("Host", "Origin", "Authorization", "Content-Type", "Content-Encoding", "Content-Length", "Cookie")
TOKEN = "of-the-fuzzer"


class _Studio(LabelStudio):
    """Has no photo, and notes where it would look."""

    def _answer(self, request: urllib.request.Request, _most: int) -> bytes:
        if not request.full_url.startswith(STUDIO):
            raise AssertionError(f"fetches {request.full_url}")
        raise UserError("there is no such photo")


class _NoLearner:
    told: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, *_: object) -> None: ...

    def start(self) -> None: ...

    def mark(self) -> None: ...

    def close(self) -> None: ...


def _config(cache_folder: Path) -> Config:
    backbone = {"name": "zf5_small", "weights": "random", "scales": [48]}
    runtime = {"device": "cpu", "cache": str(cache_folder)}
    return parse_config({"backbone": backbone, "bbox": {"enabled": False}, "runtime": runtime}, "the fuzzer")


@cache
def _detector() -> Detector:
    """Of two photos, in all cases of a process."""
    with tempfile.TemporaryDirectory() as name:
        generate_voc(Path(name) / "voc", {"trainval": 2}, seed=1, sizes=((112, 96),))
        live = LiveTraining(_config(Path(name) / "cache"), Cache(Path(name) / "cache"))
        detector = live.learn(read_voc(Path(name) / "voc", "trainval"))
        assert detector is not None
        return detector


def _send(given: Path, out: Path, send: Callable[[TestClient], Any], token: str | None = None) -> Any:
    """The answer's JSON. Raises UserError for a refusal, and AssertionError for anything else."""
    with (
        patch.object(desks, "Learner", _NoLearner),
        patch.object(tempfile, "tempdir", str(out)),
    ):
        desk = Desk(
            _config(out / "cache"),
            given / "photos",
            out / "labels",
            label_studio=_Studio(STUDIO, ""),
            score=0.0,
        )
        desk.predictor._model = _detector(), "1"
        with TestClient(make_app(desk, token=token), base_url="http://127.0.0.1:9090") as client:
            answer = send(client)
        desk._settler.join(20)
        assert not desk._settler.is_alive(), "a label is not settled"
    assert answer.status_code < 500, answer.status_code
    if answer.status_code != 200:
        said = "" if answer.request.method == "HEAD" else answer.json()["error"]
        raise UserError(said)
    return answer.json() if "json" in answer.headers.get("content-type", "") and answer.content else None


def _write(folder: Path, name: str, body: Any) -> None:
    generate_voc(folder / "voc", {"trainval": 1}, seed=2, sizes=((112, 96),))
    (folder / "photos").mkdir()
    shutil.move(next((folder / "voc" / "JPEGImages").iterdir()), folder / "photos" / "a.jpg")
    shutil.rmtree(folder / "voc")
    (folder / name).write_text(json.dumps(body))


def _task(image: str = "/data/upload/1/0123abcd-a.jpg") -> dict[str, Any]:
    return {"id": 5, "project": 1, "data": {"image": image}, "annotations": [], "predictions": []}


def _annotation(number: int = 9) -> dict[str, Any]:
    value = {"x": 10.5, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cross"]}
    region = {"id": "a", "type": "rectanglelabels", "from_name": "boxes", "to_name": "photo", "value": value}
    region |= {"original_width": 64, "original_height": 56, "image_rotation": 0}
    times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    return {"id": number, "task": 5, "project": 1, "result": [region], "was_cancelled": False, **times}


def _predict(given: Path, out: Path) -> None:
    data = (given / "predict.json").read_bytes()
    found = _send(given, out, lambda client: client.post("/predict", content=data))
    assert len(found["results"]) == len(json.loads(data)["tasks"])


def _webhook(given: Path, out: Path) -> None:
    data = (given / "webhook.json").read_bytes()
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        whole = None
    events = [json.dumps(event).encode() for event in whole] if isinstance(whole, list) else []

    def send(client: TestClient) -> Any:
        answers = [client.post("/webhook", content=event) for event in events or [data]]
        return next((answer for answer in answers if answer.status_code != 200), answers[-1])

    _send(given, out, send)


def _setup(given: Path, out: Path) -> None:
    data = (given / "setup.json").read_bytes()
    _send(given, out, lambda client: client.post("/validate", content=data))
    _send(given, out, lambda client: client.post("/setup", content=data))


def _detect(given: Path, out: Path) -> None:
    data = (given / "photos" / "a.jpg").read_bytes()
    _send(given, out, lambda client: client.post("/detect", content=data))


def _any(given: Path, out: Path) -> None:
    asked = json.loads((given / "request.json").read_text())
    headers = {name: value.encode("latin-1", "replace") for name, value in asked["headers"].items()}
    body = asked["body"].encode("utf-8", "replace")
    token = TOKEN if asked["guarded"] else None

    def send(client: TestClient) -> Any:
        return client.request(asked["method"], asked["path"], headers=headers, content=body)

    found = _send(given, out, send, token)
    if token and TOKEN not in json.dumps(asked["headers"]):
        raise AssertionError(f"answered without the token: {found}")


def _drawn(rng: Rng, folder: Path) -> None:
    """A request of no known kind."""

    def text() -> str:
        value = str(VALUES[rng.integers(len(VALUES))])[:500]
        return "".join(c if c.isprintable() and c.isascii() else "?" for c in value)

    names = [HEADERS[rng.integers(len(HEADERS))] for _ in range(rng.integers(4))]
    headers = {name: text() for name in names if name != "Content-Length"}
    if rng.random() < 0.3:
        headers["Authorization"] = f"Token {TOKEN}"
    path = PATHS[rng.integers(len(PATHS))] + ("/" + text() if rng.random() < 0.3 else "")
    body = json.dumps({"tasks": [_task(text())], "label_config": CONFIG, "config": CONFIG, "schema": CONFIG})
    method = "POST" if rng.random() < 0.6 else METHODS[rng.integers(len(METHODS))]
    if rng.random() < 0.5:
        headers.pop("Host", None)
    asked = {"method": method, "path": "/" + path.replace("#", "").lstrip("/"), "headers": headers}
    asked |= {"body": body if rng.random() < 0.5 else text(), "guarded": bool(rng.random() < 0.3)}
    (folder / "request.json").write_text(json.dumps(asked))


_EVENTS = [
    {
        "action": action,
        "annotation": _annotation(),
        "task": _task(),
        "project": {"id": 1, "label_config": CONFIG},
    }
    for action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
] + [
    {
        "action": "ANNOTATIONS_CREATED",
        "annotation": [_annotation(10)],
        "task": [_task()],
        "project": {"id": 1},
    },
    {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 10}], "project": {"id": 1}},
    {"action": "TASKS_DELETED", "tasks": [{"id": 6}], "project": {"id": 1}},
]
_PREDICT = {
    "tasks": [_task(), _task("/b.jpg")],
    "project": "1.1",
    "label_config": CONFIG,
    "params": {"context": None},
}
_SETUP = {"project": "1.1", "config": CONFIG, "schema": CONFIG, "hostname": "http://x", "access_token": "y"}

ENDPOINTS = {
    "serve predict": Reader(
        lambda f: _write(f, "predict.json", _PREDICT), _predict, ("predict.json",), planted=0
    ),
    "serve webhook": Reader(
        lambda f: _write(f, "webhook.json", _EVENTS), _webhook, ("webhook.json",), planted=0
    ),
    "serve setup": Reader(lambda f: _write(f, "setup.json", _SETUP), _setup, ("setup.json",), planted=0),
    "serve detect": Reader(lambda f: _write(f, "none.json", None), _detect, ("photos/*.jpg",), planted=0),
    "serve photos": Reader(
        lambda f: _write(f, "predict.json", _PREDICT), _predict, ("photos/*.jpg",), links=True, planted=0.5
    ),
    "serve requests": Reader(
        lambda f: _write(f, "request.json", {"method": "GET", "path": "/health", "headers": {}, "body": "",
                                             "guarded": False}),
        _any, drawn=_drawn, planted=0,
    ),
}  # fmt: skip
"""Every endpoint, each with valid requests to damage and a call that sends them."""
