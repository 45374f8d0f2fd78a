"""fc6 and fc7: what they compute, at either precision, and the way back from their tensors."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spp_det.model.head import FCHead
from spp_det.model.pyramid import num_bins
from tests.heads import CHANNELS, WIDTH, normal, random_head

GRID = {"alexnet": 6, "vgg16": 7}
LEVELS = {"alexnet": (6, 3, 2, 1), "vgg16": (7, 3, 2, 1)}


# ---------------------------------------------------------------- forward


def test_it_is_frozen_and_in_evaluation_mode():
    head, vectors = random_head(), normal(3, 50 * CHANNELS)
    before = vectors.clone()
    found = head(vectors, dropout=0.5)
    assert not head.training
    assert not found.requires_grad
    assert found.shape == (3, WIDTH) == (3, head.dimension)
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    assert torch.equal(vectors, before)
    assert head(vectors[:0]).shape == (0, WIDTH)


@pytest.mark.parametrize("compress", [False, True])
def test_gradients_reach_every_weight(compress):
    head = random_head(width=40)
    head = (head.compressed((8, 8)) if compress else head).requires_grad_(True).train()
    head(normal(30, 50 * CHANNELS), dropout=0.5).square().sum().backward()
    assert len(list(head.parameters())) == (6 if compress else 4)
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_the_gradient_is_the_numerical_one():
    """Of the layers in double precision: the head itself computes in single."""
    head, vectors, factors = FCHead("fc7", 6, 5), normal(4, 6).requires_grad_(), normal(4, 5, seed=1)
    (head(vectors) * factors).sum().backward()
    layers = deepcopy(head.layers).double()

    def by_hand(x: Tensor) -> Tensor:
        for layer in layers.values():
            x = layer(x).clamp(min=0)
        return (x * factors).sum()

    exact, step = vectors.detach().double(), 1e-6
    for place in range(vectors.numel()):
        there = torch.zeros(vectors.numel(), dtype=torch.float64)
        there[place] = step
        there = there.view_as(exact)
        numerical = (by_hand(exact + there) - by_hand(exact - there)) / (2 * step)
        assert float(vectors.grad.view(-1)[place]) == pytest.approx(float(numerical), rel=1e-4, abs=1e-5)
    assert vectors.grad.any(dim=1).all()  # none of them only meets ReLUs that are shut


def test_dropout_acts_in_training_alone_and_keeps_the_mean():
    head, vectors = FCHead("fc6", 30, 400), normal(50, 30)
    plain = head(vectors)
    assert torch.equal(head(vectors, dropout=0.5), plain)
    head.train()
    assert torch.equal(head(vectors), plain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = head(vectors, dropout=0.25)
    active = plain > 0
    kept = dropped[active] > 0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(dropped[active][kept], plain[active][kept] / 0.75)


def test_a_processor_without_bfloat16_multiplies_in_it_all_the_same(monkeypatch):
    """As where a run goes on that began in bfloat16 on another machine: oneDNN then packs no such weights."""
    vectors = torch.rand(5, 24, generator=torch.Generator().manual_seed(1))
    packed = FCHead("fc7", 24, 16).at(torch.bfloat16)(vectors)

    def refusing(_weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("needs the cpu support")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refusing)
    torch.testing.assert_close(
        FCHead("fc7", 24, 16).at(torch.bfloat16)(vectors), packed, rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_bfloat16_multiplies_rounded_but_keeps_the_weights(layer, compress):
    head, vectors = random_head(width=40, layer=layer), normal(20, 50 * CHANNELS).relu()
    head = head.compressed((12, 12)) if compress else head
    before = {name: tensor.clone() for name, tensor in head.layers.state_dict().items()}
    exact, copy = head(vectors), vectors.clone()
    assert head.at(torch.bfloat16) is head
    assert head.precision == torch.bfloat16
    rounded = head(vectors)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not rounded.requires_grad
    assert torch.equal(vectors, copy)
    state = head.layers.state_dict()
    assert state.keys() == before.keys()
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])
    back = FCHead.from_state(state, 50 * CHANNELS)
    assert back.precision == torch.float32
    assert torch.equal(back(vectors), exact)
    assert torch.equal(head.at(None)(vectors), exact)


@pytest.mark.parametrize("count", [0, 1, 7, 600])
@pytest.mark.parametrize("compress", [False, True])
def test_weights_in_the_processors_order_give_what_the_layers_give(compress, count):
    head, vectors = random_head(width=40), normal(count, 50 * CHANNELS).relu()
    head = head.compressed((12, 12)) if compress else head
    exact = head.at(None)(vectors)
    torch.testing.assert_close(head.at(torch.float32)(vectors), exact, rtol=1e-4, atol=1e-5)


def test_what_learns_is_used_as_it_is_now():
    head, vectors = random_head(width=40).at(None), normal(20, 50 * CHANNELS).relu()
    before = head(vectors)
    head.linear("fc6").bias.data += 1
    assert (head(vectors) - before).abs().max() > 0.1


# ---------------------------------------------------------------- a part of the layers


def test_up_to_fc6_it_is_fc6_and_up_to_its_last_layer_itself():
    head, vectors = random_head(), normal(5, num_bins((6, 3, 2, 1)) * CHANNELS)
    cut = head.up_to("fc6")
    assert (list(cut.layers), cut.layer, cut.dimension) == (["fc6"], "fc6", WIDTH)
    assert torch.equal(cut(vectors), F.relu(head.layers["fc6"](vectors)))
    assert torch.equal(head.up_to("fc7")(vectors), head(vectors))
    assert torch.equal(cut.up_to("fc6")(vectors), cut(vectors))


# ---------------------------------------------------------------- from a model file


@settings(max_examples=30)
@given(
    layer=st.sampled_from(["fc6", "fc7"]),
    inputs=st.integers(1, 30),
    width=st.integers(1, 30),
    rank=st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_a_head_comes_back_from_its_tensors(layer, inputs, width, rank):
    head = FCHead(layer, inputs, width)
    head = head if rank is None else head.compressed(rank)
    back = FCHead.from_state(head.layers.state_dict(), inputs)
    assert list(back.layers.state_dict()) == list(head.layers.state_dict())
    assert back.dimension == width
    assert not back.training
    assert not any(parameter.requires_grad for parameter in back.parameters())
    assert torch.equal(back(normal(3, inputs)), head(normal(3, inputs)))


def states() -> dict[str, dict[str, Tensor]]:
    head = random_head(width=40)
    return {"whole": head.layers.state_dict(), "compressed": head.compressed((7, 5)).layers.state_dict()}


KEYS = [(kind, key) for kind, state in states().items() for key in state]


@pytest.mark.parametrize(("kind", "key"), KEYS)
def test_a_tensor_that_is_missing_of_another_shape_or_dtype_is_refused(kind, key):
    state = states()[kind]
    with pytest.raises((KeyError, ValueError)):
        FCHead.from_state({k: t for k, t in state.items() if k != key}, 200)
    for wrong in (state[key][:-1], state[key][:0], state[key][None], torch.zeros(()), state[key].double()):
        with pytest.raises(ValueError, match="not float32"):
            FCHead.from_state({**state, key: wrong}, 200)


@pytest.mark.parametrize("dimension_in", [199, 201, 400])
@pytest.mark.parametrize("kind", ["whole", "compressed"])
def test_an_input_of_another_length_is_refused(kind, dimension_in):
    with pytest.raises(ValueError, match=r"fc6.*not float32"):
        FCHead.from_state(states()[kind], dimension_in)


@pytest.mark.parametrize(
    "name", ["fc8.weight", "weight", "fc6", "fc6.2.weight", "fc7.0.bias", "fc6.0.bias", ""]
)
@pytest.mark.parametrize("kind", ["whole", "compressed"])
def test_an_unknown_name_is_refused(kind, name):
    with pytest.raises(ValueError, match="no place"):
        FCHead.from_state({**states()[kind], name: torch.zeros(1)}, 200)


def test_a_missing_tensor_is_named():
    with pytest.raises(KeyError, match=r"fc6\.weight"):
        FCHead.from_state({}, 200)
    state = states()["whole"]
    del state["fc7.bias"]
    with pytest.raises(KeyError, match=r"fc7\.bias"):
        FCHead.from_state(state, 200)
