"""What every page begins with: the style, a policy that lets nothing in, templates that escape all."""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from spp_det.errors import printable
from spp_det.images import RGB, encode_jpeg
from spp_det.report.tables import percent

JPEG_QUALITY = 78
NOT_DEFINED = "\N{EN DASH}"
TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, title: str, script: str = "", **values: Any) -> str:
    """The text of a page: a file of `TEMPLATES`, filled.

    Its policy admits the style of all pages and this one script. A page without a script may show pictures
    that lie in it as text (``data:``). Nothing is loaded from anywhere.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = partial(percent, undefined=NOT_DEFINED)
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    policy = _policy(style, script)
    page = environment.get_template(template)
    return page.render(title=printable(title), style=style, script=script, policy=policy, **values)


def jpeg_text(image: RGB) -> str:
    """A picture as the base64 of a JPEG file."""
    return base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode()


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script or none, pictures in the page, nothing else."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    scripts = f"script-src 'sha256-{digests[1]}'" if script else "img-src data:"
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; {scripts}; base-uri 'none'; form-action 'none'"
    )
