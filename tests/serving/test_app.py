"""The server, asked as Label Studio 1.23 asks, in this process; learning is a stand-in that learns when
told."""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.testclient import TestClient

from spp_det.data.records import Detections
from spp_det.data.voc import read_voc
from spp_det.images import read_image
from spp_det.model.detector import Detector
from spp_det.model.probability import Probabilities
from spp_det.runtime.cache import Cache
from spp_det.serving import desk as desks
from spp_det.serving import guard
from spp_det.serving.app import make_app
from spp_det.serving.desk import Desk
from spp_det.serving.labelling import drawn_boxes, in_pixels, read_labelling
from spp_det.training.live import LiveTraining

TOKEN = "a secret of tests".replace(" ", "-")


@pytest.fixture(scope="session")
def model(serving_folder, small_config, truth) -> Path:
    live = LiveTraining(small_config, Cache(serving_folder / "cache"))
    detector = live.learn(truth)
    assert detector is not None
    detector.save(serving_folder / "model.safetensors")
    return serving_folder / "model.safetensors"


class NoLearner:
    """Notes that it was asked."""

    def __init__(self, *_: object) -> None:
        self.told = {"learning": False, "photos": 0, "learnt": 0}
        self.marks = 0

    def start(self) -> None: ...

    def mark(self) -> None:
        self.marks += 1

    def close(self) -> None: ...


@pytest.fixture
def served(tmp_path, small_config, photos, monkeypatch):
    """``served(model, token, host)``: a client of a server with new labels; its desk is ``client.desk``."""
    monkeypatch.setattr(desks, "Learner", NoLearner)
    opened = []

    def serve(model: Path | None = None, token: str | None = None, host: str = "127.0.0.1", score=0.0):
        desk = Desk(small_config, photos, tmp_path / "labels", model=model, score=score)
        headers = {} if token is None else {"Authorization": f"Token {token}"}
        name = f"http://{host}:9090"
        client = TestClient(make_app(desk, host, token), base_url=name, headers=headers)
        client.__enter__()
        opened.append(client)
        return SimpleNamespace(client=client, desk=desk, get=client.get, post=client.post)

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


def settled(server) -> list[str]:
    """The ids of the labels, once all that has come is on disk."""
    server.desk._unsettled.put(None)
    server.desk._settler.join(30)
    assert not server.desk._settler.is_alive()
    return server.desk.labels.ids()


# ---------------------------------------------------------------- Label Studio's protocol


def test_a_model_that_knows_what_its_scores_mean_says_so(served, model, truth, tmp_path):
    detector, data = Detector.load(model), truth.records[0].path.read_bytes()

    def scores(path: Path) -> np.ndarray:
        tree = served(path).post("/detect", content=data).json()
        rows = next(each for each in tree.values() if isinstance(each, list))
        return np.array([row["score"] for row in rows])

    plain = scores(model)
    curve = np.full(len(detector.classes), 2, np.float32)
    detector.probability = Probabilities(curve, curve / 2)
    detector.save(tmp_path / "fitted.safetensors")
    assert len(plain)
    margins = np.log(plain / (1 - plain))
    expected = 1 / (1 + np.exp(-2 * margins - 1))
    assert scores(tmp_path / "fitted.safetensors") == pytest.approx(expected, abs=1e-4)


def test_a_server_without_a_model_answers(served, studio):
    server = served()
    health = server.get("/health").json()
    assert health["status"] == "UP"
    setup = {
        "project": "7.1",
        "schema": studio.config,
        "hostname": "http://x",
        "access_token": "y",
        "extra_params": None,
    }
    assert server.post("/setup", json=setup).json() == {"model_version": ""}
    assert server.post("/validate", json={"config": studio.config}).json() == {"status": "ok"}
    assert server.get("/versions").json() == {"versions": []}
    assert server.post("/predict", json=studio.predict(0, 1)).json() == {"results": [[], []]}
    assert server.post("/detect", content=b"x").status_code == 400


def assert_same_but_for_order(
    names: list[str], boxes: np.ndarray, expected: Detections, classes: tuple[str, ...], atol: float
) -> None:
    """The server's maps are in half precision, which may exchange detections of nearly one score."""
    assert len(names) == len(boxes) == len(expected["labels"])
    wanted = [(classes[label], box) for label, box in zip(expected["labels"], expected["boxes"], strict=True)]
    for place, (name, box) in enumerate(zip(names, boxes, strict=True)):
        near = [
            i for i, (mine, corners) in enumerate(wanted) if mine == name and abs(corners - box).max() <= atol
        ]
        assert near, f"detection {place}, {name} at {box}, is none of the model's"
        del wanted[near[0]]


def test_predictions_are_the_models_detections(served, studio, model, truth):
    server = served(model)
    (found,), (other,) = server.post("/predict", json=studio.predict(0, 1)).json()["results"]
    version = server.get("/health").json()["model_version"]
    setup = {"project": "7.1", "schema": studio.config}
    assert found["model_version"] == version == server.post("/setup", json=setup).json()["model_version"]
    detector = Detector.load(model)
    expected = detector.detect(read_image(truth.records[0].path))
    boxes, names = in_pixels(drawn_boxes(found["result"])[0], truth.records[0].size)
    assert len(boxes) > 3
    assert_same_but_for_order(names, boxes, expected, detector.classes, atol=1.1)  # whole pixels
    scores = [region["score"] for region in found["result"]]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-expected["scores"])), atol=1e-2)
    assert found["score"] == pytest.approx(np.mean(scores))
    assert other["result"] != found["result"]


def test_boxes_below_the_threshold_are_not_proposed(served, studio, model):
    every = served(model).post("/predict", json=studio.predict(0)).json()["results"][0][0]["result"]
    least = float(np.median([region["score"] for region in every]))
    some = (
        served(model, score=least).post("/predict", json=studio.predict(0)).json()["results"][0][0]["result"]
    )
    expected = [region["value"] for region in every if region["score"] >= least]
    assert 0 < len(expected) < len(every)
    assert [region["value"] for region in some] == expected


def test_a_task_whose_photo_is_nowhere_has_no_prediction(served, studio, model, caplog):
    body = studio.predict(0, 1)
    body["tasks"][0]["data"]["image"] = "/data/upload/7/0123abcd-elsewhere.jpg"
    results = served(model).post("/predict", json=body).json()["results"]
    assert results[0] == []
    assert len(results[1]) == 1
    assert "elsewhere.jpg" in caplog.text


@pytest.mark.parametrize(
    "place", ["/etc/passwd", "../voc/JPEGImages/x", "http://169.254.169.254/a.jpg", "file:///etc/passwd"]
)
def test_a_task_opens_and_fetches_nothing_elsewhere(served, studio, model, place, monkeypatch):
    server = served(model)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a name is looked up"))
    body = studio.predict(0)
    body["tasks"][0]["data"]["image"] = place
    assert server.post("/predict", json=body).json() == {"results": [[]]}


def test_annotations_become_labels(served, studio, truth, tmp_path):
    server = served()
    for index in (0, 1, 2):
        answer = server.post("/webhook", json=studio.event("ANNOTATION_CREATED", index))
        assert answer.json() == {"status": "noted"}
    event = studio.event(
        "ANNOTATION_UPDATED", 1, updated_at="2026-01-02T00:00:00Z", result=studio.result(1)[:1]
    )
    server.post("/webhook", json=event)
    deleted = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 500}], "project": studio.project}
    assert server.post("/webhook", json=deleted).json() == {"status": "noted"}
    assert settled(server) == ["trainval_00001", "trainval_00002"]
    assert server.desk.learner.marks >= 2
    first, second = read_voc(tmp_path / "labels", "trainval").records
    np.testing.assert_array_equal(first.boxes, truth.records[1].boxes[:1])
    np.testing.assert_array_equal(second.boxes, truth.records[2].boxes)


def test_several_annotations_at_once_and_deleted_tasks(served, studio):
    server = served()
    events = [studio.event("ANNOTATION_CREATED", index) for index in (0, 1, 2)]
    both = {name: [event[name] for event in events] for name in ("annotation", "task")}
    server.post("/webhook", json={"action": "ANNOTATIONS_CREATED", **both, "project": studio.project})
    server.post(
        "/webhook", json={"action": "TASKS_DELETED", "tasks": [{"id": 101}], "project": studio.project}
    )
    assert settled(server) == ["trainval_00000", "trainval_00002"]


def test_a_skipped_photo_is_no_label_and_one_without_boxes_is(served, studio):
    server = served()
    server.post("/webhook", json=studio.event("ANNOTATION_CREATED", 0, was_cancelled=True))
    server.post("/webhook", json=studio.event("ANNOTATION_CREATED", 1, result=[]))
    server.post("/webhook", json=studio.event("ANNOTATION_CREATED", 2))
    server.post("/webhook", json=studio.event("ANNOTATION_UPDATED", 2, was_cancelled=True))
    assert settled(server) == ["trainval_00001"]


@pytest.mark.parametrize("action", ["PROJECT_UPDATED", "TASKS_CREATED", "LABEL_LINK_CREATED", "ANYTHING"])
def test_other_events_are_passed_over(served, studio, action):
    assert served().post("/webhook", json={"action": action, "project": studio.project}).json() == {
        "status": "ignored"
    }


def test_start_training_asks_to_learn(served, studio):
    server = served()
    server.post("/webhook", json={"action": "START_TRAINING", "project": studio.project})
    assert server.desk.learner.marks == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/webhook", {}),
        ("/webhook", []),
        ("/webhook", {"action": "ANNOTATION_CREATED"}),
        (
            "/webhook",
            {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": []}, "task": {"id": "x"}},
        ),
        ("/webhook", {"action": "ANNOTATIONS_CREATED", "annotation": [{}], "task": []}),
        ("/webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": True}]}),
        ("/webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": -1}]}),
        ("/webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 2**63}]}),
        ("/webhook", {"action": "TASKS_DELETED", "tasks": ["1"], "project": {"id": None}}),
        ("/setup", {"project": "7.1"}),
        ("/setup", {"schema": "<View/>"}),
        ("/validate", {"config": 5}),
        ("/predict", {}),
        ("/predict", {"tasks": {}, "label_config": "<View/>"}),
    ],
)
def test_what_is_no_request_of_label_studios_is_refused_in_a_line(served, path, body, caplog):
    answer = served().post(path, json=body)
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]
    assert sum("refused POST" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"NaN", b'{"tasks": Infinity}', b"1" * 5000, b'"\\ud800"'],
)
def test_a_body_that_is_no_json_is_refused_in_a_line(served, data):
    answer = served().post("/predict", content=data)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


# ---------------------------------------------------------------- plain detection


def test_an_image_gives_a_list_of_cocos_results(served, model, truth):
    server = served(model)
    record = truth.records[0]
    found = server.post("/detect", content=record.path.read_bytes()).json()
    assert (found["width"], found["height"]) == record.size
    detector = Detector.load(model)
    expected = detector.detect(read_image(record.path))
    boxes = np.array([row["bbox"] for row in found["detections"]])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    names = [row["category"] for row in found["detections"]]
    assert_same_but_for_order(names, corners, expected, detector.classes, atol=0.5)
    assert [detector.classes[row["category_id"] - 1] for row in found["detections"]] == names
    scores = [row["score"] for row in found["detections"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0" + b"\0" * 50, b"GIF89a"])
def test_what_is_no_image_is_refused_without_a_path_of_the_server(served, model, data):
    answer = served(model).post("/detect", content=data)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the image: ")


def test_the_description_is_openapis_and_its_page_loads_nothing_from_elsewhere(served, model, truth):
    server = served(model)
    described = server.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    assert list(described["paths"]) == ["/detect"]
    schemas = described["components"]["schemas"]
    found = server.post("/detect", content=truth.records[0].path.read_bytes()).json()
    assert set(found) == set(schemas["Found"]["required"])
    assert set(found["detections"][0]) == set(schemas["Detection"]["required"])
    page = server.get("/docs")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "src=" not in page.text
    assert "https://" not in page.text


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize("name", ["127.0.0.1:9090", "localhost:9090", "LOCALHOST", "[::1]:9090"])
def test_this_machines_own_names_are_answered(served, name):
    assert served().get("/health", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("name", ["evil.example:9090", "127.0.0.1.evil.example", "", "[", "localhost.evil"])
def test_another_name_is_refused(served, name, caplog):
    assert served().get("/health", headers={"Host": name}).status_code == 403
    assert "refused GET /health: 403" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_elsewhere_is_refused(served, headers):
    assert served().post("/detect", content=b"x", headers=headers).status_code == 403


def test_the_servers_own_page_is_answered(served):
    own = {"Origin": "http://127.0.0.1:9090", "Sec-Fetch-Site": "same-origin"}
    assert served().get("/health", headers=own).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        f"Token {TOKEN}",
        f"Bearer {TOKEN}",
        "Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode(),
    ],
)
def test_with_a_token_whoever_has_it_is_answered_under_any_name(served, sent):
    server = served(token=TOKEN, host="192.0.2.7")
    assert server.get("/health", headers={"Authorization": sent, "Host": "label.example"}).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [None, "", "Token", "Token x", f"Token {TOKEN}x", f"Digest {TOKEN}", TOKEN, "Basic !!!", "Basic ",
     "Basic " + base64.b64encode(TOKEN.encode()).decode()],
)  # fmt: skip
def test_without_the_token_nothing_is_answered(served, sent, caplog):
    server = served(token=TOKEN, host="192.0.2.7")
    server.client.headers.pop("Authorization")
    headers = {} if sent is None else {"Authorization": sent}
    for path in ("/health", "/docs", "/nowhere"):
        answer = server.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert TOKEN not in caplog.text


def test_large_and_compressed_bodies_are_refused(served, monkeypatch):
    monkeypatch.setattr(guard, "MOST_BODY", 1000)
    server = served()
    assert server.post("/detect", content=b"x" * 1001).status_code == 413
    assert server.post("/detect", content=iter([b"x" * 600] * 2)).status_code == 413  # states no length
    assert server.post("/detect", content=b"x", headers={"Content-Length": "1e9"}).status_code == 413
    assert server.post("/detect", content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 415
    assert server.post("/detect", content=b"x" * 1000).status_code == 400  # as no image


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("DELETE", "/webhook", 405),
        ("PUT", "/detect", 405),
        ("POST", "/health", 405),
        ("TRACE", "/predict", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
    ],
)
def test_other_methods_and_pages_are_refused_in_a_line_of_the_log(served, method, path, status, caplog):
    caplog.set_level(logging.WARNING)
    assert served().client.request(method, path).status_code == status
    assert sum(message.startswith("refused") for message in caplog.messages) == 1


def test_a_line_of_the_log_is_one_line(served, caplog):
    served().get("/a%0Ab%1b[31m")
    (line,) = [message for message in caplog.messages if "refused" in message]
    assert line.isprintable()


def test_control_of_a_label_studio_project_without_boxes_is_refused(served):
    choice = '<Choices name="c" toName="t"><Choice value="a"/></Choices>'
    config = f'<View><Text name="t" value="$text"/>{choice}</View>'
    answer = served().post("/validate", json={"config": config})
    assert answer.status_code == 400
    assert "RectangleLabels" in answer.json()["error"]
    with pytest.raises(Exception, match="RectangleLabels"):
        read_labelling(config)
