"""A font for every name."""

from __future__ import annotations

from spp_det.drawing import font
from spp_det.drawing.font import set_text


def test_ascii_is_set_in_the_font_that_comes_along():
    text, used = set_text("raccoon 0.87", 12)
    assert text == "raccoon 0.87"
    assert used.getname() == ("Aileron", "Regular")


def test_without_a_font_accents_go_and_the_rest_is_marked(monkeypatch):
    monkeypatch.setattr(font, "_SYSTEM_FONTS", ("no such font.ttf",))
    set_text.cache_clear()
    assert set_text("câmera 袋鼠 0.87…", 12)[0] == "camera ?? 0.87…"
    set_text.cache_clear()
