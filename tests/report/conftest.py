"""A headless Chromium, driven over the DevTools protocol's pipe: no driver, no port, no dependency."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--remote-debugging-pipe"),
)
PATIENCE = 60.0  # seconds for an answer; a machine may be busy


class Browser:
    """One tab. What its pages complain of or ask for is kept in ``complaints`` and ``requests``, and what was
    opened in ``opened``, until `forget`.
    """

    def __init__(self, program: str, profile: Path) -> None:
        (read, self._write), (self._read, write) = os.pipe(), os.pipe()
        # Chromium reads the descriptor 3 and writes to 4, whatever they are here.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write)]

        def to_three_and_four() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=to_three_and_four,
        )
        for end in (read, write, *ends):
            os.close(end)
        self._received = b""
        self._calls = 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.opened: set[str] = set()
        (tab,) = (one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next_message()
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, "Chromium does not answer"
            self._received += chunk
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, details: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(str(details["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(str(details["args"]))
        elif event == "Log.entryAdded":
            self.complaints.append(details["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif event == "Page.loadEventFired":
            self._loaded = True

    def forget(self) -> None:
        """Begin anew: nothing said, asked for or opened, no phone, the colours of the day."""
        for kept in (self.complaints, self.requests, self.opened):
            kept.clear()
        self.wear("light")

    def wear(self, scheme: str) -> None:
        """Prefer a colour scheme, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(
        self, page: Path, fragment: str = "", width: int = 1280, height: int = 900, phone: bool = False
    ) -> None:
        """Load a page anew, at that size in pixels, and wait until it is loaded.

        On a ``phone`` the page says how wide it is to be laid out, and is touched.
        """
        size = {"width": width, "height": height, "deviceScaleFactor": 1 + phone, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self._navigate("about:blank")  # a change of fragment alone would load nothing
        self.opened.add(page.as_uri())
        self._navigate(page.as_uri() + fragment)

    def _navigate(self, address: str) -> None:
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._next_message()

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript in a page at rest, which it then is again.

        At rest is two frames later: what an event asks for is drawn, and what came into view has content.
        """
        frames = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        wrapped = f"(async () => {{ {frames}; const value = {script}; {frames}; return value }})()"
        answer = self.call(
            "Runtime.evaluate", expression=wrapped, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait for an expression to become true."""
        end = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < end, f"never came true: {condition}"

    def tap(self, selector: str) -> None:
        """Touch the middle of an element that is on the screen."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({box})")
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str) -> None:
        """A key of the keyboard, by its name in the DOM."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            both = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
            self.call("Input.dispatchKeyEvent", type=kind, **both, **(text if kind == "keyDown" else {}))

    def private_megabytes(self) -> float:
        """What the tab's process holds for itself alone, in MiB; needs Linux."""
        tab, self._session = self._session, None  # processes are the whole browser's business
        processes = self.call("SystemInfo.getProcessInfo")["processInfo"]
        self._session = tab
        sizes = []
        for process in processes:
            if process["type"] == "renderer":
                text = Path(f"/proc/{process['id']}/smaps_rollup").read_text()
                sizes.append(sum(map(int, re.findall(r"Private_(?:Clean|Dirty): +(\d+) kB", text))) / 1024)
        return max(sizes)

    def close(self) -> None:
        with suppress(OSError, AssertionError):
            self._session = None
            self.call("Browser.close")
        self.process.kill()
        self.process.wait()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(NAMES)}): apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser; in the end no page may have complained, or asked for anything but itself."""
    chromium.forget()
    yield chromium
    chromium.run("0")  # what was said until here has then been heard
    assert chromium.complaints == []
    assert {address.partition("#")[0] for address in chromium.requests} == chromium.opened
