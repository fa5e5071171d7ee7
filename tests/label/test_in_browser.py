"""The page, in a real browser: what a person presses is what is kept."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from raypref.data.open_table import open_table
from raypref.data.preference_source import DataConfig
from raypref.label.desk import Desk
from raypref.label.server import LabelServer
from tests.data.labelled import PAIRS, write_parquet

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8, " ": 32, "n": 78}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


class Page:
    """A page, driven over Chromium's DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.count = socket, 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        await self.socket.send_json({"id": self.count, "method": method, "params": parameters})
        while (told := await self.socket.receive_json(timeout=60)).get("id") != self.count:
            pass
        return told["result"]

    async def evaluate(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")

    async def until(self, script: str) -> None:
        for _ in range(600):
            if await self.evaluate(script):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never true: {script}; the page shows {await self.evaluate('document.body.innerText')!r}")

    async def press(self, key: str) -> None:
        """As a keyboard does it."""
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        await self.call("Input.dispatchKeyEvent", type="rawKeyDown", **facts)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    async def click(self, element: str) -> None:
        box = await self.evaluate(f"JSON.stringify(document.getElementById('{element}').getBoundingClientRect())")
        place = {"x": json.loads(box)["x"] + 5, "y": json.loads(box)["y"] + 5, "button": "left", "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type="mousePressed", **place)
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", **place)


@pytest.fixture
def devtools(tmp_path: Path) -> Iterator[str]:
    """The address of a fresh Chromium's first page."""
    browser = subprocess.Popen(
        [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", "about:blank"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert browser.stderr is not None
    try:
        port = next(found[1] for line in browser.stderr if (found := re.search(r"ws://127.0.0.1:(\d+)/", line)))
        threading.Thread(target=browser.stderr.read, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as told:
            yield next(page["webSocketDebuggerUrl"] for page in json.load(told) if page["type"] == "page")
    finally:
        browser.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            browser.wait(20)
        browser.kill()


async def drive(devtools: str, address: str, desk: Desk) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(devtools) as socket:
        page = Page(socket)
        await page.call("Page.navigate", url=address)
        loaded = "['left', 'right'].every(side => document.getElementById(side).naturalWidth > 0)"
        await page.until(f"document.getElementById('caption')?.textContent == 'a cat' && {loaded}")
        chosen = ["ArrowLeft", "ArrowRight", " ", "n"]
        for done, key in enumerate(chosen, start=1):
            await page.press(key)
            await page.until(f"document.getElementById('count').textContent == '{done} of 6' && {loaded}")
        left = [desk._left(row) for row in range(6)]
        meant = [("first", "second")[left[0]], ("second", "first")[left[1]], "tie", "neither"]
        assert list(desk.answers.given.values()) == meant
        for done in (3, 2):
            await page.press("Backspace")
            await page.until(f"document.getElementById('count').textContent == '{done} of 6'")
        assert list(desk.answers.given.values()) == meant[:2]
        assert await page.evaluate("document.getElementById('caption').textContent") == PAIRS[2]["caption"]
        assert await page.evaluate("document.getElementById('progress').value") == 2
        await page.until(loaded)
        await page.click("right")
        await page.until("document.getElementById('count').textContent == '3 of 6'")
        assert desk.answers.given[2] == ("second", "first")[left[2]]
        for done in (4, 5, 6):
            await page.press(" ")
            await page.until(f"document.getElementById('count').textContent == '{done} of 6'")
        assert await page.evaluate("!document.getElementById('finished').hidden")
        assert await page.evaluate("document.getElementById('problem').textContent") == ""


def test_a_person_chooses_with_keys_and_mouse(tmp_path, devtools):
    desk = Desk(open_table(write_parquet(tmp_path / "set.parquet")), DataConfig(), tmp_path / "chosen.parquet", 0)
    server = LabelServer(desk, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        asyncio.run(drive(devtools, f"http://127.0.0.1:{server.server_port}/", desk))
    finally:
        server.shutdown()
        server.server_close()
    assert open_table(tmp_path / "chosen.parquet").values("label_0")[3:] == [0.5, 0.5, 0.5]
