#!/usr/bin/env python3
"""Pre-train on generated photos at two sizes and at one, and test both networks at five (P section 2.3).

python scripts/pretrain_sizes.py OUT [section.key=value ...]
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from rich.console import Console

from spp_det.commands.pretrain import run_pretraining
from spp_det.config.file import load_config
from spp_det.config.pretrain import PretrainConfig
from spp_det.data.class_folder import write_class_folder
from spp_det.data.synthetic import CLASSES, generate_voc
from spp_det.data.voc import read_voc
from spp_det.report.tables import classification_table

RECIPE = "pretrain_small"
PHOTOS = {"train": 700, "test": 250}
PHOTO_SIZES = ((640, 480), (480, 640))  # so that objects come near the sizes of the crops
SIZES = {"multi-size": "[180, 224]", "single-size": "[224]"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the photos and the networks")
    parser.add_argument(
        "--photos", type=int, nargs=2, default=tuple(PHOTOS.values()), help="to train, to test"
    )
    parser.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="of configs/pretrain_small.yaml"
    )
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)

    photos, images = options.out / "photos", options.out / "images"
    generate_voc(photos, dict(zip(PHOTOS, options.photos, strict=True)), sizes=PHOTO_SIZES)
    for split in PHOTOS:
        count = write_class_folder(read_voc(photos, split, CLASSES), images / split)
        print(f"{count} objects to {split}")
    for name, sizes in SIZES.items():
        places = [f"data.root={images}", f"output={options.out / name}", f"train.sizes={sizes}"]
        config = load_config(RECIPE, [*options.overrides, *places], kind=PretrainConfig)
        test = run_pretraining(config)["test"]
        print(f"{name}, trained at {sizes}")
        Console().print(classification_table({view: test[view] for view in config.test.views}))


if __name__ == "__main__":
    main()
