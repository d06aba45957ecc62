"""A real headless Chromium for tests of web pages.

    from browser import chromium  # noqa: F401      in the conftest.py of the folder

    def test_x(chromium):
        with visit(chromium, "http://127.0.0.1:8000/", viewport=PHONE) as page:
            page.get_by_label("Message").fill("Hello")

`visit` fails a test whose page complained (an error, a warning, a breach of the CSP) or asked another origin.
"""
import contextlib
import os
import shutil
import urllib.parse

import pytest

FLAGS = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--disable-gpu", "--disable-dev-shm-usage"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SECONDS = 20        # for anything that should come; generous, since machines are shared


@pytest.fixture(scope="module")
def chromium():
    """A browser with a fresh profile. One a module: while it runs, its thread has an event loop of Playwright's."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here, so web pages are not tested; `apt-get install chromium` cures it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        root = os.geteuid() == 0        # its sandbox refuses to run as root
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, chromium_sandbox=not root)
        yield browser
        browser.close()


@contextlib.contextmanager
def visit(browser, url, *, expected=(), **options):
    """A page of a context of its own at `url`. `expected`: parts of complaints that the test provokes on purpose;
    `options` are Playwright's for a context (viewport, color_scheme, permissions)."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(SECONDS * 1000)
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(url)
        yield page
        assert {_origin(one) for one in asked} == {_origin(url)}
        assert [one for one in complaints if not any(part in one for part in expected)] == []
    except BaseException as error:
        error.add_note(f"The page complained of {complaints}; it showed: {page.locator('body').inner_text()}")
        raise
    finally:
        context.close()


def _origin(url):
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc
