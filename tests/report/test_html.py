"""What all pages share: the policy and the escaping."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape

from spp_det.report.html import TEMPLATES, rendered

VALUES = {"splits": {}, "findings": [], "columns": [], "groups": [], "recall": None}


def policy_of(page: str) -> dict[str, str]:
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', page)
    return dict(part.strip().split(" ", 1) for part in unescape(policy).split(";"))


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_page_admits_its_own_style_and_either_a_script_or_pictures():
    style = digest((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    common = {"default-src": "'none'", "style-src": style, "base-uri": "'none'", "form-action": "'none'"}
    still = rendered("data.html.j2", "photos", format="voc", classes=0, objects=0, **VALUES)
    assert policy_of(still) == {**common, "img-src": "data:"}
    live = rendered("data.html.j2", "photos", "alert(1)", format="voc", classes=0, objects=0, **VALUES)
    assert policy_of(live) == {**common, "script-src": digest("alert(1)")}


def test_titles_are_escaped_and_printable():
    page = rendered("data.html.j2", "<b>\u202e & co", format="voc", classes=0, objects=0, **VALUES)
    assert "<h1>&lt;b&gt; &amp; co</h1>" in page
