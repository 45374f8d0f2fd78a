"""Items of a long work shared out to several processes, each of which gets all results in order.

No other module needs to know how many processes there are. In a single process each of these functions is a
plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from spp_det.errors import UserError
from spp_det.runtime import distributed

Item = TypeVar("Item")
State = TypeVar("State")
Result = Mapping[str, Any] | UserError | None
"""What one process can send to another: named arrays, None, or a `UserError` that is returned, not raised."""
Found = TypeVar("Found", bound=Result)

BLOCK = 16  # results of each process that are sent at a time: few for the memory, many to even out the work


@dataclass(frozen=True, eq=False)
class Shared(Generic[Item]):
    """A sequence of items, each of which one process holds.

    Attributes:
        own: the items of this process, in their order; in one process all of them.
        owners: of every item in order, the process that holds it; the same in all processes.
    """

    own: Iterable[Item]
    owners: Sequence[int]

    def __len__(self) -> int:
        """The number of items of all processes."""
        return len(self.owners)

    def map(self, function: Callable[[Item], Found]) -> Iterator[Found]:
        """``function`` of every item, in order, in every process: see `shared_map`."""
        return Shared(map(function, self.own), self.owners).in_order()

    def in_order(self: Shared[Found]) -> Iterator[Found]:
        """The items of all processes, in order, in every process; the items must be of the type `Result`.

        A `UserError` that iterating over ``own`` raises is raised by every process, at its place.
        """
        if distributed.world_size() == 1:
            yield from self.own
            return
        own, every = iter(self.own), iter(self.owners)
        while block := list(islice(every, BLOCK * distributed.world_size())):
            mine = _sendable(own, block.count(distributed.rank()))
            found = [iter(results) for results in distributed.exchange(mine)]
            for owner in block:
                yield cast("Found", _received(next(found[owner])))

    def map_latest(
        self, function: Callable[[State, Item], Found], state: Callable[[], State]
    ) -> Iterator[Found]:
        """``function(state(), item)`` of every item, where the consumer of a result may change the state.

        The processes work side by side, each on one item. A result that was made with an earlier state than
        the current one is thrown away and made again, so that the results equal those of a single process.
        """
        own = iter(self.own)
        for owners in rounds(self.owners):
            items = list(islice(own, owners.count(distributed.rank())))
            found, used = None, None
            for place in range(len(owners)):
                if found is None or used is not state():
                    used, left = state(), owners[place:]
                    rest = items[len(items) - left.count(distributed.rank()) :]
                    found = Shared(rest, left).map(partial(function, used))
                yield next(found)

    def in_first(
        self, send: Callable[[Item], Found], receive: Callable[[int, Found], Item]
    ) -> Iterator[Item]:
        """The items of all processes in order, in the first process; the others only send theirs.

        Args:
            send: the part of an item that is sent.
            receive: rebuilds an item from its place in the sequence and the part that was sent.
        """
        if distributed.world_size() == 1:
            yield from self.own
            return
        for place, found in enumerate(self.map(send)):
            if distributed.is_first():
                yield receive(place, found)


def share(items: Sequence[Item], owners: Sequence[int] | None = None) -> Shared[Item]:
    """Share out items that all processes know; ``owners`` None: the processes take turns."""
    owners = turns(len(items)) if owners is None else owners
    return Shared([item for item, own in zip(items, owned(owners), strict=True) if own], owners)


def shared_map(
    function: Callable[[Item], Found],
    items: Sequence[Item],
    owners: Sequence[int] | None = None,
    run: Callable[[Callable[[Item], Found], Iterable[Item]], Iterable[Found]] = map,
) -> Iterator[Found]:
    """``map(function, items)``, the work shared out: each process does its own items, and yields all results.

    Args:
        function: returns named arrays, None, or an error as a result. A `UserError` that it raises is raised
            by every process in the place of the result; any other exception ends its process.
        owners: the process of each item; None: the processes in turn.
        run: does the items of one process, in order, such as `threads.ahead` with its number of workers.
    """
    shared = share(items, owners)
    return Shared(run(function, shared.own), shared.owners).in_order()


def turns(count: int) -> list[int]:
    """The owners of ``count`` items where the processes take turns."""
    return [place % distributed.world_size() for place in range(count)]


def owned(owners: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Bool ``[n]``, by the owners ``[n]`` of n items: whether each item is this process's."""
    mine: npt.NDArray[np.bool_] = np.equal(owners, distributed.rank())
    return mine


def rounds(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in their order, as many at a time as there are processes."""
    for start in range(0, len(items), distributed.world_size()):
        yield items[start : start + distributed.world_size()]


def dealt(items: Sequence[Item]) -> list[Sequence[Item]]:
    """The items in as many parts as there are processes, dealt like cards; no part is empty."""
    count = min(distributed.world_size(), len(items))
    return [items[first::count] for first in range(count)]


def even_share(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """This process's part of numbers ``[n]``. All parts have one length: some numbers are dealt twice."""
    even = -(-len(numbers) // distributed.world_size()) * distributed.world_size()
    return np.resize(numbers, even)[distributed.rank() :: distributed.world_size()]


def seed_torch(seed: int) -> None:
    """Seed torch's own generator, which dropout draws from: differently in each process."""
    torch.manual_seed((seed + distributed.rank()) % 2**64)


_NONE, _RESULT, _RAISED = "!none", "!result ", "!raised "  # names that mark a result which is no named arrays


def _sendable(results: Iterator[Result], count: int) -> list[distributed.Arrays]:
    """The next results as named arrays; a `UserError` in the place of a result is the last one."""
    items: list[distributed.Arrays] = []
    try:
        for result in islice(results, count):
            if result is None:
                items.append({_NONE: np.zeros(0, np.uint8)})
            else:
                items.append(_as_text(_RESULT, result) if isinstance(result, UserError) else result)
    except UserError as error:
        items.append(_as_text(_RAISED, error))
    return items


def _as_text(name: str, error: UserError) -> distributed.Arrays:
    return {name + type(error).__name__: np.frombuffer(str(error).encode(), np.uint8)}


def _received(arrays: distributed.Arrays) -> Result:
    """The inverse of `_sendable` for one result; raises an error that was raised."""
    name = next(iter(arrays), "")
    if name == _NONE:
        return None
    if not name.startswith((_RESULT, _RAISED)):
        return arrays
    kinds = {kind.__name__: kind for kind in UserError.__subclasses__()}
    error = kinds.get(name.split(" ")[1], UserError)(arrays[name].tobytes().decode())
    if name.startswith(_RAISED):
        raise error
    return error
