"""Pages in a real browser: Debian's chromium, or Chrome, driven by playwright. Tests that import this skip without."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")


@contextmanager
def launched() -> Iterator[Any]:
    """A browser without a window."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def watched_pages(browser: Any, address: str, timeout: int) -> Iterator[Callable[..., Any]]:
    """A function that opens the address, at a width in pixels and with options of a browser's context.

    What goes wrong is in `complaints` of the page, and what it asks for in `requested`. timeout: of waiting, in ms.
    """
    with ExitStack() as stack:

        def opening(width: int = 1400, **options: Any) -> Any:
            context = browser.new_context(viewport={"width": width, "height": 900}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(timeout)
            page.complaints, page.requested = [], []
            page.on("console", lambda message: page.complaints.append(message.text))
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on("request", lambda request: page.requested.append(request.url))
            page.goto(address)
            return page

        yield opening


def serious_findings(page: Any) -> list[str]:
    """What axe-core finds on a page: contrast, headings, alternative texts, names. The context needs `bypass_csp`."""
    axe = Path(pytest.importorskip("axe_playwright_python", reason="axe-core is not installed").__file__ or "")
    page.evaluate(axe.with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{each['id']}: {each['help']}: {', '.join(str(node['target'][-1]) for node in each['nodes'])}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
