"""Artefacts on disk: what was stored comes back, or nothing does, whatever happened to the file."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from spp_det.runtime.cache import Arrays, Cache, Usage, check_form, digest
from spp_det.runtime.whole_files import ABANDONED, sweep

KEY = digest("an artefact")
ARRAYS: Arrays = {
    "boxes": np.arange(12, dtype=np.float32).reshape(3, 4),
    "labels": np.array([2, 0, 1]),
}


def equal(a: Arrays | None, b: Arrays) -> bool:
    """Equal names, types, shapes and bytes."""
    return a is not None and {name: (x.dtype, x.shape, x.tobytes()) for name, x in a.items()} == {
        name: (x.dtype, x.shape, x.tobytes()) for name, x in b.items()
    }


@pytest.fixture
def cache(tmp_path) -> Cache:
    cache = Cache(tmp_path / "cache")
    cache.store("maps", KEY, ARRAYS)
    return cache


@pytest.fixture
def stored(cache) -> Path:
    return cache.path("maps", KEY)


def check_absent(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """The artefact counts as absent, is removed with a warning that names it, and can be stored again."""
    path = cache.path("maps", KEY)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "spp_det"):
        assert cache.load("maps", KEY) is None
    assert str(path) in caplog.text
    assert not path.exists()
    assert equal(cache.load_or_make("maps", KEY, lambda: dict(ARRAYS)), ARRAYS)
    assert equal(cache.load("maps", KEY), ARRAYS)


# ---------------------------------------------------------------- round trips


DTYPES = st.sampled_from([bool, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64])
ANY_ARRAYS = st.dictionaries(
    st.text("abcxyz._", min_size=1, max_size=8),
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))),
    max_size=4,
)


@settings(max_examples=40)
@given(ANY_ARRAYS, st.booleans())
def test_what_was_stored_comes_back_to_the_bit(arrays, turned):
    if turned:  # in another order in memory
        arrays = {name: array.T for name, array in arrays.items()}
    with TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        cache.store("anything", KEY, arrays)
        loaded = cache.load("anything", KEY)
        assert equal(loaded, arrays)


def test_what_is_loaded_may_be_changed_without_harm(cache):
    loaded = cache.load("maps", KEY)
    loaded["boxes"] += 1
    assert equal(cache.load("maps", KEY), ARRAYS)


def test_absent_artefacts_are_none_and_leave_no_trace(tmp_path, caplog):
    cache = Cache(tmp_path / "nowhere")
    assert cache.load("maps", KEY) is None
    assert not caplog.records
    assert not (tmp_path / "nowhere").exists()


def test_stages_and_keys_do_not_mix(cache):
    other = digest("another artefact")
    assert cache.load("maps", other) is None
    assert cache.load("proposals", KEY) is None
    cache.store("proposals", KEY, {"xy": np.zeros(2)})
    assert equal(cache.load("maps", KEY), ARRAYS)


def test_storing_again_replaces(cache):
    cache.store("maps", KEY, {"boxes": np.zeros(3)})
    assert equal(cache.load("maps", KEY), {"boxes": np.zeros(3)})


def test_an_artefact_is_made_once(tmp_path):
    cache, made = Cache(tmp_path), []

    def make() -> Arrays:
        made.append(1)
        return dict(ARRAYS)

    for _ in range(3):
        assert equal(cache.load_or_make("maps", KEY, make), ARRAYS)
    assert len(made) == 1


def test_other_programs_read_it_as_any_safetensors_file(cache):
    """The file is written here, read by the library: types, shapes, empty ones, and numbers big end first."""
    arrays = {
        dtype: np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("f2", "f4", "f8", "i1", "i8", "u2")
    }
    arrays |= {"bool": np.array([True, False]), "empty": np.zeros((0, 3)), "one": np.array(2.5)}
    cache.store("maps", KEY, arrays | {"big": np.arange(3, dtype=">i4")})
    found = load_file(cache.path("maps", KEY))
    assert equal(found, arrays | {"big": np.arange(3, dtype="<i4")})


# ---------------------------------------------------------------- what it holds


def test_what_is_removed_is_absent(cache):
    assert cache.has("maps", KEY)
    cache.remove("maps", KEY)
    cache.remove("maps", KEY)
    assert not cache.has("maps", KEY)
    assert cache.load("maps", KEY) is None


def test_usage_and_pruning_know_their_own_files_alone(cache, stored):
    cache.store("proposals", KEY, ARRAYS)
    other = digest("another artefact")
    cache.store("maps", other, ARRAYS)
    foreign = [
        cache.folder / "maps" / "notes.txt",
        stored.parent / "weights.safetensors",
        stored.parent / f"{KEY}.safetensors.old",
        cache.folder / "maps" / ("0" if KEY[0] != "0" else "1") / "x" / f"{KEY}.safetensors",
        cache.folder / "maps" / "zz" / f"{KEY}.safetensors",
        cache.folder / "mine" / "aa" / "model.safetensors",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    linked = cache.path("maps", digest("a link"))
    linked.parent.mkdir(exist_ok=True)
    linked.symlink_to(foreign[0])
    size = stored.stat().st_size
    assert cache.stages() == ("maps", "proposals")
    assert cache.usage("maps") == Usage(2, 2 * size)
    assert cache.usage("mine") == cache.usage("nosuch") == Usage()
    assert cache.prune("maps") == Usage(2, 2 * size)
    assert cache.stages() == ("proposals",)
    assert cache.load("maps", KEY) is None
    assert equal(cache.load("proposals", KEY), ARRAYS)
    assert all(path.read_bytes() == b"mine" for path in [*foreign, linked])
    assert Cache(cache.folder / "nowhere").stages() == ()


def test_what_was_used_lately_is_kept(cache, stored):
    """Read or written: the date of the file tells, to the day."""
    other = digest("another artefact")
    cache.store("maps", other, ARRAYS)
    month = time.time() - 30 * 86_400
    for path in (stored, cache.path("maps", other)):
        os.utime(path, (month, month))
    cache.load("maps", KEY)
    assert cache.prune("maps", unused_days=40) == Usage()
    assert cache.prune("maps", unused_days=20).artefacts == 1
    assert cache.has("maps", KEY)
    assert not cache.has("maps", other)


def test_what_killed_writers_left_is_removed_once_it_is_old(cache):
    partials = cache.folder / "maps" / ".partial"
    assert list(partials.iterdir()) == []  # the writing took place there
    fresh, old = (partials / f".{digit * 16}.partial" for digit in "ab")
    strangers = [
        partials / ".notes.partial",
        partials / f"{'c' * 16}.partial",
        cache.folder / "maps" / ".x.partial",
    ]
    for path in (fresh, old, *strangers):
        path.write_bytes(b"half")
        if path != fresh:
            os.utime(path, (time.time() - ABANDONED - 60,) * 2)
    cache.sweep()
    assert not old.exists()
    assert all(path.exists() for path in (fresh, *strangers))
    sweep(cache.folder / "nowhere")


# ---------------------------------------------------------------- damage


def test_an_artefact_cut_at_any_byte_counts_as_absent(cache, stored, caplog):
    whole = stored.read_bytes()
    for length in range(len(whole)):
        stored.write_bytes(whole[:length])
        caplog.clear()
        assert cache.load("maps", KEY) is None
        assert str(stored) in caplog.text
        assert not stored.exists()
    stored.write_bytes(whole[: len(whole) // 2])
    check_absent(cache, caplog)


@pytest.mark.parametrize("flip", [0x01, 0x02, 0x04, 0x0F, 0x10, 0x20, 0x40, 0x80, 0xFF])
def test_a_changed_byte_anywhere_is_never_believed(cache, stored, flip):
    whole = stored.read_bytes()
    absent = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= flip
        stored.write_bytes(damaged)
        loaded = cache.load("maps", KEY)
        absent += loaded is None
        assert loaded is None or equal(loaded, ARRAYS)  # of the header a byte or two may say the same
        assert stored.exists() == (loaded is not None)
    assert absent >= len(whole) - 2


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "order"])
def test_a_header_that_is_consistent_but_wrong_is_not_believed(cache, stored, caplog, change):
    changes = {
        "name": (b'"boxes"', b'"boxed"'),
        "dtype": (b'"F32"', b'"I32"'),
        "shape": (b"[3,4]", b"[4,3]"),
        "order": (b'"boxes"', b'"lobes"'),
    }
    whole = stored.read_bytes()
    assert whole.count(changes[change][0]) == 1
    stored.write_bytes(whole.replace(*changes[change]))
    check_absent(cache, caplog)


def test_the_file_of_another_key_is_not_believed(cache, stored, caplog):
    other = digest("another artefact")
    cache.store("maps", other, ARRAYS)
    cache.path("maps", other).replace(stored)
    check_absent(cache, caplog)


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"<html></html>", bytes(range(256)) * 4])
def test_garbage_counts_as_absent(cache, stored, caplog, content):
    stored.write_bytes(content)
    check_absent(cache, caplog)


# ---------------------------------------------------------------- several at once


def test_many_writers_and_readers_of_one_artefact_never_see_half_of_it(tmp_path):
    """Each a cache of its own on one folder, as two runs have."""
    arrays = {"values": np.arange(5000)}
    start = threading.Barrier(4)

    def write() -> None:
        start.wait()
        for _ in range(15):
            Cache(tmp_path).store("maps", KEY, arrays)

    def read() -> int:
        start.wait()
        loaded = [Cache(tmp_path).load("maps", KEY) for _ in range(60)]
        assert all(x is None or equal(x, arrays) for x in loaded)
        return 0

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(f) for f in (write, write, read, read)]:
            future.result()
    path = Cache(tmp_path).path("maps", KEY)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert equal(Cache(tmp_path).load("maps", KEY), arrays)


def test_two_processes_share_a_folder(tmp_path):
    """Each looks for what the other may just be writing; both end with all of it."""
    program = """
        import sys
        from pathlib import Path
        import numpy as np
        from spp_det.runtime.cache import Cache, digest
        cache = Cache(Path(sys.argv[1]))
        for i in range(60):
            found = cache.load_or_make("maps", digest(i), lambda: {"values": np.full(3000, i)})
            assert (found["values"] == i).all()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        assert run.communicate()[1] == ""
        assert run.returncode == 0
    assert Cache(tmp_path).usage("maps").artefacts == 60
    assert list((tmp_path / "maps" / ".partial").iterdir()) == []


# ---------------------------------------------------------------- files of others


def deny(monkeypatch, path: Path, *calls: str) -> None:
    """As for anybody but root where the rights say so."""
    for call in calls:
        allowed = getattr(Path, call)

        def refuse(self, *arguments, allowed=allowed, **options):
            if self == path or path in arguments:
                raise PermissionError(13, "Permission denied", str(self))
            return allowed(self, *arguments, **options)

        monkeypatch.setattr(Path, call, refuse)


def test_an_artefact_that_may_not_be_read_is_said_and_not_taken_for_absent(
    cache, stored, monkeypatch, caplog
):
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("No such file or directory")  # says safetensors, whatever hinders it

    assert cache.load("maps", digest("another")) is None
    assert not caplog.records
    monkeypatch.setattr("spp_det.runtime.cache.safe_open", absent)

    def denied(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))  # for anybody but root

    monkeypatch.setattr("spp_det.runtime.cache.open_regular", denied)
    assert cache.load("maps", KEY) is None
    assert f"{stored} cannot be read (Permission denied); computing it again" in caplog.text


def test_a_damaged_artefact_that_may_not_be_replaced_is_computed_and_used(cache, stored, monkeypatch, caplog):
    stored.write_bytes(stored.read_bytes()[:-3])
    before = stored.read_bytes()
    deny(monkeypatch, stored, "unlink", "replace")
    assert equal(cache.load_or_make("maps", KEY, lambda: dict(ARRAYS)), ARRAYS)
    assert stored.read_bytes() == before
    assert f"{stored} is damaged" in caplog.text
    assert f"{stored} cannot be replaced (Permission denied)" in caplog.text
    assert list((cache.folder / "maps" / ".partial").iterdir()) == []


def test_a_new_artefact_in_a_folder_where_nobody_may_write_is_an_error(cache, monkeypatch):
    """Else hours of work would be kept nowhere."""
    deny(monkeypatch, cache.path("maps", digest("new")), "replace")
    with pytest.raises(PermissionError):
        cache.store("maps", digest("new"), ARRAYS)


# ---------------------------------------------------------------- whole, but not what is kept there


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "it has no norm"),
        ({"norm": np.zeros(3)}, r"norm is float64 \(3,\), not float64 \(\)"),
        ({"norm": np.array(1, np.float32)}, "norm is float32"),
        ({"norm": np.array(np.nan)}, "norm holds a number that is not finite"),
    ],
)
def test_an_artefact_of_another_form_is_said_and_computed_again(tmp_path, caplog, arrays, said):
    cache = Cache(tmp_path)
    cache.store("norms", KEY, arrays)
    check = partial(check_form, norm=np.array(0.0))
    made = {"norm": np.array(2.5)}
    assert equal(cache.load_or_make("norms", KEY, lambda: made, check), made)
    (record,) = caplog.records
    assert re.search(said, record.getMessage())
    assert "computing it again" in record.getMessage()
    assert equal(cache.load_or_make("norms", KEY, dict, check), made)


# ---------------------------------------------------------------- bounds


def kilobyte() -> Arrays:
    return {"numbers": np.zeros(250, np.float32)}


def test_a_stage_keeps_no_more_than_its_bound_and_the_others_all(tmp_path, caplog):
    cache = Cache(tmp_path, {"maps": 3500})
    for number in range(5):
        assert cache.full("maps") == (number > 3)
        cache.store("maps", digest(number), kilobyte())
        cache.store("svms", digest(number), kilobyte())
    assert [cache.has("maps", digest(number)) for number in range(5)] == [True, True, True, False, False]
    assert cache.usage("svms").artefacts == 5
    assert not cache.full("svms")
    assert caplog.text.count("cache: maps have reached their bound") == 1


def test_what_does_not_fit_is_made_whenever_it_is_asked_for(tmp_path):
    cache, made = Cache(tmp_path, {"maps": 100}), []

    def make() -> Arrays:
        made.append(1)
        return kilobyte()

    for _ in range(3):
        assert equal(cache.load_or_make("maps", KEY, make), kilobyte())
    assert len(made) == 3


def test_what_earlier_runs_have_kept_counts_and_is_still_there(tmp_path):
    for number in range(3):
        Cache(tmp_path).store("maps", digest(number), kilobyte())
    cache = Cache(tmp_path, {"maps": 5500})
    cache.store("maps", digest(3), kilobyte())
    cache.store("maps", digest(4), kilobyte())
    assert [cache.has("maps", digest(number)) for number in range(5)] == [True, True, True, True, False]


def test_processes_share_out_the_room(tmp_path):
    two = [Cache(tmp_path, {"maps": 4500}, sharers=2) for _ in range(2)]
    for number in range(6):
        two[number % 2].store("maps", digest(number), kilobyte())
    usage = Cache(tmp_path).usage("maps")
    assert usage.artefacts == 2  # one of each: two of them take more than half of the bound
    assert usage.bytes <= 4500
    assert all(cache.full("maps") for cache in two)


def test_a_folder_that_is_over_its_bound_already_keeps_nothing_and_that_is_said(tmp_path, caplog):
    Cache(tmp_path).store("maps", digest(0), kilobyte())
    cache = Cache(tmp_path, {"maps": 500})
    for number in (1, 2):
        cache.store("maps", digest(number), kilobyte())
    assert Cache(tmp_path).usage("maps").artefacts == 1
    assert caplog.text.count("reached their bound") == 1
