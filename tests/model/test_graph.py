"""The graph is torch.fx's, and networks that run in other threads meanwhile do not notice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import fx, nn

from spp_det.model.graph import trace


class Slow(nn.Module):
    """Whose forward pass runs something else, as another thread might at that moment."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.seen: list[torch.Tensor] = []
        self._other = [other]  # in a list, so that it is no module of ours

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with ThreadPoolExecutor(1) as thread:
            self.seen.append(thread.submit(self._other[0], torch.ones(2, 3)).result())
        return self.layer(x)


def test_it_is_the_graph_of_torch_fx():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    ours, theirs = trace(network).graph, fx.symbolic_trace(network).graph
    assert [(node.op, node.target) for node in ours.nodes] == [
        (node.op, node.target) for node in theirs.nodes
    ]


def test_other_threads_run_their_networks_meanwhile():
    other = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    slow = Slow(other)
    graph = trace(slow).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]
    assert torch.equal(slow.seen[0], other(torch.ones(2, 3)))


def test_several_threads_trace_at_once():
    networks = [nn.Sequential(*(nn.Linear(3, 3) for _ in range(20))) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        graphs = list(threads.map(trace, networks))
    assert all(len(graph.graph.nodes) == 22 for graph in graphs)
    call = nn.Module.__call__
    assert call.__module__.startswith("torch.nn")  # and nothing is diverted any more
