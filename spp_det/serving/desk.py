"""What the server does, without HTTP: tasks become photos, annotations become labels, labels a model."""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from queue import Queue
from typing import Any

import numpy as np

from spp_det.config.settings import Config
from spp_det.data.records import select
from spp_det.errors import UserError
from spp_det.images import IMAGE_SUFFIXES, image_size
from spp_det.runtime.cache import digest
from spp_det.runtime.files import unlinked
from spp_det.runtime.whole_files import write_whole
from spp_det.serving.fetch import LabelStudio
from spp_det.serving.labelling import Labelling, drawn_boxes, read_labelling, regions
from spp_det.serving.labels import Labels
from spp_det.serving.learner import Learner
from spp_det.serving.photos import MOST_PATH, PhotoFolder, path_parts
from spp_det.serving.predictor import Predictor, Seen
from spp_det.serving.worker import SHARERS
from spp_det.training.stages import bounded

logger = logging.getLogger(__name__)

MOST_TASKS = 10_000  # of a request
MODEL, CACHE, FETCHED = "model.safetensors", "cache", "fetched"  # in the folder of labels


class Desk:
    """One project's photos, labels and model. Several threads may use one object.

    Attributes:
        labels: the annotations on disk.
        predictor: the model of the moment.
    """

    def __init__(
        self,
        config: Config,
        photos: Path,
        labels: Path,
        *,
        model: Path | None = None,
        label_studio: LabelStudio | None = None,
        score: float = 0.5,
    ) -> None:
        """``model`` proposes boxes until the labels have taught one. Boxes below ``score``, from 0 to 1, are
        not proposed. Raises UserError for whatever keeps it from working."""
        cache = bounded(config.runtime.cache or unlinked(labels, CACHE), config, SHARERS)
        self.score = score
        self.predictor = Predictor(config, cache)
        self._photos = PhotoFolder(photos)
        self._label_studio = label_studio
        self.labels = Labels(labels, self._find)
        self._model = labels / MODEL
        first = self._model if self._model.is_file() else model
        if first is not None:
            self.predictor.load(first)
        self.learner = Learner(config, labels, cache.folder, self._model, self._learnt)
        self._unsettled: Queue[str | None] = Queue()
        self._settler = threading.Thread(target=self._settle, daemon=True, name="labels")
        self._told_kinds: set[int] = set()

    @property
    def version(self) -> str:
        """The version of the model of the moment; empty before the first."""
        return self.predictor.version

    def start(self) -> None:
        """Finish what was interrupted, and begin to learn."""
        for name in self.labels.unfinished():
            self._unsettled.put(name)
        self._settler.start()
        self.learner.start()

    def close(self) -> None:
        """End the process that learns. All files are whole at any time."""
        self._unsettled.put(None)
        self.learner.close()

    def told(self) -> dict[str, Any]:
        """What is going on, in a few words."""
        return {"model_version": self.version, **self.learner.told}

    def _learnt(self) -> None:
        self.predictor.load(self._model)

    # ------------------------------------------------------------ photos

    def _find(self, told: str) -> tuple[PurePosixPath, Path]:
        """The photo of a task's path: its name below the labels' photos, and where it lies."""
        found = self._photos.find(told)
        if found is not None:
            return found, self._photos.path(found)
        if self._label_studio is None:
            raise UserError(
                f"{told[:200]}: none or several photos of {self._photos.folder} have this name; put it "
                "there, or name the server that has it: --label-studio URL"
            )
        parts = path_parts(told)
        suffix = Path(parts[-1]).suffix.lower() if parts else ""
        stem = re.sub(r"[^-\w]", "_", Path(parts[-1]).stem)[:100] if parts else "photo"
        name = f"{stem}-{digest(told)[:8]}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"
        path = unlinked(self.labels.root, FETCHED) / name
        if not path.is_file():
            data = self._label_studio.photo(told)
            write_whole(path, data)
            try:
                image_size(path)
            except UserError:
                path.unlink(missing_ok=True)
                raise
        return PurePosixPath(name), path

    # ------------------------------------------------------------ predictions

    def predict(self, tasks: Any, labelling: Labelling) -> list[list[dict[str, Any]]]:
        """The predictions for each task: one, or none without a model or photo.

        None rather than an empty one: Label Studio keeps an empty prediction, and does not ask again for a
        task that has one. Raises UserError where the tasks are no list of objects."""
        if not isinstance(tasks, list) or len(tasks) > MOST_TASKS:
            raise UserError(f"tasks must be a list of at most {MOST_TASKS:,}")
        if not all(isinstance(task, dict) for task in tasks):
            raise UserError("a task is no JSON object")
        return [self._predict(task, labelling) for task in tasks]

    def _predict(self, task: dict[str, Any], labelling: Labelling) -> list[dict[str, Any]]:
        seen = None
        try:
            if self.version:
                seen = self.predictor.detect(self._find(image_of(task, labelling.key))[1])
        except UserError as error:
            logger.warning("no prediction: %s", error)
        if seen is None:
            return []
        found, probabilities = self._proposed(seen)
        made = regions(found, seen.classes, probabilities, seen.size, labelling)
        score = float(np.mean([each["score"] for each in made])) if made else 0.0
        return [{"result": made, "score": score, "model_version": seen.version}]

    def _proposed(self, seen: Seen) -> tuple[Any, list[float]]:
        kept = seen.probabilities >= self.score
        return select(seen.found, kept), seen.probabilities[kept].tolist()

    def detect(self, data: bytes) -> dict[str, Any]:
        """The objects in an image file's bytes, as a list of COCO's results with the names of the classes.

        Raises UserError where it is no image that can be read, and while there is no model.
        """
        if not self.version:
            raise UserError("there is no model yet: label a photo, or start with --model MODEL")
        with _as_file(data) as path:
            try:
                seen = self.predictor.detect(path)
            except UserError as error:
                raise UserError(str(error).replace(str(path), "the image")) from None
        assert seen is not None
        found, probabilities = self._proposed(seen)
        rows = zip(found["boxes"].tolist(), found["labels"].tolist(), probabilities, strict=True)
        detections = [
            {
                "image_id": 0,
                "category_id": label + 1,
                "category": seen.classes[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), label, score in rows
        ]
        width, height = seen.size
        return {"model_version": seen.version, "width": width, "height": height, "detections": detections}

    # ------------------------------------------------------------ labels

    def noted(self, body: dict[str, Any]) -> str:
        """Take in what a webhook says. Returns in a word what became of it. Raises UserError for what is no
        event of Label Studio's."""
        action = body.get("action")
        if action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"):
            annotations, tasks = _listed(body.get("annotation")), _listed(body.get("task"))
            if len(annotations) != len(tasks):
                raise UserError("an event has not one task for each annotation")
            for annotation, task in zip(annotations, tasks, strict=True):
                self._put(annotation, task, body.get("project"))
            return "noted"
        if action == "ANNOTATIONS_DELETED":
            gone = [
                self.labels.remove_annotation(_id(each, "id")) for each in _listed(body.get("annotations"))
            ]
            for name in filter(None, gone):
                self._unsettled.put(name)
            return "noted"
        if action == "TASKS_DELETED":
            project = body.get("project")
            number = _id(project, "id") if isinstance(project, dict) else None
            for each in _listed(body.get("tasks")):
                for name in self.labels.remove_task(number, _id(each, "id")):
                    self._unsettled.put(name)
            return "noted"
        if action == "START_TRAINING":
            self.learner.mark()
            return "noted"
        if not isinstance(action, str):
            raise UserError("an event has no action")
        return "ignored"

    def _put(self, annotation: Any, task: Any, project: Any) -> None:
        if not isinstance(annotation, dict) or not isinstance(task, dict):
            raise UserError("an annotation or a task is no JSON object")
        number, task_id = _id(annotation, "id"), _id(task, "id")
        if annotation.get("was_cancelled"):  # skipped: it says nothing about the photo
            name = self.labels.remove_annotation(number)
        else:
            project_id = _id(project, "id") if isinstance(project, dict) else _id(task, "project")
            drawn, others = drawn_boxes(annotation.get("result"))
            if others and project_id not in self._told_kinds:
                self._told_kinds.add(project_id)
                logger.warning("project %d: %d regions that are no boxes are not learnt", project_id, others)
            image = image_of(task, _key_of(task, project))
            when = str(annotation.get("updated_at") or annotation.get("created_at") or "")[:64]
            name = self.labels.put(project_id, task_id, image, number, when, drawn)
        if name is not None:
            self._unsettled.put(name)

    def _settle(self) -> None:
        """On a thread of its own: files of annotations, which must not keep Label Studio waiting."""
        for name in iter(self._unsettled.get, None):
            try:
                if self.labels.settle(name):
                    self.learner.mark()
            except UserError as error:
                logger.warning("not learnt from task %s: %s", name, error)
            except OSError as error:
                logger.error("task %s: %s: %s", name, error.filename, error.strerror)


def _key_of(task: dict[str, Any], project: Any) -> str:
    """The key of the task's data that holds the photo."""
    text = project.get("label_config") if isinstance(project, dict) else None
    if text is not None:
        return read_labelling(text).key
    data = task.get("data")
    return next(iter(data)) if isinstance(data, dict) and len(data) == 1 else "image"


def image_of(task: dict[str, Any], key: str) -> str:
    """The path of a task's photo. Raises UserError where there is none."""
    data = task.get("data")
    told = data.get(key) if isinstance(data, dict) else None
    if not isinstance(told, str) or not 0 < len(told) <= MOST_PATH or not told.isprintable():
        raise UserError(f"a task has no photo under {key[:100]!r}")
    return told


def _listed(value: Any) -> list[Any]:
    found = value if isinstance(value, list) else [value]
    if len(found) > MOST_TASKS:
        raise UserError(f"an event has more than {MOST_TASKS:,} parts")
    return found


def _id(value: Any, key: str) -> int:
    number = value.get(key) if isinstance(value, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise UserError(f"an event has no {key} that is a number")
    return number


@contextmanager
def _as_file(data: bytes) -> Iterator[Path]:
    """The bytes as a file, as the decoder with its limits takes them."""
    handle, name = tempfile.mkstemp(prefix="spp-det-")
    try:
        with open(handle, "wb") as file:  # noqa: PTH123  (a handle)
            file.write(data)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
