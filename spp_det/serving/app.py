"""The web application: Label Studio's ML-backend protocol, and plain detection.

Label Studio (1.23) asks like this; a project's boxes are those of its ``<RectangleLabels>``:

    GET  /health    within a second: is it there?
    POST /validate  {config}: does the model fit this labelling configuration?
    POST /setup     {project, schema, hostname, access_token, extra_params}: before each prediction; the
                    answer names the model's version
    POST /predict   {tasks, project, label_config, params}: one prediction a task
    POST /webhook   {action, annotation, task, project}: what people did, within a second
    GET  /versions  the versions that can be asked for

Nothing that a task or a setup names is fetched or opened, unless `Desk` finds it in the folder of photos or
in the Label Studio that the server's user has named.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from spp_det.errors import UserError
from spp_det.serving import openapi
from spp_det.serving.desk import Desk
from spp_det.serving.guard import Guard, log_refusal
from spp_det.serving.labelling import read_labelling

logger = logging.getLogger(__name__)

Answer = Callable[[Request], Awaitable[Response]]


def make_app(desk: Desk, host: str = "127.0.0.1", token: str | None = None) -> Starlette:
    """The application of a `Desk`, for a server at the address ``host``. With a token, every request must
    have it (see `Guard`)."""

    def health(_: Any) -> dict[str, Any]:
        return {"status": "UP", "model_class": "spp_det", **desk.told()}

    def validate(body: Any) -> dict[str, Any]:
        read_labelling(_field(body, "config"))
        return {"status": "ok"}

    def setup(body: Any) -> dict[str, Any]:
        read_labelling(_field(body, "schema"))
        return {"model_version": desk.version}

    def predict(body: Any) -> dict[str, Any]:
        tasks = _field(body, "tasks")
        return {"results": desk.predict(tasks, read_labelling(_field(body, "label_config")))}

    def webhook(body: Any) -> dict[str, Any]:
        return {"status": desk.noted(_table(body))}

    def versions(_: Any) -> dict[str, Any]:
        return {"versions": [desk.version] if desk.version else []}

    async def detect(request: Request) -> Response:
        return await _answered(request, lambda data: desk.detect(data), await request.body())

    async def docs(_: Request) -> Response:
        policy = (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        )
        return HTMLResponse(openapi.PAGE, headers={"Content-Security-Policy": policy})

    async def described(_: Request) -> Response:
        return JSONResponse(openapi.DESCRIPTION)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        desk.start()
        yield
        await to_thread.run_sync(desk.close)

    routes = [
        Route("/", _json(health), methods=["GET"]),
        Route("/health", _json(health), methods=["GET"]),
        Route("/validate", _json(validate), methods=["POST"]),
        Route("/setup", _json(setup), methods=["POST"]),
        Route("/predict", _json(predict), methods=["POST"]),
        Route("/webhook", _json(webhook), methods=["POST"]),
        Route("/versions", _json(versions), methods=["GET"]),
        Route("/detect", detect, methods=["POST"]),
        Route("/docs", docs, methods=["GET"]),
        Route("/openapi.json", described, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, host=host, token=token)],
        exception_handlers={HTTPException: _refused},
        lifespan=lifespan,
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _json(function: Callable[[Any], dict[str, Any]]) -> Answer:
    """A page that gets the JSON of a request's body and answers in JSON; the work is a thread's."""

    async def page(request: Request) -> Response:
        return await _answered(request, lambda data: function(_parsed(data)), await request.body())

    return page


async def _answered(request: Request, function: Callable[[bytes], dict[str, Any]], data: bytes) -> Response:
    try:
        return JSONResponse(await to_thread.run_sync(function, data))
    except UserError as error:
        log_refusal(request.scope, 400, str(error))
        return JSONResponse({"error": _encodable(str(error))}, 400)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _parsed(data: bytes) -> Any:
    """The JSON of a body; an empty one is None. Raises UserError for anything that is no JSON."""
    try:
        return json.loads(data, parse_constant=_no_number) if data else None
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not JSON: {str(error)[:200]}") from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _table(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise UserError("the body is no JSON object")
    return body


def _field(body: Any, name: str) -> Any:
    if name not in _table(body):
        raise UserError(f"the body has no {name!r}")
    return body[name]
