"""``spp-det pretrain``: train a classification network, test it at several sizes, write it to one folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.process import goes_on, log_to
from spp_det.commands.terminal import say, say_skipped, show

if TYPE_CHECKING:
    import torch

    from spp_det.boxes import Ints
    from spp_det.config.pretrain import PretrainConfig, Testing
    from spp_det.data.class_folder import LabelledImages
    from spp_det.images import RGB
    from spp_det.pretraining.classifier import PyramidClassifier

# Settings that may change when a run goes on or is tested again, because no weight depends on them.
IDLE = frozenset(
    {"output", "strict", "data.follow_links", "data.test", "test", "runtime.device", "runtime.workers"}
)

Accuracy = dict[str, float]  # top1 and top5, fractions of 1
View = Callable[["RGB"], "torch.Tensor"]  # RGB uint8 [H, W, 3] -> probabilities [K]


def pretrain(
    config: options.Recipe, overrides: options.Overrides = None, strict: options.Strict = False
) -> None:
    """Train a backbone to classify images, a folder a class: backbone.safetensors for `train`.

    The same command goes on after an interruption. On N GPUs: torchrun --nproc-per-node N -m spp_det
    pretrain CONFIG.
    """
    from spp_det.config.file import load_config
    from spp_det.config.pretrain import PretrainConfig
    from spp_det.report.tables import classification_table
    from spp_det.runtime import distributed

    settings = load_config(config, options.overridden(overrides, strict), kind=PretrainConfig)
    goes_on("the same command goes on after the last whole epoch")
    metrics = run_pretraining(settings, lambda: log_to(settings.output / "train.log"))
    if not distributed.is_first():
        return
    test = metrics.get("test", {})
    if test:
        show(classification_table({view: test[view] for view in settings.test.views}))
    say_skipped([*metrics["skipped"], *test.get("skipped", [])])
    weights = escape(str(settings.output / "backbone.safetensors"))
    say(f"[bold green]trained[/] on {metrics['images']} images in {metrics['seconds']:.0f} s: {weights}")
    name = escape(settings.backbone.name)
    say(f"next: spp-det train CONFIG backbone.name={name} backbone.weights={weights}")


def run_pretraining(config: PretrainConfig, begun: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Pre-train by the configuration and, if it names a test split, test the network there.

    Writes ``backbone.safetensors``, ``config.yaml`` and ``metrics.json`` to the output folder, and the
    checkpoint from which the same call goes on. Returns the metrics. Those of the test are under ``test``, by
    view and size. ``begun`` is called once the output folder is claimed. Raises UserError where the folder is
    another configuration's, or another run is at work there; nothing is changed then.

    Under ``torchrun`` every process calls this function; the first process writes.
    """
    from spp_det.data.class_folder import read_class_folder
    from spp_det.runtime import distributed
    from spp_det.runtime.devices import choose_device
    from spp_det.runtime.run_folder import claimed
    from spp_det.runtime.whole_files import write_json

    started = time.perf_counter()
    device = choose_device(config.runtime.device)
    with distributed.process_group(device):
        test = None
        if config.data.test is not None:  # a mistake in its name is reported before the training
            root, follow = config.data.root, config.data.follow_links
            classes = read_class_folder(root, config.data.train, follow_links=follow).classes
            test = read_class_folder(root, config.data.test, classes, follow_links=follow)
        with claimed(config, config.output, IDLE):
            begun()
            metrics = _train_and_test(config, test, device)
            metrics["seconds"] = round(time.perf_counter() - started, 2)
            if distributed.is_first():
                write_json(config.output / "metrics.json", metrics)
            distributed.barrier()  # no process returns before the files are there
    return metrics


def _train_and_test(
    config: PretrainConfig, test: LabelledImages | None, device: torch.device
) -> dict[str, Any]:
    from spp_det.pretraining import pretrain
    from spp_det.pretraining.class_images import readable
    from spp_det.runtime import distributed
    from spp_det.runtime.threads import cores

    trained = pretrain.pretrain(config, device)
    metrics = dict(trained.metrics)
    if distributed.is_first():
        pretrain.save_network(trained.network, config.output / "backbone.safetensors")
    if test is not None:
        workers = config.runtime.workers or cores()
        test, skipped = readable(test, workers, config.strict)
        figures = accuracies(test, views_of(trained.network, config.test), workers, device)
        by_view: dict[str, dict[str, Accuracy]] = {view: {} for view in config.test.views}
        for (view, size), accuracy in figures.items():
            by_view[view][str(size)] = accuracy
        metrics["test"] = {"images": len(test), "skipped": skipped, **by_view}
    return metrics


def views_of(network: PyramidClassifier, test: Testing) -> dict[tuple[str, int], View]:
    """Each way to see an image that the settings ask for, by its name and size."""
    ways = {"full": network.full_image, "multi_view": network.multi_view}
    return {
        (view, size): partial(ways[view], size=size, max_side=test.max_side)
        for view in test.views
        for size in test.sizes
    }


def accuracies(
    images: LabelledImages, views: Mapping[tuple[str, int], View], workers: int, device: torch.device
) -> dict[tuple[str, int], Accuracy]:
    """Top-1 and top-5 over the images, of each view by its key. The processes share the images out."""
    import numpy as np
    import torch

    from spp_det.images import read_image
    from spp_det.pretraining.classifier import rank_of
    from spp_det.runtime import distributed
    from spp_det.runtime.progress import track
    from spp_det.runtime.threads import ahead

    mine = range(distributed.rank(), len(images), distributed.world_size())

    def hits(index: int) -> Ints:
        image, label = read_image(images.paths[index]), int(images.labels[index])
        ranks = [rank_of(view(image), label) for view in views.values()]
        return np.array([(rank < 1, rank < 5) for rank in ranks], np.int64)

    counts = np.zeros((len(views), 2), np.int64)
    # A network on the CPU takes one image a core; a GPU takes one after the other.
    for found in track(ahead(hits, mine, workers if device.type == "cpu" else 1), "testing", len(mine)):
        counts += found
    shares = distributed.total(torch.from_numpy(counts)).double() / len(images)
    return {
        key: {"top1": top1, "top5": top5} for key, (top1, top5) in zip(views, shares.tolist(), strict=True)
    }
