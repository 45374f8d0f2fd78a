"""The system's Chromium without a window, driven by Playwright, for the tests of the report page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api as playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
FLAGS = (
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--no-first-run",
)
PATIENCE = 60_000  # milliseconds for an answer; a machine may be busy


class Browser:
    """One tab of a fresh profile for every page that is opened.

    ``complaints`` holds the errors and console messages of all pages, ``requests`` the addresses that they
    asked for, ``opened`` the addresses that the test opened.
    """

    def __init__(self, chromium: playwright.Browser) -> None:
        self._chromium = chromium
        self._tab: playwright.Page | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.opened: set[str] = set()

    @property
    def tab(self) -> playwright.Page:
        assert self._tab is not None, "open a page first"
        return self._tab

    def open(
        self,
        page: Path,
        fragment: str = "",
        width: int = 1280,
        height: int = 900,
        phone: bool = False,
        scheme: str = "light",
    ) -> None:
        """Load a page in a window of that size in pixels, and wait until it is loaded.

        A ``phone`` lays the page out as wide as the page asks for, and is touched. ``scheme`` is the colour
        scheme that the reader prefers, light or dark.
        """
        self.close()
        context = self._chromium.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=1 + phone,
            is_mobile=phone,
            has_touch=phone,
            color_scheme=scheme,
        )
        context.set_default_timeout(PATIENCE)
        self._tab = context.new_page()
        self._tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self._tab.on("console", lambda message: self.complaints.append(message.text))
        self._tab.on("request", lambda request: self.requests.append(request.url))
        self.opened.add(page.as_uri())
        self._tab.goto(page.as_uri() + fragment)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression. The page is at rest before and after its evaluation.

        A page is at rest after two frames: what an event changed is drawn by then, and images that came into
        view have content.
        """
        rest = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        return self.tab.evaluate(f"async () => {{ {rest}; const value = {script}; {rest}; return value }}")

    def until(self, condition: str) -> None:
        """Wait for an expression to become true."""
        self.tab.wait_for_function(condition)

    def tap(self, selector: str) -> None:
        """Touch the middle of an element."""
        self.tab.tap(selector)

    def press(self, key: str) -> None:
        """Press a key of the keyboard, by its name in the DOM."""
        self.tab.keyboard.press(key)

    def private_megabytes(self) -> float:
        """Memory in MiB that the tab's process shares with no other; needs Linux."""
        processes = self._chromium.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        sizes = []
        for process in processes:
            if process["type"] == "renderer":
                text = Path(f"/proc/{process['id']}/smaps_rollup").read_text()
                sizes.append(sum(map(int, re.findall(r"Private_(?:Clean|Dirty): +(\d+) kB", text))) / 1024)
        return max(sizes)

    def close(self) -> None:
        if self._tab is not None:
            self._tab.context.close()
            self._tab = None


@pytest.fixture(scope="module")  # Playwright's event loop would be in the way of other files' tests
def chromium() -> Iterator[playwright.Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(NAMES)}): apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Without the sandbox, which root and most containers do not have; the pages are the tests' own.
        chromium = driver.chromium.launch(executable_path=program, args=list(FLAGS), chromium_sandbox=False)
        yield chromium
        chromium.close()


@pytest.fixture
def browser(chromium: playwright.Browser) -> Iterator[Browser]:
    """A browser; in the end no page may have complained, or have asked for any address but its own."""
    browser = Browser(chromium)
    yield browser
    browser.run("0")  # the messages of the page until here have then arrived
    browser.close()
    assert browser.complaints == []
    assert {address.partition("#")[0] for address in browser.requests} == browser.opened
