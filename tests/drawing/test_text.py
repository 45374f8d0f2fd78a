"""Names fit to be shown, and a font for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp_det.drawing import font
from spp_det.drawing.font import set_text
from spp_det.drawing.text import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("traffic light", "traffic light"),
        ("  a\n\tb \r\n", "a b"),
        ("a\x1b[31mb", "a[31mb"),
        ("\u202edrawkcab", "drawkcab"),
        ("\udc80x", "x"),
        ("袋鼠", "袋鼠"),
        ("", "?"),
        ("\0\u200b", "?"),
    ],
)
def test_printable(name, shown):
    assert printable(name) == shown


@given(st.text())
def test_printable_is_one_line(name):
    shown = printable(name)
    assert shown
    assert len(shown.splitlines()) == 1
    assert printable(shown) == shown


def test_ascii_is_set_in_the_font_that_comes_along():
    text, used = set_text("raccoon 0.87", 12)
    assert text == "raccoon 0.87"
    assert used.getname() == ("Aileron", "Regular")


def test_without_a_font_accents_go_and_the_rest_is_marked(monkeypatch):
    monkeypatch.setattr(font, "_SYSTEM_FONTS", ("no such font.ttf",))
    set_text.cache_clear()
    assert set_text("câmera 袋鼠 0.87…", 12)[0] == "camera ?? 0.87…"
    set_text.cache_clear()
