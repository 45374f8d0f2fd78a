"""The configuration: what is accepted, and the one line that says why something is not."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spp_det.config import Config, differences, dotted, dump_config, load_config, parse_config
from spp_det.errors import UserError
from spp_det.training.pretrain_config import PretrainConfig

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def empty(tmp_path) -> Path:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing but defaults\n")
    return path


def refusal(path: Path, *overrides: str) -> str:
    """The message, one line, with which a config is refused."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- what is accepted


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
    assert {"squeezenet_svm", "pretrain_small", *voc} <= {path.stem for path in RECIPES}


def test_an_empty_file_is_the_defaults(empty):
    assert load_config(empty) == Config()


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("output=runs/mine", lambda c: c.output == Path("runs/mine")),
        ("data.root=/photos/of = mine", lambda c: c.data.root == Path("/photos/of = mine")),
        ("data.test=test", lambda c: c.data.test == "test"),
        ("data.test=null", lambda c: c.data.test is None),
        ("data.train=VOC2007:trainval", lambda c: c.data.train == "VOC2007:trainval"),
        ("data.train=[a:train, b:train]", lambda c: c.data.train == ("a:train", "b:train")),
        ("data.classes=[cat, dog]", lambda c: c.data.classes == ("cat", "dog")),
        ("seed=7", lambda c: c.seed == 7),
        ("strict=true", lambda c: c.strict is True),
        ("backbone.scales=[480, 688]", lambda c: c.backbone.scales == (480, 688)),
        ("fc.layer=fc7", lambda c: c.fc.layer == "fc7"),
        ("fc.rank=[1024, 256]", lambda c: c.fc.rank == (1024, 256)),
        ("fc.rank=null", lambda c: c.fc.rank is None),
        ("finetune.steps=500", lambda c: c.finetune.steps == 500),
        ("svm.C=0.01", lambda c: c.svm.C == 0.01),
        ("svm.C=1e-4", lambda c: c.svm.C == 1e-4),  # to YAML 1.1 a string
        ("svm.hard_score=-1", lambda c: c.svm.hard_score == -1.0),
        ("proposals={mode: file, file: a.mat}", lambda c: c.proposals.file == Path("a.mat")),
        ("proposals.max_side=500", lambda c: c.proposals.max_side == 500),
        ("bbox.enabled=off", lambda c: c.bbox.enabled is False),
        ("runtime.cache=/tmp/x", lambda c: c.runtime.cache == Path("/tmp/x")),
    ],
)
def test_an_override_has_the_type_of_its_key(empty, override, read):
    config = load_config(empty, [override])
    assert read(config)
    section = override.split("=")[0].split(".")[0]
    for name in Config.model_fields:
        if name != section:
            assert getattr(config, name) == getattr(Config(), name)


def test_overrides_go_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\nbackbone:\n  name: vgg16\n  scales: [480]\n")
    config = load_config(path, ["seed=2", "backbone.scales=[600]", "seed=3"])
    assert (config.seed, config.backbone.name, config.backbone.scales) == (3, "vgg16", (600,))


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError):
        Config().seed = 3
    with pytest.raises(ValidationError):
        Config().svm.C = 3.0


SIDES = st.lists(st.integers(16, 2400), min_size=1, max_size=5, unique=True).map(sorted)
TREES = st.fixed_dictionaries(
    {},
    optional={
        "output": st.text("aä /:#'\"-1", min_size=1, max_size=8),
        "seed": st.integers(0, 2**32 - 1),
        "strict": st.booleans(),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "train": st.text(min_size=0, max_size=8)
                | st.lists(st.text(max_size=8), min_size=1, max_size=3, unique=True),
                "test": st.none() | st.sampled_from(["test", "no", "null", "1", "1e3", "~", ""]),
                "classes": st.none() | st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True),
            },
        ),
        "backbone": st.fixed_dictionaries({"scales": SIDES, "weights": st.text(max_size=6)}),
        "fc": st.fixed_dictionaries(
            {"layer": st.sampled_from(["pool5", "fc6", "fc7"])},
            optional={"rank": st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999))},
        ),
        "svm": st.fixed_dictionaries({"C": st.floats(1e-300, 1e300), "hard_score": st.floats(-1e300, 1e300)}),
        "detection": st.fixed_dictionaries({"nms": st.floats(0, 1), "max_per_image": st.integers(1, 2**60)}),
    },
)


@settings(max_examples=60)
@given(TREES)
def test_what_is_dumped_loads_to_an_equal_config(tree):
    config = parse_config(tree, "test")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        assert load_config(path) == config


# ---------------------------------------------------------------- unknown keys


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("svm.positve_weight", "svm.positive_weight"),
        ("svm.c", "svm.C"),
        ("bbox.enable", "bbox.enabled"),
        ("backbone.scale", "backbone.scales"),
        ("data.root_folder", "data.root"),
        ("sed", "seed"),
        ("scales", "backbone.scales"),  # the right name without its section
        ("levels", "pyramid.levels"),
        ("detection.device", "runtime.device"),  # the right name in another section
        ("backbon.name", "backbone.name"),
        ("data.mode", "pyramid.mode"),  # of several such names the more similar
    ],
)
def test_an_unknown_key_suggests_the_nearest(empty, key, near):
    message = refusal(empty, f"{key}=1")
    assert f"unknown key {key.removesuffix('.name')}" in message
    assert f"did you mean {near}?" in message


def test_an_unknown_key_like_no_other_is_refused_without_a_guess(empty):
    message = refusal(empty, "zzzzzz=1")
    assert "unknown key zzzzzz" in message
    assert "did you mean" not in message


def test_an_unknown_key_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("svm: {tolerence: 0.1}\n")
    message = refusal(path)
    assert str(path) in message
    assert "did you mean svm.tolerance?" in message


# ---------------------------------------------------------------- values


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
        ("data.format=yolo", "'voc' or 'coco'"),
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
        ("proposals.file=windows.txt", "end in .mat, .npz, .json"),
        ("proposals.file=3", "path"),
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
def test_a_value_that_is_not_allowed_is_named_with_its_key_and_what_is(empty, override, allowed):
    key, _, text = override.partition("=")
    message = refusal(empty, override)
    value = yaml.safe_load(text)
    shown = value[0] if value in ([8], [0]) else value  # the item that is wrong
    assert f"{key} = {shown!r}: must " in message
    assert allowed in message


def test_files_of_coco_are_not_joined(empty):
    assert load_config(empty, ["data.format=coco", "data.train=a.json"]).data.train == "a.json"
    message = refusal(empty, "data.format=coco", "data.train=[a.json, b.json]")
    assert "data.train = ['a.json', 'b.json']: must be one file" in message


def test_a_window_cannot_be_positive_and_negative_of_one_class(empty):
    message = refusal(empty, "svm.positive_iou=0.25")
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
def test_proposals_from_elsewhere_need_their_file_and_a_file_its_mode(empty, overrides, said):
    assert f"{empty}: {said}" in refusal(empty, *(f"proposals.{override}" for override in overrides))


def test_fine_tuning_needs_fc_layers_and_the_softmax_needs_fine_tuning(empty):
    message = refusal(empty, "finetune.enabled=true")
    assert message.endswith("finetune: pool5 has no weights to fine-tune; set fc.layer=fc6 or fc.layer=fc7")
    for layer in ("fc6", "fc7"):
        overrides = (f"fc.layer={layer}", "finetune.enabled=true", "scorer=softmax")
        assert load_config(empty, overrides).scorer == "softmax"


def test_more_layers_may_be_fine_tuned_than_svms_see_but_not_fewer(empty):
    tuned = ("finetune.enabled=true", "finetune.layer=fc7", "fc.layer=fc6")
    assert load_config(empty, tuned).finetune.layer == "fc7"
    message = refusal(empty, *tuned, "scorer=softmax")
    assert "scorer = 'softmax': must be 'svm' unless fc.layer is finetune.layer; set fc.layer=fc7" in message
    message = refusal(empty, "finetune.enabled=true", "finetune.layer=fc6", "fc.layer=fc7")
    assert message.endswith("finetune: finetune.layer must not come before fc.layer; set finetune.layer=fc7")


# ---------------------------------------------------------------- files and overrides that cannot be read


@pytest.mark.parametrize(
    "override",
    ["seed", "=3", ".=3", "svm.=3", ".seed=3", "svm..C=3", "", "svm.C=[1", "seed.deep=1", "svm.C.x=1"],
)
def test_an_override_that_cannot_be_read_is_named(tmp_path, override):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\nsvm: {C: 1.0}\n")
    assert repr(override) in refusal(path, override)


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "\tx: 1", "{", "a: !!python/object:os.system x", "&a *b"]
)
def test_what_is_not_yaml_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    message = refusal(path)
    assert f"{path} is not YAML" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "3"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "list.yaml"
    path.write_text(text)
    assert "mapping of sections" in refusal(path)


def test_keys_that_are_no_names_are_refused(tmp_path):
    path = tmp_path / "odd.yaml"
    for text in ("3: x\n", "null: x\n", "svm: {1: 2}\n", "true: 1\n"):
        path.write_text(text)
        assert str(path) in refusal(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    for path in (tmp_path / "absent.yaml", tmp_path, binary):
        assert f"cannot read the config {path}" in refusal(path)


def test_two_configurations_differ_by_the_keys_that_differ():
    before = Config()
    now = parse_config({"seed": 1, "svm": {"C": 0.01}, "backbone": {"scales": [480]}}, "test")
    assert differences(dotted(before), dotted(before)) == ""
    assert set(differences(dotted(before), dotted(now)).split("; ")) == {
        "seed: 0 -> 1",
        "svm.C: 0.001 -> 0.01",
        "backbone.scales: [688] -> [480]",
    }
    assert differences({"a": 1}, {"b": None, "c": 2}) == "a: 1 -> None; c: None -> 2"
