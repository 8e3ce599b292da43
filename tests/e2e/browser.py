"""A headless Chromium and a page process, for tests of the page and for its pictures in the README.

python -m tests.e2e.browser LINK FOLDER [--person ID]    take the README's pictures of a page that runs (`noria page-link`)
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH, HEIGHT = 1280, 860


def chromium_path() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of its own, with an empty profile. Skips the test where there is no Chromium."""
    path = chromium_path()
    if path is None:
        pytest.skip("there is no Chromium on this machine (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def profile(browser: Any, folder: Path) -> Iterator[Any]:
    """A context of a browser process of its own that keeps in `folder` what it has loaded. Only such a one keeps scripts compiled,
    which is a third of the processor time that a page takes to open."""
    path = chromium_path()
    options = {"executable_path": path, "headless": True, "args": list(FLAGS), "locale": "en-US"}
    context = browser.browser_type.launch_persistent_context(folder, **options)
    try:
        yield context
    finally:
        context.close()


@contextmanager
def page_process(door_url: str, home: Path) -> Iterator[str]:
    """`python -m api.ui` on a free port, over a door; its address."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NORIA_")}
    environ |= {"NORIA_DOOR": door_url, "NORIA_HOME": str(home), "NORIA_PAGE": "http://127.0.0.1:0"}
    log = home / "page.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.ui"], stdout=subprocess.PIPE, stderr=errors, text=True, env=environ
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("page: "), log.read_text()
            yield line.removeprefix("page: ").strip()
        finally:
            process.terminate()
            process.wait()


def log_in(page: Any, link: str, query: str = "") -> None:
    """Open the link, and be at the page that it leads to."""
    address, once, token = link.partition("#")
    page.goto(f"{address}{query}{once}{token}")
    page.wait_for_selector(".n-live")


def take_pictures(link: str, folder: Path, person: str | None) -> list[Path]:
    """Every tab in both languages, of a page that runs; of its documents the first is open."""
    page_url = link.partition("/login")[0]
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        log_in(page, link)
        for lang, chat, loop, documents in (
            ("en", "Chat", "The loop", "Documents"),
            ("zh", "对话", "学习循环", "文档"),
        ):
            who = f"&person={quote(person)}" if person else ""
            page.goto(f"{page_url}/?lang={lang}{who}")
            page.get_by_role("tab", name=loop).click()
            page.wait_for_selector(".n-board")
            page.wait_for_timeout(1500)  # bars grow for half a second; a picture is not a test
            found.append(folder / f"page-loop-{lang}.png")
            page.screenshot(path=found[-1], full_page=True)
            page.get_by_role("tab", name=documents).click()
            page.locator(".n-book").first.click()
            page.wait_for_selector(".n-passages li")
            found.append(folder / f"page-documents-{lang}.png")
            page.screenshot(path=found[-1])
            page.get_by_role("tab", name=chat).click()
            page.wait_for_timeout(1500)
            found.append(folder / f"page-chat-{lang}.png")
            page.screenshot(path=found[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.browser", description="Take pictures of the page.")
    parser.add_argument("link")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--person", help="whose corrections are shown")
    given = parser.parse_args()
    for path in take_pictures(given.link, given.folder, given.person):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
