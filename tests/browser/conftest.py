"""A browser on the live server, as a person has it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools import browser

if os.environ.get("FOVEA_NEEDS_BROWSER"):
    import playwright.sync_api as playwright
else:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

SHOTS = Path(__file__).resolve().parent.parent.parent / "output" / "browser"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MISSING = "no Chromium is installed (apt-get install chromium)"


STATE = """() => {
    const all = (selector, of) => [...document.querySelectorAll(selector)].map(of);
    const place = one => { const { x, y, width, height } = one.getBoundingClientRect(); return [x, y, width, height]; };
    return {
        nodes: window.app?.graph?.nodes?.map(node => [node.type, ...node.pos, ...node.size]),
        seen: [window.app?.canvas?.ds?.scale, ...window.app?.canvas?.ds?.offset ?? []],
        painters: all('.fovea-painter, .fovea-stage, .fovea-paper', one => [one.className, ...place(one)]),
        focus: document.activeElement?.outerHTML.slice(0, 200),
        open: all('[role=dialog], [role=listbox]', one => one.innerText),
    };
}"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator:
    """Say what the page held when a test failed: elsewhere nobody sees its screen."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if call.when == "call" and report.failed and page is not None:
        try:
            state = json.dumps(page.evaluate(STATE))
            page.screenshot(path=SHOTS / "failed.png")
        except playwright.Error as error:
            state = f"the page does not answer: {error}"
        report.sections.append(("the page", "\n".join([state, *page.complaints])))
    return report


@pytest.fixture(scope="module")  # no longer: tests elsewhere start event loops of their own, beside Playwright's
def chromium() -> Iterator:
    """One browser for all tests of a file: its start takes a second, and every test has a profile of its own anyway."""
    path = browser.find()
    if path is None:
        if os.environ.get("FOVEA_NEEDS_BROWSER"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    SHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


@pytest.fixture
def page(live, chromium) -> Iterator:
    """A fresh profile on the live server's address; console errors are collected in page.complaints.

    People can ask for less motion; here it spares the computer, which draws all of it without a GPU.
    """
    profile = chromium.new_context(viewport={"width": 1900, "height": 1080}, reduced_motion="reduce")
    try:
        page = profile.new_page()
        page.set_default_timeout(120_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(f"{error} {error.stack}"))
        page.on("console", lambda line: page.complaints.append(f"{line.text} {line.location.get('url', '')}")
                if line.type == "error" else None)  # fmt: skip
        page.ours = lambda: [text for text in page.complaints if "fovea" in text.lower()]
        yield page
    finally:
        profile.close()


@pytest.fixture
def loras(live) -> Iterator[Path]:
    """The server's folder of LoRAs. What a test puts there is gone after it."""
    folder = live.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    try:
        yield folder
    finally:
        for file in set(folder.iterdir()) - before:
            file.unlink()


@pytest.fixture
def settings(client) -> Callable[..., None]:
    """The editor's settings live on the server; without the first flag it opens with a tour."""

    def change(**values: object) -> None:
        usual = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en"}
        wished = {name.replace("__", "."): value for name, value in values.items()}
        for name, value in (usual | wished).items():
            reply = client.session.post(f"{client.address}/settings/{name}", data=json.dumps(value), timeout=60)
            reply.raise_for_status()

    return change
