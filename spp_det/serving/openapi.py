"""The description of ``POST /detect`` (OpenAPI), and a page that shows it and tries it. Both need no
network."""

from __future__ import annotations

import html
import json
from typing import Any

from spp_det.version import __version__

_BOX = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
_DETECTION = {
    "type": "object",
    "properties": {
        "image_id": {"type": "integer", "description": "0: there is one image in a request"},
        "category_id": {
            "type": "integer",
            "description": "counted from 1, in the order of the model's classes",
        },
        "category": {"type": "string", "description": "the name of the class"},
        "bbox": {**_BOX, "description": "x, y, width, height in pixels, from the top left corner"},
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "not calibrated"},
    },
    "required": ["image_id", "category_id", "category", "bbox", "score"],
}
_FOUND = {
    "type": "object",
    "properties": {
        "model_version": {"type": "string"},
        "width": {
            "type": "integer",
            "description": "of the image in pixels, upright by its EXIF orientation",
        },
        "height": {"type": "integer"},
        "detections": {"type": "array", "items": {"$ref": "#/components/schemas/Detection"}},
    },
    "required": ["model_version", "width", "height", "detections"],
}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _refused(why: str) -> dict[str, Any]:
    return {"description": why, "content": _json("Error")}


_IMAGE = {"schema": {"type": "string", "format": "binary"}}
DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "spp-det serve",
        "version": __version__,
        "description": "Object detection. The other pages speak Label Studio's ML-backend protocol.",
    },
    "paths": {
        "/detect": {
            "post": {
                "summary": "Find objects in an image",
                "description": "The body is the file itself: JPEG, PNG, WebP, TIFF, BMP, GIF and others.",
                "requestBody": {
                    "required": True,
                    "content": {"image/*": _IMAGE, "application/octet-stream": _IMAGE},
                },
                "responses": {
                    "200": {"description": "What was found, best score first", "content": _json("Found")},
                    "400": _refused("No image that can be read, or no model yet"),
                    "401": _refused("The server wants a token"),
                    "403": _refused("From a page elsewhere, or under another name than the server's"),
                    "413": _refused("Too many bytes"),
                },
            }
        }
    },
    "components": {
        "schemas": {"Detection": _DETECTION, "Found": _FOUND, "Error": _ERROR},
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{}, {"token": []}],
}

_RESPONSES = "".join(
    f"<tr><td>{code}</td><td>{html.escape(each['description'])}</td></tr>"
    for code, each in DESCRIPTION["paths"]["/detect"]["post"]["responses"].items()
)
PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>spp-det serve</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
 pre {{ background: #f2f2f2; padding: 1rem; overflow: auto }}
 td {{ padding-right: 1rem; vertical-align: top }}
</style>
<h1>spp-det serve</h1>
<p>Described for programs in <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>
<h2>POST /detect</h2>
<p>The body is an image file. The answer is a list of COCO's results, best score first.</p>
<pre>curl --data-binary @photo.jpg http://127.0.0.1:9090/detect</pre>
<table>{_RESPONSES}</table>
<h2>Try it</h2>
<p><input id="file" type="file" accept="image/*"></p>
<pre id="answer">Choose an image.</pre>
<h2>The answer</h2>
<pre>{html.escape(json.dumps({"Found": _FOUND, "Detection": _DETECTION}, indent=1))}</pre>
<script>
document.getElementById("file").addEventListener("change", async event => {{
  const shown = document.getElementById("answer");
  shown.textContent = "...";
  try {{
    const answer = await fetch("detect", {{method: "POST", body: event.target.files[0]}});
    shown.textContent = JSON.stringify(await answer.json(), null, 1);
  }} catch (error) {{ shown.textContent = String(error); }}
}});
</script>
</html>
"""
