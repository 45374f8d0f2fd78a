"""Compression of fc layers against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from spp_det.model.head import FCHead
from tests.heads import CHANNELS, normal, random_head


def product(head: FCHead, name: str) -> Tensor:
    """The matrix of a layer, compressed or not."""
    layer = head.layers[name]
    return layer[1].weight @ layer[0].weight if isinstance(layer, nn.Sequential) else layer.weight  # type: ignore[operator, index, return-value]


@settings(max_examples=40)
@given(
    inputs=st.integers(1, 40),
    width=st.integers(1, 40),
    rank=st.integers(1, 45),
    seed=st.integers(0, 2**32 - 1),
)
def test_compression_is_the_truncated_svd(inputs, width, rank, seed):
    head = FCHead("fc6", inputs, width, seed=seed)
    head.layers["fc6"].bias.data.normal_(generator=torch.Generator().manual_seed(1))
    small = head.compressed((rank, 1))
    u, s, v = torch.linalg.svd(head.layers["fc6"].weight, full_matrices=False)
    if rank * (inputs + width) >= inputs * width:
        assert small.layers["fc6"].weight.data_ptr() == head.layers["fc6"].weight.data_ptr()
        return
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    torch.testing.assert_close(product(small, "fc6"), best, rtol=1e-4, atol=1e-4)
    assert small.layers["fc6"][0].weight.shape == (rank, inputs)
    assert small.layers["fc6"][0].bias is None
    assert small.layers["fc6"][1].weight.shape == (width, rank)
    vectors = normal(3, inputs)
    expected = F.relu(vectors @ best.T + head.layers["fc6"].bias)
    torch.testing.assert_close(small(vectors), expected, rtol=1e-4, atol=1e-4)


def test_each_layer_has_a_rank_of_its_own_and_the_original_stays():
    head = random_head(width=40)
    before = {name: t.clone() for name, t in head.layers.state_dict().items()}
    small = head.compressed((7, 5))
    assert {name: list(t.shape) for name, t in small.layers.state_dict().items()} == {
        **{"fc6.0.weight": [7, 200], "fc6.1.weight": [40, 7], "fc6.1.bias": [40]},
        **{"fc7.0.weight": [5, 40], "fc7.1.weight": [40, 5], "fc7.1.bias": [40]},
    }
    assert small.dimension == head.dimension
    assert not small.training
    assert not any(parameter.requires_grad for parameter in small.parameters())
    assert all(torch.equal(t, before[name]) for name, t in head.layers.state_dict().items())


def test_a_higher_rank_is_never_worse():
    head = random_head(width=60)
    errors = {}
    for name in ("fc6", "fc7"):
        full = product(head, name)
        errors[name] = [
            float((product(head.compressed((t, t)), name) - full).norm()) for t in (1, 5, 10, 20, 29)
        ]
        assert errors[name] == sorted(errors[name], reverse=True)
        assert errors[name][-1] < errors[name][0]


def test_a_matrix_of_low_rank_is_kept_whole():
    head = FCHead("fc6", 300, 50)
    head.layers["fc6"].weight.copy_(normal(50, 4) @ normal(4, 300, seed=1))
    vectors = normal(9, 300)
    torch.testing.assert_close(head.compressed((4, 1))(vectors), head(vectors), rtol=1e-4, atol=1e-3)


def test_what_would_not_save_work_stays_and_can_still_learn():
    head = random_head(width=40).requires_grad_(True)
    same = head.compressed((34, 20))  # 34 * 240 > 200 * 40 and 20 * 80 = 40 * 40
    assert list(same.layers.state_dict()) == list(head.layers.state_dict())
    assert all(parameter.requires_grad for parameter in head.parameters())
    assert isinstance(head.compressed((33, 19)).layers["fc6"], nn.Sequential)
    assert isinstance(head.compressed((33, 19)).layers["fc7"], nn.Sequential)


@pytest.mark.parametrize("rank", [(0, 5), (5, 0), (-1, 5)])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ValueError, match="at least 1"):
        random_head().compressed(rank)


def test_what_is_compressed_is_not_compressed_again():
    small = random_head(width=40).compressed((5, 5))
    for change in (
        lambda: small.compressed((3, 3)),
        lambda: small.randomise(0),
        lambda: small.load_weights("random", "alexnet", (6, 3, 2, 1), CHANNELS),
    ):
        with pytest.raises(ValueError, match="compressed"):
            change()
