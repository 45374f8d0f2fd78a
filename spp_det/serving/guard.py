"""Who may ask: checked before anything of a request is read, and one line of the log for each refusal."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spp_det.errors import one_line

logger = logging.getLogger(__name__)

MOST_BODY = 2**26  # bytes of a photo or of a batch of tasks
SECONDS = 60.0  # for a body to arrive in
_OWN_NAMES = ("localhost", "127.0.0.1", "::1")


class RefusedError(Exception):
    """A request that is not answered: the status, and why in one line."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches a server at that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Passes on requests that are allowed.

    - The name in ``Host`` must be one of this machine's own, unless a token is asked for: a page of a
      stranger whose name suddenly means 127.0.0.1 has the stranger's name there.
    - A browser's request from another page (``Origin``, ``Sec-Fetch-Site``) is refused.
    - With a token, it must be there: ``Authorization: Token T`` or ``Bearer T``, or T as the password of
      basic authentication, which is what Label Studio can send.
    - A body has at most `MOST_BODY` bytes and arrives within `SECONDS`.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app = app
        self._token = token
        self._names = {*_OWN_NAMES, host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise RefusedError(400, "not HTTP")
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check(headers)
            body = await _body(headers, receive)
        except RefusedError as refusal:
            log_refusal(scope, refusal.status, str(refusal))
            if scope["type"] == "http":
                extra = {"WWW-Authenticate": 'Basic realm="spp-det"'} if refusal.status == 401 else {}
                extra["Connection"] = "close"  # the rest of the body is not read
                await JSONResponse({"error": str(refusal)}, refusal.status, extra)(scope, receive, send)
            return

        async def whole() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        sent = False

        async def noted(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start" and message["status"] in (404, 405) and not sent:
                log_refusal(scope, message["status"], "no such page, or not by this method")
            sent = True
            await send(message)

        await self._app(scope, whole, noted)

    def _check(self, headers: Mapping[bytes, bytes]) -> None:
        host = _name(headers.get(b"host", b""))
        if self._token is None and host not in self._names:
            raise RefusedError(403, f"the request is for {host or 'nobody'}, which is not this server's name")
        origin = headers.get(b"origin")
        if origin is not None and _netloc(origin) != headers.get(b"host", b"").decode("latin-1").lower():
            raise RefusedError(403, "the request comes from a page elsewhere")
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise RefusedError(403, "the request comes from a page elsewhere")
        if self._token is not None and not _has_token(headers.get(b"authorization", b""), self._token):
            raise RefusedError(401, "the token is missing or wrong")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RefusedError(415, "the body is compressed")


def log_refusal(scope: Scope, status: int, why: str) -> None:
    """One line of the log."""
    asked = f"{scope.get('method', scope['type'])} {scope.get('path', '')}"
    logger.warning("refused %s: %d, %s", one_line(asked[:120]), status, one_line(why[:300]))


def _name(host: bytes) -> str:
    """The name in a ``Host``, without its port."""
    text = host.decode("latin-1").lower()
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return text


def _netloc(origin: bytes) -> str:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:
        return ""


def _has_token(authorization: bytes, token: str) -> bool:
    kind, _, given = authorization.partition(b" ")
    if kind.lower() == b"basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
    elif kind.lower() not in (b"token", b"bearer"):
        return False
    return hmac.compare_digest(given.strip(), token.encode())


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The whole body. Raises RefusedError where it is too large or too slow, or ends before its end."""
    stated = headers.get(b"content-length", b"0")
    if not stated.isdigit() or int(stated[:20]) > MOST_BODY:
        raise RefusedError(413, f"the body has more than {MOST_BODY:,} bytes")
    parts, size = [], 0
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise RefusedError(400, "the body ended early")
                part = message.get("body", b"")
                size += len(part)
                if size > MOST_BODY:
                    raise RefusedError(413, f"the body has more than {MOST_BODY:,} bytes")
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive within {SECONDS:g} s") from None
