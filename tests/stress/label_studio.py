"""A real Label Studio beside ``spp-det serve``: ``python -m tests.stress.label_studio [--environment
FOLDER]``.

Label Studio's newest release is installed from the package index into an environment of its own (3 minutes, 1
GB), which ``--environment`` keeps, and started on loopback with a fresh data folder. Through its API alone:

1. a project is made, photos are uploaded, ``serve`` is connected as its model;
2. twelve photos are annotated, and Label Studio asks for the thirteenth's boxes;
3. these are corrected and submitted, and a new model is there;
4. ``serve`` is killed (kill -9) right after an annotation was submitted, before it has learnt it; started
   again, it has all annotations and learns the last one, though nobody sends it again;
5. an annotation is deleted, and its photo leaves the labels;
6. what ``detect --format label-studio`` writes by the last model is imported into a project of its own, and
   Label Studio gives back the same boxes;
7. with ``--page FILE.jpg``, a browser signs in, opens *Label All Tasks*, sees the proposed boxes (the picture
   goes to the file) and submits them, and they are learnt. It needs Playwright and a Chromium.

``--at 50 385`` annotates on until one photo less, then three singly, each with its seconds from the
submission to the first prediction by the new model. The photos are generated, or those of ``--data``, a
folder in VOC's layout. Exits with 1 where something did not come true. Not collected by pytest.
"""

from __future__ import annotations

import argparse
import http.cookiejar
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spp_det.data.records import Dataset, Record
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.images import image_size
from spp_det.serving.photos import uploaded_name

PATIENCE = 900.0  # seconds for anything, on a machine with other work
WHO = {"email": "labeller@example.com", "password": secrets.token_hex(12)}
# Label Studio refuses to talk to this machine unless it is told that it may.
LOCAL = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}
QUIET = {"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false"}


def install(folder: Path) -> str:
    """Label Studio's version in an environment, which is made where it is absent."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "label-studio").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "label-studio"], check=True)
    code = "from importlib.metadata import version; print(version('label-studio'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


def wait_for(what: str, done: Callable[[], Any]) -> Any:
    """What ``done`` returns once it is true. Connections that fail count as not yet."""
    start = time.monotonic()
    while time.monotonic() - start < PATIENCE:
        try:
            if found := done():
                return found
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.05)
    sys.exit(f"waited in vain for {what}")


def ask(url: str, body: Any = None, opener: Any = None, method: str | None = None, **headers: str) -> Any:
    """The JSON of an answer. A body of bytes is sent as it is."""
    raw = body is None or isinstance(body, bytes)
    data = body if raw else json.dumps(body).encode()
    if not raw:
        headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with (opener or urllib.request.build_opener()).open(request, timeout=PATIENCE) as answer:
        text = answer.read()
    return json.loads(text) if text[:1] in (b"{", b"[") else text


class Studio:
    """Label Studio in a process of its own, and its API by a personal access token."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [
            environment / "bin" / "label-studio",
            "start",
            "--no-browser",
            "--data-dir",
            folder / "studio",
        ]
        command += ["--internal-host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        command += ["--username", WHO["email"], "--password", WHO["password"]]
        with (folder / "studio.log").open("wb") as log:
            environ = {**os.environ, **LOCAL, **QUIET}
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environ)
        wait_for("Label Studio", lambda: ask(f"{self.url}/api/version"))
        self.personal = self._log_in()
        self._access, self._until = "", 0.0

    def _log_in(self) -> str:
        """A personal access token, as its page gives one to a user who has logged in."""
        jar = http.cookiejar.CookieJar()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        ask(f"{self.url}/user/login/", opener=opener)

        def csrf() -> dict[str, str]:
            token = next(str(cookie.value) for cookie in jar if cookie.name == "csrftoken")
            return {"X-CSRFToken": token, "Referer": f"{self.url}/"}

        form = urllib.parse.urlencode(WHO | {"csrfmiddlewaretoken": csrf()["X-CSRFToken"]}).encode()
        ask(f"{self.url}/user/login/", form, opener, **csrf())
        return str(ask(f"{self.url}/api/token/", {}, opener, **csrf())["token"])

    def api(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
        if time.monotonic() > self._until:
            self._access = ask(f"{self.url}/api/token/refresh/", {"refresh": self.personal})["access"]
            self._until = time.monotonic() + 120
        return ask(
            f"{self.url}/api/{path}", body, None, method, Authorization=f"Bearer {self._access}", **headers
        )

    def upload(self, project: int, photos: Sequence[Path]) -> None:
        """Import photos as a browser does."""
        for start in range(0, len(photos), 20):
            limit = secrets.token_hex(16)
            parts = b"".join(
                f'--{limit}\r\nContent-Disposition: form-data; name="{i}"; filename="{photo.name}"\r\n'
                "Content-Type: image/jpeg\r\n\r\n".encode()
                + photo.read_bytes()
                + b"\r\n"
                for i, photo in enumerate(photos[start : start + 20])
            )
            body = parts + f"--{limit}--\r\n".encode()
            self.api(
                f"projects/{project}/import",
                body,
                **{"Content-Type": f"multipart/form-data; boundary={limit}"},
            )


class Server:
    """``spp-det serve`` in a process of its own."""

    def __init__(
        self, arguments: Sequence[str], photos: Path, labels: Path, studio: Studio, log: Path
    ) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.labels = labels
        self._command = [sys.executable, "-m", "spp_det", "serve", *arguments, "--photos", str(photos)]
        self._command += ["--labels", str(labels), "--port", self.url.rpartition(":")[2]]
        self._command += ["--label-studio", studio.url]
        self._log = log
        self._environ = {**os.environ, "LABEL_STUDIO_API_KEY": studio.personal}
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environ)
        wait_for("serve", lambda: ask(f"{self.url}/health"))

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = ask(f"{self.url}/health")
        return found

    def ids(self) -> set[str]:
        path = self.labels / "ImageSets" / "Main" / "trainval.txt"
        return set(path.read_text().split()) if path.exists() else set()


class Journey:
    """The steps, and what did not come true."""

    def __init__(self, studio: Studio, server: Server, dataset: Dataset) -> None:
        self.studio, self.server, self.dataset = studio, server, dataset
        self.wrong: list[str] = []
        labels = "".join(f'<Label value="{name}"/>' for name in dataset.classes)
        self.config = (
            '<View><Image name="photo" value="$image"/>'
            f'<RectangleLabels name="objects" toName="photo">{labels}</RectangleLabels></View>'
        )
        made = studio.api("projects", {"title": "photos", "label_config": self.config})
        self.project = int(made["id"])
        records = list(dataset.records)
        studio.upload(self.project, [record.path for record in records])
        tasks = {}
        for page in range(1, 2 + len(records) // 100):
            found = studio.api(f"tasks?project={self.project}&page={page}&page_size=100&fields=all")["tasks"]
            tasks |= {task["data"]["image"].rpartition("/")[2][9:]: task for task in found}
            if len(tasks) >= len(records):
                break
        named = [tasks[uploaded_name(record.path.name)] for record in records]
        self.tasks = [int(task["id"]) for task in named]
        self.images = [str(task["data"]["image"]) for task in named]
        backend = {"url": server.url, "project": self.project, "title": "spp_det", "auth_method": "NONE"}
        studio.api("ml", backend)
        # What the page calls: use predictions to prelabel tasks, of this model.
        chosen = {"show_collab_predictions": True, "model_version": "spp_det"}
        studio.api(f"projects/{self.project}", chosen, "PATCH")

    def check(self, what: str, true: bool) -> None:
        print(f"{'yes' if true else 'NO '}  {what}", flush=True)
        if not true:
            self.wrong.append(what)

    def annotate(self, index: int) -> int:
        """Submit a photo's boxes; the annotation's id."""
        body = {"result": self._result(self.dataset.records[index]), "lead_time": 1.0}
        return int(self.studio.api(f"tasks/{self.tasks[index]}/annotations/", body)["id"])

    def _result(self, record: Record) -> list[dict[str, Any]]:
        width, height = record.size or image_size(record.path)
        found = []
        for (x1, y1, x2, y2), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
            value = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0}
            value |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
            value |= {"rectanglelabels": [self.dataset.classes[label]]}
            region = {"id": secrets.token_hex(5), "from_name": "objects", "to_name": "photo", "value": value}
            region |= {"type": "rectanglelabels", "original_width": width, "original_height": height}
            found.append(region | {"image_rotation": 0})
        return found

    def predictions(self, index: int) -> list[dict[str, Any]]:
        """What Label Studio shows when a photo is opened for the first time; it asks the model for it."""
        found: list[dict[str, Any]] = self.studio.api(f"tasks/{self.tasks[index]}")["predictions"]
        return found

    def asked(self, index: int) -> tuple[float, list[dict[str, Any]]]:
        """The seconds of a prediction, asked for as Label Studio does, and the predictions."""
        task = {"id": self.tasks[index], "project": self.project, "data": {"image": self.images[index]}}
        start = time.monotonic()
        body = {"tasks": [task], "label_config": self.config, "project": f"{self.project}.0", "params": {}}
        (found,) = ask(f"{self.server.url}/predict", body)["results"]
        return time.monotonic() - start, found

    def learnt(self, photos: int) -> dict[str, Any]:
        """Wait until the model is that of so many photos."""

        def there() -> dict[str, Any] | None:
            told = self.server.health()
            return (
                told if told["photos"] == photos and not told["learning"] and told["model_version"] else None
            )

        found: dict[str, Any] = wait_for(f"a model of {photos} photos", there)
        return found

    def timed(self, index: int, other: int) -> tuple[float, dict[str, Any]]:
        """Submit a photo: the seconds until the first prediction of another one by the new model."""
        before = self.server.health()["model_version"]
        self.asked(other)
        start = time.monotonic()
        self.annotate(index)
        wait_for("a new model", lambda: self.server.health()["model_version"] != before)
        _, (found,) = self.asked(other)
        assert found["model_version"] != before
        return time.monotonic() - start, self.server.health().get("seconds", {})

    def run(self, first: int, at: Sequence[int]) -> None:
        self.check("no model yet: no prediction, no error", self.asked(first)[1] == [])
        annotations = [self.annotate(index) for index in range(first)]
        self.learnt(first)
        self.check(f"{first} annotated photos are labels", len(self.server.ids()) == first)
        shown = self.predictions(first)
        self.check(f"Label Studio shows a prediction of photo {first + 1}", len(shown) > 0)
        self.check(
            "it is the model's of the moment", self._version(shown) == self.server.health()["model_version"]
        )
        print(f"     {len(shown[-1]['result']) if shown else 0} boxes")
        unseen, _ = self.asked(first + 1)
        seen, _ = self.asked(first + 1)
        print(f"     prediction of a photo not seen before {unseen:.2f} s, seen before {seen:.2f} s")
        seconds, parts = self.timed(first, first + 1)
        self.check("a correction is learnt", len(self.server.ids()) == first + 1)
        print(f"     {seconds:.2f} s from the submission to the first prediction by the new model: {parts}")
        stream = self.studio.api(f"projects/{self.project}/next")["predictions"]
        self.check(
            "the next photo's are the new model's",
            self._version(stream) == self.server.health()["model_version"],
        )
        self._killed(first + 1)
        self.studio.api(f"annotations/{annotations[0]}/", method="DELETE")
        self.learnt(first + 1)
        gone = self.dataset.records[0].path.stem
        self.check("a deleted annotation's photo is no label", gone not in self.server.ids())
        self.annotate(0)
        self.learnt(first + 2)
        done = first + 2
        for photos in at:
            for index in range(done, photos - 3):
                self.annotate(index)
            if photos - 3 > done:
                self.learnt(photos - 3)
            done = max(done, photos - 3)
            for index in range(done, photos):
                seconds, parts = self.timed(index, min(photos + 1, len(self.tasks) - 1))
                print(
                    f"     at {index + 1} photos {seconds:.2f} s to the new model's prediction: {parts}",
                    flush=True,
                )
            done = photos

    def prelabels(self, out: Path) -> None:
        """The last model's detections in a project of their own, by way of files."""
        photos, model = self.dataset.records[0].path.parent, self.server.labels / "model.safetensors"
        command = [sys.executable, "-m", "spp_det", "detect", model, photos, "--out", out]
        command += ["--format", "label-studio"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        config, tasks = ((out / f"label-studio.{kind}").read_text() for kind in ("xml", "json"))
        made = self.studio.api("projects", {"title": "pre-labels", "label_config": config})
        self.studio.api(f"projects/{made['id']}/import", json.loads(tasks))
        wanted = {each["data"]["image"]: _values(each["predictions"]) for each in json.loads(tasks)}
        found: dict[str, list[Any]] = {}
        for page in range(1, 2 + len(wanted) // 100):
            query = f"project={made['id']}&page={page}&page_size=100&fields=all"
            if len(found) < len(wanted):
                for each in self.studio.api(f"tasks?{query}")["tasks"]:
                    found[each["data"]["image"]] = _values(each["predictions"])
        count = sum(map(len, wanted.values()))
        self.check(f"{count} boxes of {len(wanted)} photos are there after an import", found == wanted)

    def page(self, picture: Path) -> None:
        """What a person does: open the next photo, see the boxes, submit them."""
        from playwright.sync_api import sync_playwright  # needed for this alone

        before, version = self.server.ids(), self.server.health()["model_version"]
        with sync_playwright() as playwright:
            options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
            browser = playwright.chromium.launch(**options)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"{self.studio.url}/user/login/")
            for field, text in WHO.items():
                page.fill(f"input[name={field}]", text)
            page.click("button[type=submit]")
            page.wait_for_load_state("networkidle")
            page.goto(f"{self.studio.url}/projects/{self.project}/data?labeling=1")
            submit = page.get_by_label("Submit current annotation")
            submit.wait_for(timeout=60_000)
            page.wait_for_load_state("networkidle")
            regions = page.locator("[role=treeitem]")
            self.check("the page shows proposed boxes", regions.count() > 0)
            page.screenshot(path=picture, type="jpeg", quality=80)
            submit.click()
            page.wait_for_load_state("networkidle")
            browser.close()
        wait_for("a new model", lambda: self.server.health()["model_version"] != version)
        self.check("what was submitted in the page is learnt", len(self.server.ids()) == len(before) + 1)

    def _killed(self, index: int) -> None:
        """Submit a photo and kill serve at once; it must know the photo when it is started again."""
        before = self.server.ids()
        self.annotate(index)
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()
        start = time.monotonic()
        self.server.start()
        print(f"     killed and started again in {time.monotonic() - start:.1f} s")
        self.check("after kill -9 there is a model at once", bool(self.server.health()["model_version"]))
        self.learnt(len(before) + 1)
        now = self.server.ids()
        self.check("after kill -9 nothing is lost", now == before | {self.dataset.records[index].path.stem})

    @staticmethod
    def _version(shown: Sequence[dict[str, Any]]) -> str | None:
        return max(shown, key=lambda each: each["id"])["model_version"] if shown else None


def _values(predictions: Sequence[dict[str, Any]]) -> list[Any]:
    """The boxes of a task's one prediction, in per cent, with their classes."""
    return [region["value"] for region in predictions[0]["result"]] if predictions else []


def main() -> None:
    """Parse, run, and say what did not come true."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", type=Path, help="keeps Label Studio; else a temporary folder")
    parser.add_argument("--data", type=Path, help="photos and boxes in VOC's layout; generated if not given")
    parser.add_argument("--split", default="trainval")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--first", type=int, default=12)
    parser.add_argument("--at", type=int, nargs="*", default=[], help="numbers of photos to time learning at")
    parser.add_argument("--page", type=Path, help="go through the page in a browser; a picture of it, JPEG")
    parser.add_argument("serve", nargs="*", default=["squeezenet_svm"], help="recipe and settings; after --")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="label-studio-") as name:
        folder = Path(name)
        root = chosen.data
        if root is None:
            root = folder / "voc"
            generate_voc(root, {"trainval": chosen.photos}, seed=0)
        dataset = read_voc(root, chosen.split)
        drawn = random.Random(0).sample(range(len(dataset)), min(chosen.photos, len(dataset)))
        dataset = Dataset(dataset.classes, [dataset.records[index] for index in drawn])
        environment = chosen.environment or folder / "environment"
        print(f"Label Studio {install(environment)}, {len(dataset)} photos", flush=True)
        studio = Studio(environment, folder)
        server = None
        try:
            photos = dataset.records[0].path.parent
            server = Server(chosen.serve, photos, folder / "labels", studio, folder / "serve.log")
            journey = Journey(studio, server, dataset)
            journey.run(chosen.first, chosen.at)
            journey.prelabels(folder / "found")
            if chosen.page:
                journey.page(chosen.page)
            server.process.send_signal(signal.SIGINT)
            journey.check("Ctrl-C ends serve", server.process.wait(30) == 128 + signal.SIGINT)
        finally:
            for process in (studio.process, *([server.process] if server else [])):
                if process.poll() is None:
                    process.kill()
                    process.wait()
            print((folder / "serve.log").read_text()[-3000:] if server else "", file=sys.stderr)
        if journey.wrong:
            sys.exit(f"{len(journey.wrong)} did not come true")


if __name__ == "__main__":
    main()
