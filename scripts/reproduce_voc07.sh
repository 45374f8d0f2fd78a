#!/usr/bin/env bash
# Reproduce the paper on Pascal VOC 2007: set up, download, train, detect, evaluate, compare with the published.
#   bash scripts/reproduce_voc07.sh [RECIPE] [section.key=value ...]
# RECIPE is the name of a file in configs/, such as voc07_alexnet (the default) or voc0712_vgg16. Interrupted,
# the same command goes on. From the environment:
#   VOC=FOLDER       where VOCdevkit lies or is to be downloaded (data)
#   OUTPUT=FOLDER    for the cache, the model and the figures (runs/RECIPE)
#   DRY_RUN=1        print what it would run, and end there
#   SKIP_SETUP=1     use PYTHON (python3), where spp_det is installed already, instead of making .venv
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."

recipe=voc07_alexnet
if [ $# -gt 0 ] && [[ "$1" != *=* ]]; then
    recipe=$1
    shift
fi
config=configs/$recipe.yaml
if [ ! -f "$config" ]; then
    echo "reproduce_voc07: no recipe is called $recipe; there are $(CDPATH= cd -- configs && echo voc07*.yaml)" >&2
    exit 2
fi
voc=${VOC:-data}
output=${OUTPUT:-runs/$recipe}
settings=("data.root=$voc/VOCdevkit" "output=$output" "$@")
splits=(VOC2007:trainval VOC2007:test)
if [[ "$recipe" == voc0712* ]]; then
    splits+=(VOC2012:trainval)
fi

year=$voc/VOCdevkit/VOC2007
python=${PYTHON:-python3}
if [ -z "${SKIP_SETUP:-}" ]; then
    bash scripts/setup.sh
    python=.venv/bin/python
fi
spp_det() {
    printf '\n== spp-det %s\n' "$*"
    [ -n "${DRY_RUN:-}" ] || "$python" -m spp_det "$@"
}

"$python" scripts/voc07_report.py "$config" "${settings[@]}"
spp_det download "$voc" "${splits[@]}"
spp_det train "$config" "${settings[@]}" # ends in the detections of the test photos
spp_det evaluate "$output/test/detections.json" --voc "$year" --split test --json "$output/figures.json"
if [ -z "${DRY_RUN:-}" ]; then
    "$python" scripts/voc07_report.py "$config" "${settings[@]}" --figures "$output/figures.json"
fi
