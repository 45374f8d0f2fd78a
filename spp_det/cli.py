"""The command line: gathers the commands of `spp_det.commands`, each of which declares its own options.

No command's module imports anything heavy at its top: what a command computes with is imported by its
functions. So ``--help`` and refusals answer at once, and `spp_det.commands.process` can set what torch reads
only when it is imported.
"""

from __future__ import annotations

import os
from typing import Annotated, NoReturn

import typer

from spp_det.commands.ablate import ablate
from spp_det.commands.benchmark import benchmark
from spp_det.commands.cache import cache
from spp_det.commands.convert import convert
from spp_det.commands.demo import demo
from spp_det.commands.detect import detect
from spp_det.commands.download import download
from spp_det.commands.evaluate import evaluate
from spp_det.commands.info import info
from spp_det.commands.inspect import inspect
from spp_det.commands.inspect_data import inspect_data
from spp_det.commands.pretrain import pretrain
from spp_det.commands.process import run_app
from spp_det.commands.proposals import proposals
from spp_det.commands.report import report
from spp_det.commands.serve import serve
from spp_det.commands.suggest import suggest
from spp_det.commands.train import train
from spp_det.commands.tune import tune
from spp_det.errors import UserError
from spp_det.version import __version__

COMMANDS = (
    *(inspect_data, train, detect, evaluate, report, proposals, inspect, serve),
    *(tune, suggest, convert, info, download, demo, pretrain, cache, ablate, benchmark),
)
BY_SEVERAL = ("train", "detect", "pretrain")  # commands that several processes (torchrun) can share

app = typer.Typer(
    name="spp-det",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="SPP-net object detection: train on your own photos, detect, and score the result.",
)
for command in COMMANDS:
    app.command()(command)


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"spp_det {__version__}")
        raise typer.Exit
    name = context.invoked_subcommand
    if name is None:
        print(context.get_help())
        raise typer.Exit(2)
    if name not in BY_SEVERAL and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"{name} is the work of one process: start it without torchrun")


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    run_app(app)
