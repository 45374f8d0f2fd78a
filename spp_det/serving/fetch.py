"""A task's photo from Label Studio, and from nowhere else."""

from __future__ import annotations

import json
import logging
import threading
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urljoin, urlsplit

from spp_det.errors import UserError

logger = logging.getLogger(__name__)

MOST_PHOTO = 2**26  # bytes of a fetched photo
MOST_ANSWER = 2**16  # of an answer about tokens
SECONDS = 20.0  # for an answer


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to the host it came from."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if _origin(urljoin(req.full_url, newurl)) != _origin(req.full_url):
            raise UserError(f"{_host(req.full_url)} sends elsewhere, to {_host(newurl)}: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class LabelStudio:
    """The Label Studio of this server's user: its address and a token.

    A legacy token goes into each request as it is; a personal access token, a JWT, is exchanged for one that
    lives for minutes.
    """

    def __init__(self, url: str, token: str) -> None:
        """Raises UserError where the URL is none of ``http`` or ``https``."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError(f"--label-studio {url}: must be an address such as http://127.0.0.1:8080")
        self.url = url.rstrip("/") + "/"
        self._token = token
        self._access = ""
        self._lock = threading.Lock()
        # No proxy, no cookies, no files: these handlers alone.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _SameHost(),
        ):
            self._opener.add_handler(handler)

    def photo(self, told: str) -> bytes:
        """The bytes of a task's photo, by its path or URL there.

        Raises UserError, one line, for any other address, for more than `MOST_PHOTO` bytes, and for whatever
        keeps Label Studio from answering.
        """
        url = self._below(told)
        try:
            return self._read(url, self._authorization())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 401 or "." not in self._token:
                raise UserError(
                    f"{_host(url)} answers {error.code} for {told}: {self._hint(error.code)}"
                ) from None
        self._access = ""  # it has expired
        try:
            return self._read(url, self._authorization())
        except urllib.error.HTTPError as error:
            error.close()
            raise UserError(
                f"{_host(url)} answers {error.code} for {told}: {self._hint(error.code)}"
            ) from None

    def _below(self, told: str) -> str:
        """A path of Label Studio's as a URL. Its own prefix (``/studio``) is put before a path without it."""
        try:
            parts = urlsplit(told)
            own = urlsplit(self.url)
            if parts.scheme or parts.netloc:
                url = told
            elif parts.path.startswith(own.path):
                url = urljoin(self.url, told)
            else:
                url = urljoin(self.url, told.lstrip("/"))
            same = _origin(url) == _origin(self.url) and urlsplit(url).path.startswith(own.path)
        except ValueError:
            same, url = False, told
        if not same or any(ord(c) <= 32 for c in url) or not url.isascii():
            raise UserError(
                f"{told[:200]}: is not an address of {self.url}, and nothing is fetched elsewhere"
            )
        return url

    def _authorization(self) -> str:
        if "." not in self._token:  # a JWT has two dots
            return f"Token {self._token}" if self._token else ""
        with self._lock:
            if not self._access:
                self._access = self._exchanged()
            return f"Bearer {self._access}"

    def _exchanged(self) -> str:
        """A token for minutes in exchange for the personal one."""
        data = json.dumps({"refresh": self._token}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(urljoin(self.url, "api/token/refresh/"), data, headers)
        try:
            answer = json.loads(self._answer(request, MOST_ANSWER))
            access = answer["access"]
        except urllib.error.HTTPError as error:
            error.close()
            raise UserError(f"LABEL_STUDIO_API_KEY: {self.url} does not take it ({error.code})") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            access = None
        if not isinstance(access, str) or not access.isascii() or any(ord(c) <= 32 for c in access):
            raise UserError(f"LABEL_STUDIO_API_KEY: {self.url} gives no token for it")
        return access

    def _read(self, url: str, authorization: str) -> bytes:
        headers = {"Authorization": authorization} if authorization else {}
        return self._answer(urllib.request.Request(url, headers=headers), MOST_PHOTO)

    def _answer(self, request: urllib.request.Request, most: int) -> bytes:
        """At most so many bytes of an answer. HTTPError passes through."""
        try:
            with self._opener.open(request, timeout=SECONDS) as response:
                data: bytes = response.read(most + 1)
        except urllib.error.HTTPError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"{self.url} does not answer: {reason}") from None
        if len(data) > most:
            raise UserError(f"{_host(request.full_url)} sends more than {most:,} bytes")
        return data

    @staticmethod
    def _hint(code: int) -> str:
        if code in (401, 403):
            return "set LABEL_STUDIO_API_KEY to a token of Label Studio's account page"
        return "is the photo still there?"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or usual


def _host(url: str) -> str:
    return urlsplit(url).hostname or "?"
