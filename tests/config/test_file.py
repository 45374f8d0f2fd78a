"""Files of settings and overrides: what is read, and the one line that says why something is not."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.config.file import differences, dotted, dump_config, load_config, parse_config
from spp_det.config.settings import Config
from tests.refusals import refusal

# ---------------------------------------------------------------- what is accepted


def test_an_empty_file_is_the_defaults(empty_config):
    assert load_config(empty_config) == Config()


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
def test_an_override_has_the_type_of_its_key(empty_config, override, read):
    config = load_config(empty_config, [override])
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("svm:\n  C: 0.003\nseed: 1\nsvm:\n  bias: 9\n", "line 4: the key 'svm' is in line 1 already"),
        ("svm:\n  C: 0.003\n  bias: 9\n  C: 1\n", "line 4: the key 'C' is in line 2 already"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_lines(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert said in refusal(path)


def test_one_key_may_be_in_several_sections_and_a_byte_order_mark_before_all(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("\ufeffsvm:\n  norm: 3\nbbox:\n  norm: 4\n", encoding="utf-8")
    config = load_config(path)
    assert (config.svm.norm, config.bbox.norm) == (3, 4)


PATH_CHARACTERS = st.characters(exclude_characters="\0~", codec="utf-8")  # ~ is a user's home, or refused
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
                "train": st.text(PATH_CHARACTERS, max_size=8)
                | st.lists(st.text(max_size=8), min_size=1, max_size=3, unique=True),
                "test": st.none() | st.sampled_from(["test", "no", "null", "1", "1e3", "~", ""]),
                "classes": st.none() | st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True),
            },
        ),
        "backbone": st.fixed_dictionaries({"scales": SIDES, "weights": st.text(PATH_CHARACTERS, max_size=6)}),
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
def test_an_unknown_key_suggests_the_nearest(empty_config, key, near):
    message = refusal(empty_config, f"{key}=1")
    assert f"unknown key {key.removesuffix('.name')}" in message
    assert f"did you mean {near}?" in message


def test_an_unknown_key_like_no_other_is_refused_without_a_guess(empty_config):
    message = refusal(empty_config, "zzzzzz=1")
    assert "unknown key zzzzzz" in message
    assert "did you mean" not in message


def test_an_unknown_key_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("svm: {tolerence: 0.1}\n")
    message = refusal(path)
    assert str(path) in message
    assert "did you mean svm.tolerance?" in message


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


# ---------------------------------------------------------------- one beside another


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
