"""Fine-tuning on small generated photos: it learns, touches fc layers alone, repeats itself and resumes."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spp_det.config.settings import FineTune, Proposals
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.model.backbone import Backbone
from spp_det.model.features import SPPFeatures
from spp_det.model.head import FCHead
from spp_det.model.rcnn import RCNNFeatures
from spp_det.runtime.cache import Cache, digest
from spp_det.training import checkpoint
from spp_det.training import finetune as module
from spp_det.training.batches import Batch
from spp_det.training.finetune import finetune
from spp_det.training.images import TrainingImages
from spp_det.training.keys import finetune_key
from tests.vectors import spp_features

CLASSES = ("a", "b", "c", "d", "e", "f")
KEY = digest("a key")
SHORT = FineTune(
    batch=32, learning_rate=1e-3, steps=20, last_steps=4, held_out=0.2, log_every=8, checkpoint_every=5
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("finetune") / "voc"
    generate_voc(root, {"trainval": 12}, seed=3, sizes=((130, 100), (100, 120)))
    return read_voc(root, "trainval")


@pytest.fixture(scope="module")
def features() -> SPPFeatures:
    return spp_features(Backbone("zf5_small"), (64, 128), 400, (3, 1), "max")


@pytest.fixture(scope="module")
def images(dataset, features, tmp_path_factory) -> TrainingImages:
    return TrainingImages(dataset, features, Proposals(), Cache(tmp_path_factory.mktemp("cache")), workers=2)


@pytest.fixture
def empty(images, tmp_path, monkeypatch) -> TrainingImages:
    """The same images, with a cache that knows of no fine-tuning yet: not even the maps' is asked."""
    maps = {index: images.maps(index) for index in range(len(images))}
    monkeypatch.setattr(images, "maps", maps.__getitem__)
    monkeypatch.setattr(images, "cache", Cache(tmp_path / "cache"))
    return images


def head_of(images: TrainingImages, layer="fc7", width=64, seed=0) -> FCHead:
    return FCHead(layer, images.features.dimension, width, seed)


def tune(images, settings=SHORT, seed=0, head=None, key="key"):
    """The trained head's and scorer's tensors, and the figures."""
    head = head or head_of(images)
    key = finetune_key(key, head, CLASSES, settings, seed)
    scorer, figures = finetune(images, key, head, CLASSES, settings, seed)
    return {**head.layers.state_dict(), "weight": scorer.weight, "bias": scorer.bias}, figures


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_threads_moves_the_weights_by_rounding_alone(empty, count):
    """To 1e-6 after 24 steps, as docs/numbers.md says: products here are shared by all threads."""
    before, (expected, _) = torch.get_num_threads(), tune(empty)
    empty.cache.prune("finetune")
    torch.set_num_threads(count)
    try:
        found, _ = tune(empty)
    finally:
        torch.set_num_threads(before)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- learning


def test_the_loss_falls_below_what_the_proportions_alone_tell(empty):
    """Shapes in clutter are hard for random conv5; accuracy is for tests/end_to_end, with easier ones."""
    lively = {"learning_rate": 1e-3, "dropout": 0.0, "steps": 80, "last_steps": 20, "batch": 64}
    _, figures = tune(empty, SHORT.model_copy(update=lively | {"log_every": 25}))
    log = figures["log"]
    assert [row["step"] for row in log] == [0, 25, 50, 75, 100]
    assert figures["held_out_images"] == 2
    assert log[0]["loss"] is None
    assert log[0]["held_out_loss"] == pytest.approx(np.log(7), abs=0.5)  # nothing is known yet
    assert log[-1]["loss"] < log[1]["loss"] < log[0]["held_out_loss"]
    assert log[-1]["held_out_loss"] < log[0]["held_out_loss"]
    assert log[-1]["loss"] < -0.75 * np.log(0.75) - 0.25 * np.log(0.25 / 6)  # six classes, one as frequent
    assert {"accuracy", "held_out_accuracy", "held_out_object_accuracy"} <= log[-1].keys()


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_the_gradient_reaches_the_fc_layers_and_nothing_else(empty, layer):
    before = empty.features.backbone.digest()
    head = head_of(empty, layer)
    start = {name: tensor.clone() for name, tensor in head.layers.state_dict().items()}
    found, _ = tune(empty, head=head)
    assert empty.features.backbone.digest() == before
    assert not any(p.requires_grad or p.grad is not None for p in empty.features.backbone.parameters())
    for name, tensor in start.items():
        assert not torch.equal(found[name], tensor), name
    assert found["weight"].shape == (7, 64)
    assert found["bias"].any()


def test_the_head_comes_back_frozen_in_evaluation_mode_and_finite(empty):
    head = head_of(empty)
    found, _ = tune(empty, head=head)
    assert not head.training
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert all(tensor.isfinite().all() and not tensor.requires_grad for tensor in found.values())


def test_a_step_is_one_of_gradient_descent_with_momentum_by_hand(empty):
    """Without dropout: weights, loss and momentum of two steps, from the batches that were drawn."""
    settings = SHORT.model_copy(update={"dropout": 0.0, "steps": 1, "last_steps": 1, "held_out": 0.0})
    batches = []
    examples = module._examples

    def spy(images: TrainingImages, batch: Batch):
        batches.append(examples(images, batch))
        return batches[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_examples", spy)
        head = head_of(empty, "fc6")
        network = module._Network(head_of(empty, "fc6"), 7, 0.0, 0).requires_grad_(True)
        found, figures = tune(empty, settings, head=head)
    momentum = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    losses = []
    for rate, (vectors, labels) in zip((1e-3, 1e-4), batches, strict=True):
        loss = torch.nn.functional.cross_entropy(network(vectors), labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for (name, p), gradient in zip(network.named_parameters(), gradients, strict=True):
                momentum[name] = 0.9 * momentum[name] + gradient + 5e-4 * p
                p -= rate * momentum[name]
    torch.testing.assert_close(found["fc6.weight"], network.head.layers["fc6"].weight.detach())
    torch.testing.assert_close(found["weight"], network.fc8.weight.detach())
    assert figures["log"][-1]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert "held_out_loss" not in figures["log"][-1]


def test_dropout_is_for_the_steps_and_not_for_the_measuring(empty):
    with_it, figures = tune(empty)
    without, others = tune(empty, SHORT.model_copy(update={"dropout": 0.0}))
    assert not equal(with_it, without)
    assert figures["log"][0] == others["log"][0]
    assert figures["log"][1]["loss"] > others["log"][1]["loss"]


def test_what_is_measured_last_is_the_network_that_comes_back(empty, monkeypatch):
    held_out = []
    draw = module._held_out
    monkeypatch.setattr(module, "_held_out", lambda *a: held_out.append(draw(*a)) or held_out[0])
    head = head_of(empty)
    found, figures = tune(empty, head=head)
    ((vectors, labels),) = held_out
    assert (labels == 6).float().mean() == pytest.approx(0.75, abs=0.01)
    logits = torch.nn.functional.linear(head(vectors.float()), found["weight"], found["bias"])
    row = figures["log"][-1]
    right = logits.argmax(dim=1) == labels
    assert row["held_out_loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4
    )
    assert row["held_out_accuracy"] == pytest.approx(float(right.float().mean()))
    assert row["held_out_object_accuracy"] == pytest.approx(float(right[labels < 6].float().mean()))


def network_of(vectors: torch.Tensor) -> module._Network:
    torch.manual_seed(0)
    network = module._Network(FCHead("fc7", vectors.shape[1], 5), 3, dropout=0.0, seed=0)
    torch.nn.init.normal_(network.fc8.weight)
    return network.requires_grad_(True)


def test_a_centred_network_is_the_same_function_and_so_is_one_that_is_centred_no_more():
    vectors = torch.rand(40, 12) + 3
    network = network_of(vectors)
    plain = network(vectors)
    network.centre_on(vectors.mean(0))
    assert network.head.linear("fc6").bias.abs().max() > 1
    torch.testing.assert_close(network(vectors), plain, rtol=1e-4, atol=1e-4)
    network.centre_on(torch.zeros(12))
    torch.testing.assert_close(network.head.linear("fc6").bias, torch.zeros(5), rtol=0, atol=1e-4)


def test_a_centred_networks_gradient_leaves_out_what_all_vectors_have_in_common():
    """By hand: of W (x - m) + c the gradient is that of W x + b less, for each output, b's times m."""
    vectors = torch.rand(40, 12) + 3
    gradients = []
    for centre in (torch.zeros(12), vectors.mean(0)):
        network = network_of(vectors)
        network.centre_on(centre)
        network(vectors).square().sum().backward()
        fc6 = network.head.linear("fc6")
        gradients.append((fc6.weight.grad, fc6.bias.grad))
    (plain, of_bias), (centred, _) = gradients
    torch.testing.assert_close(centred, plain - torch.outer(of_bias, vectors.mean(0)), rtol=1e-3, atol=0.1)


def test_what_is_centred_comes_back_as_layers_for_vectors_as_they_are(empty, monkeypatch):
    """The last loss in the log, which the centred network had, is that of the head that comes back."""
    seen = []
    held_out = module._held_out
    monkeypatch.setattr(module, "_held_out", lambda *a: seen.append(held_out(*a)) or seen[-1])
    head = head_of(empty)
    scorer, figures = finetune(empty, KEY, head, CLASSES, SHORT.model_copy(update={"centre": True}), 0)
    vectors, targets = seen[0]
    logits = head(vectors.float()) @ scorer.weight.T + scorer.bias
    loss = float(torch.nn.functional.cross_entropy(logits, targets))
    assert loss == pytest.approx(figures["log"][-1]["held_out_loss"], rel=1e-4)


def test_fc8_starts_with_the_papers_sigma():
    weight = module._Network(FCHead("fc6", 8, 500), 20, 0.5, 0).fc8.weight
    assert float(weight.detach().std()) == pytest.approx(0.01, rel=0.05)


# ---------------------------------------------------------------- what a step sees


def test_examples_are_the_windows_at_their_scales_some_mirrored(images, features):
    rng = np.random.default_rng(0)
    index = np.sort(rng.integers(0, 3, 40))
    windows = np.array([rng.integers(len(images.windows()[i].boxes)) for i in index])
    batch = Batch(index, windows, np.arange(40), rng.integers(0, 2, 40), rng.random(40) < 0.5, seed=0)
    vectors, labels = module._examples(images, batch)
    assert labels.tolist() == list(range(40))
    for row, (i, window) in enumerate(zip(index, windows, strict=True)):
        conv_map = images.maps(i)[batch.scales[row]]
        alone = spp_features(features.backbone, (64,), 400, (3, 1), "max")
        box = images.windows()[i].boxes[[window]]
        expected = alone.vectors([conv_map], box).make(np.array([0])).view(10, -1)
        if batch.mirrored[row]:
            grid = expected[:9].view(3, 3, -1).flip(1).reshape(9, -1)
            expected = torch.cat([grid, expected[9:]])
        assert torch.equal(vectors[row], expected.flatten())


def test_held_out_images_are_never_trained_on(empty, monkeypatch):
    seen = {"training": set(), "held out": set()}
    examples, draw = module._examples, module._held_out

    def spy(images: TrainingImages, batch: Batch):
        seen["training"] |= set(batch.images.tolist())
        return examples(images, batch)

    def other_spy(images, sampler, watched):
        seen["held out"] = set(watched.tolist())
        return draw(images, sampler, watched)

    monkeypatch.setattr(module, "_examples", spy)
    monkeypatch.setattr(module, "_held_out", other_spy)
    tune(empty)
    assert len(seen["held out"]) == 2
    assert seen["training"] == set(range(12)) - seen["held out"]


def test_windows_that_pass_the_network_one_by_one_can_be_learnt_from(dataset, tmp_path):
    present, labels = np.unique(
        np.concatenate([record.labels for record in dataset.records[:2]]), return_inverse=True
    )
    first, second = dataset.records[:2]
    parts = np.split(labels, [len(first)])
    records = [replace(record, labels=part) for record, part in zip((first, second), parts, strict=True)]
    few = Dataset(CLASSES[: len(present)], records)
    rcnn = RCNNFeatures(Backbone("zf5_small"))
    images = TrainingImages(few, rcnn, Proposals(max_side=60), Cache(tmp_path), workers=1)
    settings = SHORT.model_copy(update={"steps": 2, "last_steps": 0, "batch": 8, "held_out": 0.0})
    scorer, _ = finetune(images, KEY, head_of(images, "fc6", 8), few.classes, settings, 0)
    assert scorer.weight.isfinite().all()


# ---------------------------------------------------------------- the same bytes


def test_the_same_seed_gives_the_same_bytes_whatever_the_random_state(images, tmp_path, monkeypatch):
    results = []
    for run in range(2):
        monkeypatch.setattr(images, "cache", Copied(images.cache.folder, tmp_path / str(run)))
        torch.rand(run + 1)
        results.append(tune(images))
        monkeypatch.undo()
    assert equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


class Copied(Cache):
    """Maps from one folder, the rest in another."""

    def __init__(self, maps, folder) -> None:
        super().__init__(folder)
        self.maps = Cache(maps)

    def load(self, stage, key):
        return self.maps.load(stage, key) if stage == "maps" else super().load(stage, key)


def test_another_seed_gives_other_weights(empty):
    assert not equal(tune(empty)[0], tune(empty, seed=1)[0])


def test_the_random_state_of_the_program_is_left_alone(empty):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tune(empty)
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------- stopping and going on


class StoppedError(Exception):
    pass


def stop_after(steps: int, monkeypatch) -> None:
    """The step after so many fails, as when somebody interrupts."""
    step = module._Training.step

    def stopping(self, vectors, targets, number):
        if number == steps:
            raise StoppedError
        step(self, vectors, targets, number)

    monkeypatch.setattr(module._Training, "step", stopping)


@pytest.mark.parametrize("centre", [False, True], ids=["plain", "centred"])
@pytest.mark.parametrize("steps", [3, 7, 15, 21], ids=lambda n: f"after {n}")
def test_a_training_that_was_stopped_ends_in_the_same_bytes_and_the_same_log(empty, tmp_path, steps, centre):
    """Checkpoints are at 5, 10, 15 and 20, rows of the log at 8, 16 and 24: some of each are between."""
    settings = SHORT.model_copy(update={"centre": centre})
    whole, figures = tune(empty, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(empty, "cache", Cache(tmp_path / "stopped"))
        patch.setattr(checkpoint, "EVERY", float("inf"))  # none by the clock, however busy the machine is
        with pytest.MonkeyPatch.context() as stopping:
            stop_after(steps, stopping)
            with pytest.raises(StoppedError):
                tune(empty, settings)
        began = []
        step = module._Training.step
        patch.setattr(module._Training, "step", lambda self, *a: began.append(a[2]) or step(self, *a))
        resumed, resumed_figures = tune(empty, settings)
    assert equal(resumed, whole)
    assert resumed_figures == figures
    assert began == list(range(steps // 5 * 5, 24))


@pytest.mark.parametrize(
    ("device", "precision", "rounds"),
    [
        ("cuda", "float16", True),
        ("cuda", "bfloat16", True),
        ("cuda", "float32", False),
        ("cpu", "bfloat16", False),
    ],
)
def test_products_are_rounded_where_a_gpus_network_computes_in_16_bits(device, precision, rounds):
    network = SimpleNamespace(
        mean=SimpleNamespace(device=torch.device(device)), precision=getattr(torch, precision)
    )
    assert module.rounds(network) is rounds


def test_rounded_products_teach_nearly_the_same_float32_weights(empty, monkeypatch, tmp_path):
    exact = tune(empty)
    monkeypatch.setattr(module, "rounds", lambda _network: True)
    monkeypatch.setattr(empty, "cache", Cache(tmp_path / "another"))
    rounded = tune(empty)
    assert not equal(rounded[0], exact[0])
    for name, tensor in exact[0].items():
        assert rounded[0][name].dtype == torch.float32
        torch.testing.assert_close(rounded[0][name], tensor, rtol=0, atol=3e-3)
    for row, other in zip(rounded[1]["log"], exact[1]["log"], strict=True):
        assert row["held_out_loss"] == pytest.approx(other["held_out_loss"], abs=0.03)


def test_the_log_says_how_many_steps_a_second_there_were(empty, caplog, monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        tune(empty)
    paces = [message.rpartition(", ")[2] for message in caplog.messages if "fine-tuning: step" in message]
    assert paces == ["0.0 steps/s", *["4.0 steps/s"] * 3]  # rows at 0, 8, 16 and 24, two ticks apart


def test_a_finished_training_is_only_read(empty, monkeypatch, caplog):
    whole = tune(empty)
    stop_after(0, monkeypatch)
    with caplog.at_level(logging.INFO):
        again = tune(empty)
    assert equal(again[0], whole[0])
    assert again[1] == whole[1]
    assert len(list((empty.cache.folder / "finetune").rglob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"settings": SHORT.model_copy(update={"dropout": 0.4})},
        {"settings": SHORT.model_copy(update={"log_every": 9})},
        {"seed": 1},
        {"key": "other maps"},
        {"head": 1},
    ],
    ids=["settings", "log", "seed", "maps", "start"],
)
def test_whatever_changes_the_result_starts_anew(empty, monkeypatch, change):
    tune(empty)
    stop_after(0, monkeypatch)
    if "head" in change:
        change = {"head": head_of(empty, seed=1)}
    with pytest.raises(StoppedError):
        tune(empty, **change)


def test_how_often_a_checkpoint_is_written_changes_nothing(empty, monkeypatch):
    tune(empty)
    stop_after(0, monkeypatch)
    tune(empty, SHORT.model_copy(update={"checkpoint_every": 2}))


def test_the_images_key_tells_labels_and_windows_apart(dataset, features, images):
    def key(records) -> str:
        changed = Dataset(dataset.classes, records)
        return TrainingImages(changed, features, Proposals(), images.cache, workers=2).key()

    records = list(dataset.records)
    same = key(records)
    assert same == images.key()
    assert key(records[:-1]) != same
    assert key(records[::-1]) != same
    relabelled = read_voc(records[0].path.parents[1], "trainval").records
    relabelled[0].labels[0] = (relabelled[0].labels[0] + 1) % 6
    assert key(relabelled) != same
    relabelled[0].labels[0] = records[0].labels[0]
    assert key(relabelled) == same
    relabelled[0].difficult[0] = True
    assert key(relabelled) != same


# ---------------------------------------------------------------- what cannot be learnt


def test_a_loss_that_is_not_finite_names_the_learning_rate(empty):
    with pytest.raises(UserError, match=r"finetune\.learning_rate = 1e\+20: .* lower it"):
        tune(empty, SHORT.model_copy(update={"learning_rate": 1e20}))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("step", np.array(99)),
        ("sums", np.zeros(2)),
        ("log", np.frombuffer(b'"x"', np.uint8)),
        ("weights.fc8.weight", np.full((7, 64), np.nan, np.float32)),
        ("momentum.fc8.bias", np.zeros(7)),
        ("centre", None),
    ],
)
def test_a_checkpoint_of_another_form_is_said_and_begun_anew(empty, caplog, name, array):
    """It has the key and a right checksum: nothing but its content tells."""
    whole, figures = tune(empty)
    (path,) = (empty.cache.folder / "finetune").rglob("*.safetensors")
    arrays = empty.cache.load("finetune", path.stem)
    del arrays[name]
    empty.cache.store("finetune", path.stem, arrays if array is None else arrays | {name: array})
    again, again_figures = tune(empty)
    assert equal(again, whole)
    assert again_figures == figures
    assert f"{path} is not what it should be" in caplog.text
