"""The command line: each command's arguments and options, and what it delegates to."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

import typer
from rich.markup import escape

from spp_det.commands.process import goes_on, log_to, run_app
from spp_det.commands.terminal import say, say_skipped, show, show_figures
from spp_det.errors import UserError
from spp_det.version import __version__

# Everything heavy is imported by the command that needs it, so that --help answers at once.

app = typer.Typer(
    name="spp-det",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="SPP-net object detection: train on your own photos, detect, and score the result.",
)

BY_SEVERAL = ("train", "detect", "pretrain")
FROM_CACHE = "the same command goes on from what the cache holds"
T = TypeVar("T")

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings to override.")
]
Strict = Annotated[bool, typer.Option("--strict", help="An image that cannot be read is an error.")]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Read links that lead out of the named folder, too.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Workers = Annotated[int, typer.Option(min=0, help="Images at a time; 0 is one a core.")]
ProposalFile = Annotated[
    Path | None, typer.Option(help="Take the windows from there: R-CNN's .mat, .npz or .json.")
]
EdgeModel = Annotated[
    Path | None, typer.Option(help="Search by Edge Boxes, with OpenCV's model of edges (model.yml.gz).")
]
VocFolder = Annotated[Path | None, typer.Option("--voc", help="A Pascal VOC folder.")]
VocSplit = Annotated[
    str | None, typer.Option("--split", help="The split of --voc to score; test if not given.")
]
CocoFile = Annotated[Path | None, typer.Option("--coco", help="A COCO instances file.")]
ImageFolder = Annotated[
    Path | None, typer.Option("--images", help="Where the images of --coco lie, if not beside it.")
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="What the network multiplies in.")
]


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"spp_det {__version__}")
        raise typer.Exit
    command = context.invoked_subcommand
    if command is None:
        print(context.get_help())
        raise typer.Exit(2)
    if command not in BY_SEVERAL and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"{command} is the work of one process: start it without torchrun")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A recipe, such as configs/squeezenet_svm.yaml.")],
    overrides: Overrides = None,
    strict: Strict = False,
) -> None:
    """Train a detector: model.safetensors, config.yaml, metrics.json and train.log in the output folder.

    By N processes or on N GPUs: torchrun --nproc-per-node N -m spp_det train CONFIG.
    """
    from spp_det.commands.train import run_training
    from spp_det.config.file import load_config
    from spp_det.runtime import distributed

    settings = load_config(config, _overridden(overrides, strict))
    goes_on(FROM_CACHE)
    metrics = run_training(settings, lambda: log_to(settings.output / "train.log"))
    if not distributed.is_first():
        return
    if "test" in metrics:
        show_figures(metrics["test"])
    say_skipped([*metrics["skipped"], *metrics.get("test", {}).get("skipped", [])])
    model = escape(str(settings.output / "model.safetensors"))
    seconds = sum(metrics["seconds"].values())
    say(f"[bold green]trained[/] on {metrics['images']} images in {seconds:.0f} s: {model}")
    say(f"next: spp-det detect {model} FOLDER --out found --draw")


@app.command()
def detect(
    model: Annotated[
        Path, typer.Argument(help="A model.safetensors; more of them may follow, to be combined.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="Images, folders, patterns, lists (.txt, VOC splits), - for a list on stdin."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for what was found: detections.json, images.json ...")],
    draw: Annotated[bool, typer.Option("--draw", help="Also pictures with boxes.")] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Also coco (always written), voc, yolo, csv or devkit; repeatable."),
    ] = None,
    save_crops: Annotated[bool, typer.Option("--save-crops", help="Also each object cut out.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the same command left unfinished there.")
    ] = False,
    score: Annotated[float | None, typer.Option(help="Leave out what scores less.")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these, as a,b,c.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = 0,
    strict: Strict = False,
    proposals: ProposalFile = None,
    edge_model: EdgeModel = None,
    follow_links: FollowLinks = False,
) -> None:
    """Find objects in images. Scores above 0 say yes: pictures show those unless --score is given.

    Of several models the windows are pooled by NMS: the surer model has its way. What an earlier run wrote
    to the folder is removed, unless --resume goes on with it. By N processes or on N GPUs: torchrun
    --nproc-per-node N -m spp_det detect MODEL IMAGES --out DIR.
    """
    from spp_det.commands.detect import detect_to_folder, windows_for
    from spp_det.data.folder import find_images
    from spp_det.model.ensemble import load_detector
    from spp_det.runtime import distributed
    from spp_det.runtime.devices import choose_device

    others = [Path(name) for name in takewhile(lambda name: name.endswith(".safetensors"), images)]
    if len(others) == len(images):
        raise UserError("say which images to look at, after the models")
    if distributed.world_size() > 1 and "-" in images:
        raise UserError("several processes cannot share a list on stdin: write it to a file, and name that")
    paths = find_images(images[len(others) :], follow_links=follow_links)
    own_device = distributed.own_device(choose_device(device))
    goes_on("the same command goes on after the images that are done" + ("" if resume else ", with --resume"))
    with distributed.process_group(own_device):
        detector = load_detector([model, *others], str(own_device), precision)
        summary = detect_to_folder(
            detector,
            paths,
            out,
            formats=formats or (),
            draw=draw,
            score=score,
            only=classes,
            workers=workers,
            strict=strict,
            source=windows_for(detector.settings.proposals, proposals, edge_model),
            crops=save_crops,
            resume=resume,
        )
    if not distributed.is_first():
        return
    say(f"[bold green]found[/] {summary.found} detections in {summary.images} images: {escape(str(out))}")
    say_skipped(summary.skipped)


@app.command()
def evaluate(
    detections: Annotated[
        Path, typer.Argument(help="A folder that detect wrote, or detections of any of its formats in it.")
    ],
    voc: VocFolder = None,
    split: VocSplit = None,
    coco: CocoFile = None,
    iou: Annotated[
        list[float] | None, typer.Option(help="VOC AP at this IoU too, beside .5; repeatable.")
    ] = None,
    max_dets: Annotated[
        int, typer.Option(min=11, help="Detections an image and class that COCO's figures look at.")
    ] = 100,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
    csv_out: Annotated[Path | None, typer.Option("--csv", help="One line a figure.")] = None,
    markdown_out: Annotated[Path | None, typer.Option("--markdown", help="As tables.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that shows every image there.")] = None,
    images: ImageFolder = None,
    follow_links: FollowLinks = False,
) -> None:
    """Score detections: the 12 COCO figures, and VOC AP by area and by 11 points; of every class too.

    Of VOC's matching at IoU .5 also each class's best score threshold, and how many errors of each kind there
    are at it.
    """
    from spp_det.commands.report import Truth, score, write_report
    from spp_det.report.figures import figures_csv, figures_markdown
    from spp_det.runtime.cache import write_json, write_whole

    truth = Truth(voc, split, coco, images, follow_links)
    evaluation = score(detections, truth, ious=iou or (), max_dets=max_dets)
    figures = evaluation.figures()
    show_figures(figures)
    if json_out is not None:
        write_json(json_out, figures)
    if csv_out is not None:
        write_whole(csv_out, figures_csv(figures))
    if markdown_out is not None:
        write_whole(markdown_out, figures_markdown(figures))
    if html is not None:
        write_report(html, detections, evaluation)
        say(f"page: {escape(str(html))}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="What train wrote, or any folder that detect wrote.")],
    voc: VocFolder = None,
    split: VocSplit = None,
    coco: CocoFile = None,
    images: ImageFolder = None,
    out: Annotated[Path | None, typer.Option(help="The page; RUN/report.html if not given.")] = None,
    follow_links: FollowLinks = False,
) -> None:
    """Write one page that shows figures, curves, every error and every image: opens from disk, no network.

    RUN is compared with the test data of its training, if neither --voc nor --coco names another.
    """
    from spp_det.commands.report import Truth, run_report

    page = run_report(run, Truth(voc, split, coco, images, follow_links), out)
    say(f"[bold green]wrote[/] {escape(str(page))}")


@app.command("proposals")
def propose(
    voc: Annotated[Path, typer.Option(help="A Pascal VOC folder.")],
    split: Annotated[str, typer.Option(help="The VOC split.")] = "test",
    recall: Annotated[
        bool, typer.Option("--recall", help="Hold the windows against the objects instead of writing them.")
    ] = False,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="fast, paper, quality, edgeboxes or file; repeatable with --recall."),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Search in copies shrunk to this longer side in pixels.")
    ] = None,
    proposals: ProposalFile = None,
    edge_model: EdgeModel = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the windows, .npz or .json; with --recall for its figures, .json."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="A run's cache folder, to read from and add to.")] = None,
    workers: Workers = 0,
    strict: Strict = False,
    follow_links: FollowLinks = False,
) -> None:
    """Write the windows of a data set to a file, or report how many of its objects they cover."""
    from spp_det.commands.proposals import chosen, recall_figures, write_windows
    from spp_det.data.voc import read_voc
    from spp_det.report.tables import recall_table
    from spp_det.runtime.cache import Cache, write_json

    searches = chosen(mode or (), max_side, proposals, edge_model)
    kept = None if cache is None else Cache(cache)
    if recall:
        if out is not None and out.suffix.lower() != ".json":
            raise UserError(f"{out}: the figures of --recall are written to a .json file")
        figures = recall_figures(
            read_voc(voc, split, follow_links=follow_links), searches, kept, workers, strict
        )
        show(recall_table(figures))
        say_skipped(figures["skipped"])
        if out is not None:
            write_json(out, figures)
            say(f"figures: {escape(str(out))}")
        return
    if out is None:
        raise UserError("say where to write the windows, --out FILE.npz or .json, or ask for --recall")
    if len(searches) != 1:
        raise UserError("a file holds the windows of one --mode; several are for --recall")
    dataset = read_voc(voc, split, follow_links=follow_links)
    done = write_windows(dataset, searches[0], out, kept, workers, strict)
    say_skipped(done.skipped)
    windows = sum(map(len, done.windows))
    say(f"[bold green]wrote[/] {windows} windows of {len(done.records)} images: {escape(str(out))}")


@app.command()
def inspect(
    image: Annotated[Path, typer.Argument(help="The image to look at.")],
    model: Annotated[Path, typer.Option(help="A model.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and inspection.json.")],
    filters: Annotated[
        str | None, typer.Option(help="Of conv5, as 3,17; those that respond most in the image if not given.")
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(help="Images (folder, pattern, list) to seek their strongest activations in."),
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="x1,y1,x2,y2 in pixels; the one that scores highest if not given.")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Whose score to explain; the highest if not given.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    follow_links: FollowLinks = False,
) -> None:
    """Draw what conv5 sees: filters at their strongest, a window's cells and bins, which bins say yes."""
    import numpy as np

    from spp_det.commands.inspect import inspect_image
    from spp_det.data.folder import find_images
    from spp_det.model.detector import Detector

    numbers = box = None
    if filters is not None:
        numbers = _comma_separated(filters, int, "--filters", "numbers of filters, as 3,17")
    if window is not None:
        box = np.array(_comma_separated(window, float, "--window", "x1,y1,x2,y2 in pixels"), np.float32)
    paths = [] if over is None else find_images([over], follow_links=follow_links)
    detector = Detector.load(model, device, precision)
    inspection = inspect_image(
        detector, image, out, filters=numbers, over=paths, window=box, class_name=class_name
    )
    seen = inspection.seen
    name, score = escape(detector.classes[seen.label]), seen.scores[seen.label]
    say(f"window {', '.join(f'{value:g}' for value in seen.window)}: {name} {score:.2f}")
    if seen.contributions is None:
        say("no contributions of bins: this model does not score windows by SVMs on pool5 itself")
    for picture in inspection.pictures:
        say(f"[bold green]drawn[/] {escape(str(picture))}")
    say_skipped(inspection.skipped)


@app.command()
def download(
    folder: Annotated[Path, typer.Argument(help="Where VOCdevkit is to lie.")],
    splits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPLIT]...",
            help="VOC2007:trainval, VOC2007:test, VOC2012:trainval; the first two if none.",
        ),
    ] = None,
) -> None:
    """Fetch Pascal VOC through torchvision; what is there already is left alone."""
    from spp_det.data.download import DEVKIT, download_voc

    download_voc(folder, splits or ["VOC2007:trainval", "VOC2007:test"])
    say(f"[bold green]there[/]: {escape(str(folder / DEVKIT))}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data, the model and the pictures.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Generate photos, pre-train a small network, train, detect and evaluate: minutes, no download."""
    from spp_det.commands.demo import run_demo

    result = run_demo(out, seed, lambda: log_to(out / "train.log"))
    show_figures(result.figures)
    say("These photos are [bold]generated[/]: the figures test the pipeline and promise nothing for yours.")
    for name, path in result.places.items():
        say(f"{name:<9} {escape(str(path))}")


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(help="A recipe, such as configs/pretrain_small.yaml.")],
    overrides: Overrides = None,
    strict: Strict = False,
) -> None:
    """Train a backbone to classify images, a folder a class: backbone.safetensors for `train`.

    The same command goes on after an interruption. On N GPUs: torchrun --nproc-per-node N -m spp_det
    pretrain CONFIG.
    """
    from spp_det.commands.pretrain import run_pretraining
    from spp_det.config.file import load_config
    from spp_det.config.pretrain import PretrainConfig
    from spp_det.report.tables import classification_table
    from spp_det.runtime import distributed

    settings = load_config(config, _overridden(overrides, strict), kind=PretrainConfig)
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


@app.command()
def cache(
    folder: Annotated[Path, typer.Argument(help="A run's cache folder, OUTPUT/cache.")],
    prune: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Remove that of a stage, or all.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only what was not used for so long.")
    ] = None,
) -> None:
    """Show what a cache holds, or remove some of it; a run that misses something computes it again."""
    from spp_det.report.tables import cache_table
    from spp_det.runtime.cache import Cache

    kept = Cache(folder)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    stages = kept.stages()
    if prune is None:
        if older_than is not None:
            raise UserError("--older-than goes with --prune STAGE or --prune all")
    elif prune != "all" and prune not in stages:
        raise UserError(f"{folder} holds nothing of {prune!r}; it has {', '.join(stages) or 'no artefact'}")
    else:
        for stage in stages if prune == "all" else [prune]:
            gone = kept.prune(stage, older_than or 0.0)
            say(f"removed {gone.artefacts} artefacts of {stage}, {gone.bytes / 2**20:.1f} MiB")
    show(cache_table({stage: kept.usage(stage) for stage in stages}))


@app.command()
def ablate(
    config: Annotated[Path, typer.Argument(help="A recipe, such as configs/squeezenet_svm_5scale.yaml.")],
    overrides: Overrides = None,
    rows: Annotated[
        str | None, typer.Option(help="Only these: pool5,ft-fc7+bb at all scales, pool5-1sc at one.")
    ] = None,
    five: Annotated[
        str | None,
        typer.Option(help="The several scales; if not said the recipe's own, or 480,576,688,864,1200."),
    ] = None,
    strict: Strict = False,
) -> None:
    """Train and score the rows of the paper's table 9: pool5, fc6, ft-fc6, ft-fc7, +bb, at 1 and 5 scales.

    The same command goes on after an interruption, and with other --rows adds those to the table.
    """
    from spp_det.commands.ablate import run_ablation
    from spp_det.config.file import load_config
    from spp_det.report.ablation import ablation_table, missing_rows

    settings = load_config(config, _overridden(overrides, strict))
    try:
        scales = None if five is None else [int(scale) for scale in five.split(",")]
    except ValueError:
        raise UserError(f"--five: {five!r} is not a list of scales such as 480,576,688") from None
    goes_on(FROM_CACHE)
    figures = run_ablation(settings, scales, rows, lambda: log_to(settings.output / "train.log"))
    show(ablation_table(figures))
    for name, error in missing_rows(figures).items():
        say(f"[yellow]{escape(name)}:[/] {escape(error)}")
    say(f"table: {escape(str(settings.output / 'ablation.md'))}")


@app.command()
def benchmark(
    out: Annotated[Path, typer.Option(help="File for the figures as JSON.")] = Path("benchmark.json"),
    backbone: Annotated[str, typer.Option(help="The network of SPP-net and R-CNN alike.")] = "alexnet",
    device: Device = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Small, to see that it works.")] = False,
) -> None:
    """Time every stage beside what it replaces: roi_pool, OpenCV's own call, R-CNN. Minutes on a CPU."""
    from spp_det.commands.benchmark import run_benchmark
    from spp_det.report.tables import benchmark_table
    from spp_det.runtime.cache import write_json
    from spp_det.runtime.devices import choose_device

    figures = run_benchmark(backbone, str(choose_device(device)), quick)
    write_json(out, figures)
    show(benchmark_table(figures))
    say(f"figures: {escape(str(out))}")


def _comma_separated(text: str, kind: Callable[[str], T], option: str, wanted: str) -> list[T]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: must be {wanted}") from None


def _overridden(overrides: list[str] | None, strict: bool) -> list[str]:
    """The overrides of a recipe, with that of --strict, which goes over them."""
    return [*(overrides or []), *(["strict=true"] if strict else [])]


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    run_app(app)
