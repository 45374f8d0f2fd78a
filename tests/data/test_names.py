from __future__ import annotations

import pytest

from spp_det.data.names import Stems, can_be_a_file, folder_names, leads_out


@pytest.mark.parametrize("name", ["000005", "a b", "train/000005.jpg", "a..b", "...", "ä/ö", "./x"])
def test_names_inside(name: str) -> None:
    assert not leads_out(name)


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../../x", "/etc/passwd", "C:\\x", "C:x", "a\\..\\x", "\\\\host\\x\\y"]
)
def test_names_that_lead_out(name: str) -> None:
    assert leads_out(name)


@pytest.mark.parametrize("name", ["a", "ä" * 127, "a/b/" + "x" * 255, "\udcff.jpg"])
def test_names_that_a_file_can_have(name: str) -> None:
    assert can_be_a_file(name)


@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "ä" * 128, "\ud800", "/".join("abc" * 2000)])
def test_names_that_no_file_can_have(name: str) -> None:
    assert not can_be_a_file(name)


def test_every_image_gets_a_stem_of_its_own():
    stem = Stems()
    names = ["a.jpg", "a.png", "b/a.jpg", "a.png.jpg", "a.png", "c"]
    assert [stem(name) for name in names] == ["a", "a.png", "b/a", "a.png.jpg", "a.png_", "c"]


SYMBOLS = {ord("0") + digit: symbol for digit, symbol in enumerate('!"#$%&*:;<')}


def test_folders_are_named_like_their_classes_as_far_as_any_system_allows():
    names = ["cat", "my dog", "a/b", "a\\b", "..", "", "CON", "Cat", "x" * 300, "naïve (2)", "tab\t", "ok."]
    folders = folder_names(names)
    assert folders == [
        *("cat", "my dog", "a_b", "a_b_2", "_", "__2", "CON_", "Cat_2", "x" * 60, "naïve (2)", "tab_", "ok")
    ]


def test_names_of_symbols_alone_cost_no_more_than_others():
    """Each of them would have the folder of all others; the work grows with their number, not its square."""
    names = [f"{'?' * (1 + number % 300)}{number}?".translate(SYMBOLS) for number in range(20_000)]
    folders = folder_names(names)
    assert len({folder.lower() for folder in folders}) == len(names)
    assert max(len(folder.encode()) for folder in folders) < 255
