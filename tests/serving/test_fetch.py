"""A photo comes from Label Studio alone, by either kind of its tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spp_det.errors import UserError
from spp_det.serving import fetch
from spp_det.serving.fetch import LabelStudio

LEGACY, PERSONAL = "abcdef0123456789", "head.refresh.sign"


class Host(ThreadingHTTPServer):
    """A host that notes what it was asked for, and by which token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []
        self.access = "head.access1.sign"
        self.redirect = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "")
        self.server.asked.append((self.path, token))
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
        elif token not in (f"Token {LEGACY}", f"Bearer {self.server.access}"):
            self.answer(401, b"")
        elif "missing" in self.path:
            self.answer(404, b"")
        else:
            self.answer(200, b"photo" * 10)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body.get("refresh", "")))
        known = body == {"refresh": PERSONAL}
        self.answer(
            200 if known else 401, json.dumps({"access": self.server.access}).encode() if known else b"{}"
        )

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Host]:
    server = Host()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("told", ["/data/upload/1/a.jpg", "data/upload/1/a.jpg", "{url}/data/upload/1/a.jpg"])
def test_a_legacy_token_is_sent_as_it_is(host, told):
    assert LabelStudio(host.url, LEGACY).photo(told.format(url=host.url)) == b"photo" * 10
    assert host.asked == [("/data/upload/1/a.jpg", f"Token {LEGACY}")]


def test_a_personal_token_is_exchanged_once_and_again_when_it_has_expired(host):
    studio = LabelStudio(host.url, PERSONAL)
    studio.photo("/a.jpg")
    studio.photo("/b.jpg")
    refresh, first = ("/api/token/refresh/", PERSONAL), "Bearer head.access1.sign"
    assert host.asked == [refresh, ("/a.jpg", first), ("/b.jpg", first)]
    host.access = "head.access2.sign"
    assert studio.photo("/c.jpg") == b"photo" * 10
    assert host.asked[3:] == [("/c.jpg", first), refresh, ("/c.jpg", "Bearer head.access2.sign")]


def test_a_prefix_of_paths_is_kept(host):
    studio = LabelStudio(f"{host.url}/studio", LEGACY)
    studio.photo("/data/a.jpg")
    studio.photo("/studio/data/b.jpg")
    assert [path for path, _ in host.asked] == ["/studio/data/a.jpg", "/studio/data/b.jpg"]
    with pytest.raises(UserError, match="nothing is fetched elsewhere"):
        studio.photo(f"{host.url}/other/a.jpg")


@pytest.mark.parametrize(
    "told",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://{netloc}/a.jpg",
        "//evil.example/a.jpg",
        "http://evil.example/{netloc}",
        "http://user@{netloc}@evil.example/",
        "file:///etc/passwd",
        "ftp://{netloc}/a.jpg",
        "s3://bucket/a.jpg",
        "gopher://{netloc}/",
        "http://{netloc}:1/a.jpg",
        "http://[::1/a.jpg",
        "/a.jpg\r\nX: y",
        "/a b.jpg",
        "/ä.jpg",
    ],
)
def test_no_other_address_is_asked(host, told, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a name is looked up"))
    with pytest.raises(UserError) as refused:
        LabelStudio(host.url, LEGACY).photo(told.format(netloc=host.url.removeprefix("http://")))
    assert "\n" not in str(refused.value)
    assert host.asked == []


def test_a_redirect_within_the_host_is_followed_and_no_other(host):
    studio = LabelStudio(host.url, LEGACY)
    host.redirect = "/data/a.jpg"
    assert studio.photo("/away") == b"photo" * 10
    second = Host()
    threading.Thread(target=second.serve_forever, args=(0.01,), daemon=True).start()
    for place in (f"{second.url}/data/a.jpg", "file:///etc/passwd", f"//127.0.0.1:{second.server_port}/a"):
        host.redirect = place
        with pytest.raises(UserError):
            studio.photo("/away")
    assert second.asked == []
    second.shutdown()
    second.server_close()


def test_too_many_bytes_are_refused(host, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_PHOTO", 49)
    with pytest.raises(UserError, match="more than 49 bytes"):
        LabelStudio(host.url, LEGACY).photo("/a.jpg")


@pytest.mark.parametrize(
    ("token", "path", "why"),
    [
        ("wrong", "/a.jpg", "LABEL_STUDIO_API_KEY"),
        ("", "/a.jpg", "LABEL_STUDIO_API_KEY"),
        ("a.wrong.one", "/a.jpg", "does not take it"),
        (LEGACY, "/missing.jpg", "404"),
    ],
)
def test_what_keeps_it_from_a_photo_is_said_in_a_line(host, token, path, why):
    with pytest.raises(UserError, match=why):
        LabelStudio(host.url, token).photo(path)


def test_a_host_that_is_not_there_is_said_in_a_line():
    with pytest.raises(UserError, match="does not answer"):
        LabelStudio("http://127.0.0.1:9", LEGACY).photo("/a.jpg")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://a", "http://", "http://a:b@c/", "http://a/?x=1"]
)
def test_an_address_is_one_of_http(url):
    with pytest.raises(UserError, match="--label-studio"):
        LabelStudio(url, "")
