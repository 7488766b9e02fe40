"""The site in a real browser, at the widths of a telephone and a desk. Skipped where there is no Chromium."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading

import pytest
from built_site import build

pytest.importorskip("mkdocs", reason="needs the extra `docs`")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `docs`")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

PAGES = ("index.html", "tutorial.html", "reference/configuration.html")
WIDTHS = (390, 1440)
SCHEMES = ("light", "dark")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a server on this machine shows the site."""
    done = build(folder := tmp_path_factory.mktemp("site"))
    assert done.returncode == 0, done.stdout + done.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def shown(browser, address):
    """``shown(page, width, scheme)`` opens a page; at the end nothing has gone wrong and nobody else was asked."""
    opened, wrong = [], []

    def show(page: str, width: int, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(context)
        one = context.new_page()
        one.on(
            "console", lambda said: wrong.append(f"console: {said.text}") if said.type in ("error", "warning") else None
        )
        one.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        one.on(
            "request", lambda made: None if made.url.startswith((address, "data:", "blob:")) else wrong.append(made.url)
        )
        one.on("response", lambda got: wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None)
        one.goto(f"{address}/{page}", wait_until="networkidle")
        return one

    yield show
    for context in opened:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_asks_nobody(page, width, shown):
    for scheme in SCHEMES:
        one = shown(page, width, scheme)
        wide = one.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{page} is {wide} pixels wide on a screen of {width}"
        assert one.locator("h1").first.is_visible()
        background = one.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, background[background.index("(") + 1 : -1].split(",")[:3])) > 384
        assert light == (scheme == "light"), background


@pytest.mark.parametrize("width", WIDTHS)
def test_the_search_finds_a_word(width, shown):
    one = shown("index.html", width)
    if width < 700:
        one.locator("label[for=__search].md-header__button").click()
    one.locator("input.md-search__input").click()
    one.keyboard.type("kl_threshold", delay=20)
    found = one.locator(".md-search-result__link", has_text="kl_threshold").first
    found.wait_for(timeout=20_000)
    found.click()
    one.wait_for_url("**/*.html*kl_threshold*")
