"""The settings: the paper's by default, and refused in one line where they make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from spp_det.config.file import dotted, load_config
from spp_det.config.pretrain import PretrainConfig
from spp_det.config.settings import Config
from tests.refusals import refusal

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_the_defaults_are_valid_and_are_the_papers():
    config = Config()
    assert Config.model_validate(config.model_dump()) == config  # pydantic itself takes defaults on trust
    assert config.backbone.scales == (688,)
    assert config.pyramid.levels == (6, 3, 2, 1)
    assert config.svm.negative_iou == 0.3
    assert config.svm.duplicate_iou == 0.7
    assert config.detection.nms == 0.3
    assert (config.finetune.enabled, config.scorer) == (False, "svm")
    assert (config.finetune.batch, config.finetune.steps, config.finetune.last_steps) == (
        128,
        250_000,
        50_000,
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_every_line_of_it_differs_from_the_defaults(path):
    kind = PretrainConfig if path.stem.startswith("pretrain") else Config
    tree, config = yaml.safe_load(path.read_text(encoding="utf-8")), load_config(path, (), kind)
    defaults = kind()
    for key, value in tree.items():
        if not isinstance(value, dict):
            assert getattr(config, key) != getattr(defaults, key), key
            continue
        for name in value:
            assert getattr(getattr(config, key), name) != getattr(getattr(defaults, key), name), (
                f"{key}.{name}"
            )


def test_there_are_recipes():
    voc = {"voc07_alexnet", "voc07_zf5", "voc07_vgg16", "voc0712_vgg16"}
    voc |= {f"voc07_{name}{fc}" for name in ("squeezenet", "efficientnet_lite") for fc in ("", "_finetuned")}
    assert {"squeezenet_svm", "few_photos", "pretrain_small", *voc} <= {path.stem for path in RECIPES}


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError):
        Config().seed = 3
    with pytest.raises(ValidationError):
        Config().svm.C = 3.0


def test_networks_of_timm_have_a_choice_of_strides(empty_config):
    assert (
        load_config(empty_config, ["backbone.name=timm:resnet18", "backbone.stride=8"]).backbone.stride == 8
    )
    assert "4, 8, 16 or 32" in refusal(empty_config, "backbone={name: timm:resnet18, stride: 12}")


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("seed=-1", "greater than or equal to 0"),
        ("seed=4294967296", "less than 4294967296"),
        ("seed=1.5", "integer"),
        ("seed=many", "integer"),
        ("seed=yes", "true or false"),
        ("svm.C=on", "true or false"),
        ("strict=maybe", "boolean"),
        ("data.format=pascal", "'auto', 'voc', 'coco' or 'yolo'"),
        ("data.train=2007", "string"),
        ("data.train=[]", "at least one split"),
        ("data.train=[a, a]", "none twice"),
        ("data.train={a: b}", "a list of strings"),
        ("data.test=[a, b]", "string"),
        ("data.root=[a]", "path"),
        ("output=3", "path"),
        ("data.classes=[]", "at least one class"),
        ("data.classes=[cat, cat]", "none twice"),
        ("data.classes=cat", "list: [cat]"),
        ("proposals.mode=slow", "'fast', 'paper', 'quality', 'edgeboxes' or 'file'"),
        ("proposals.max_side=8", "greater than or equal to 16"),
        ("proposals.engine=fast", "'native' or 'opencv'"),
        ("proposals.file=windows.txt", "end in .mat, .npz, .json"),
        ("proposals.file=3", "path"),
        ("backbone.stride=8", "only timm:NAME has a choice of maps, alexnet has one stride"),
        ("backbone.scales=[]", "at least 1 item"),
        ("backbone.scales=[688, 480]", "ascend"),
        ("backbone.scales=[480, 480]", "ascend"),
        ("backbone.scales=[8]", "greater than or equal to 16"),
        ("backbone.scales=688", "list: [688]"),
        ("backbone.max_side=40000", "less than or equal to 32768"),
        ("backbone.max_side=600", "largest of backbone.scales, 688"),
        ("pyramid.levels=[]", "at least 1 item"),
        ("pyramid.levels=[0]", "greater than or equal to 1"),
        ("pyramid.mode=median", "'max' or 'average'"),
        ("fc.layer=fc8", "'pool5', 'fc6' or 'fc7'"),
        ("fc.width=0", "greater than or equal to 1"),
        ("fc.width=16385", "less than or equal to 16384"),
        ("fc.rank=512", "list of two ranks"),
        ("fc.rank=[512]", "list of two ranks"),
        ("fc.rank=[512, 256, 128]", "list of two ranks"),
        ("finetune.batch=1", "greater than or equal to 2"),
        ("finetune.positive_fraction=1", "less than 1"),
        ("finetune.negative_iou_high=0.6", "not exceed finetune.positive_iou, 0.5"),
        ("finetune.negative_iou_low=0.5", "below finetune.negative_iou_high, 0.5"),
        ("finetune.dropout=1", "less than 1"),
        ("finetune.held_out=0.6", "less than or equal to 0.5"),
        ("finetune.steps=0", "greater than or equal to 1"),
        ("finetune.enabled=2", "boolean"),
        ("scorer=logistic", "'svm' or 'softmax'"),
        ("scorer=softmax", "'svm' without fine-tuning; set finetune.enabled=true"),
        ("svm.C=0", "greater than 0"),
        ("svm.C=.nan", "finite"),
        ("svm.C=.inf", "finite"),
        ("svm.C=large", "number"),
        ("svm.C=", "number"),
        ("svm.negative_iou=1.5", "less than or equal to 1"),
        ("svm.positive_iou=0", "greater than 0"),
        ("detection.nms=-0.1", "greater than or equal to 0"),
        ("detection.max_per_image=0", "greater than or equal to 1"),
        ("runtime.workers=-1", "greater than or equal to 0"),
        ("svm=3", "a section"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key_and_what_is(empty_config, override, allowed):
    key, _, text = override.partition("=")
    message = refusal(empty_config, override)
    value = yaml.safe_load(text)
    shown = value[0] if value in ([8], [0]) else value  # the item that is wrong
    assert f"{key} = {shown!r}: must " in message
    assert allowed in message


def test_the_home_folder_may_be_written_as_a_tilde(empty_config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    paths = (
        "output",
        "data.root",
        "runtime.cache",
        "data.train",
        "data.test",
        "backbone.weights",
        "fc.weights",
    )
    config = load_config(empty_config, [f"{key}=~/x" for key in paths])
    found = dotted(config)
    assert {key: found[key] for key in paths} == dict.fromkeys(paths, "/home/ann/x")
    files = ["proposals.mode=file", "proposals.file=~/w.json"]
    assert load_config(empty_config, files).proposals.file == Path("/home/ann/w.json")
    edges = ["proposals.mode=edgeboxes", "proposals.edge_model=~/e.yml"]
    assert load_config(empty_config, edges).proposals.edge_model == Path("/home/ann/e.yml")
    assert load_config(empty_config, ["output=a~b/~"]).output == Path("a~b/~")
    assert "no home folder" in refusal(empty_config, "output=~nobody-is-called-so/x")


def test_a_window_cannot_be_positive_and_negative_of_one_class(empty_config):
    message = refusal(empty_config, "svm.positive_iou=0.25")
    assert "svm.negative_iou = 0.3: must not exceed svm.positive_iou, 0.25" in message


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["mode=file"], "proposals.file = None: must name a file, because proposals.mode is file"),
        (["mode=edgeboxes"], "proposals.edge_model = None: must name a file"),
        (["mode=edgeboxes", "file=a.mat"], "proposals.file = 'a.mat': must go with mode file, not edgeboxes"),
        (["file=a.mat"], "proposals.file = 'a.mat': must go with mode file, not fast"),
        (["edge_model=a.yml"], "proposals.edge_model = 'a.yml': must go with mode edgeboxes, not fast"),
    ],
)
def test_proposals_from_elsewhere_need_their_file_and_a_file_its_mode(empty_config, overrides, said):
    assert f"{empty_config}: {said}" in refusal(
        empty_config, *(f"proposals.{override}" for override in overrides)
    )


def test_fine_tuning_needs_fc_layers_and_the_softmax_needs_fine_tuning(empty_config):
    message = refusal(empty_config, "finetune.enabled=true")
    assert message.endswith("finetune: pool5 has no weights to fine-tune; set fc.layer=fc6 or fc.layer=fc7")
    for layer in ("fc6", "fc7"):
        overrides = (f"fc.layer={layer}", "finetune.enabled=true", "scorer=softmax")
        assert load_config(empty_config, overrides).scorer == "softmax"


def test_more_layers_may_be_fine_tuned_than_svms_see_but_not_fewer(empty_config):
    tuned = ("finetune.enabled=true", "finetune.layer=fc7", "fc.layer=fc6")
    assert load_config(empty_config, tuned).finetune.layer == "fc7"
    message = refusal(empty_config, *tuned, "scorer=softmax")
    assert "scorer = 'softmax': must be 'svm' unless fc.layer is finetune.layer; set fc.layer=fc7" in message
    message = refusal(empty_config, "finetune.enabled=true", "finetune.layer=fc6", "fc.layer=fc7")
    assert message.endswith("finetune: finetune.layer must not come before fc.layer; set finetune.layer=fc7")
