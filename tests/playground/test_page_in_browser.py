"""The page in a real browser, used as a person does: by pointer, by keyboard alone, on a telephone, with a bad file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_samples import launched, needs_browser, serious_findings, watched_pages
from digits_samples import trained_digits
from playground_samples import OFFERED
from upload_samples import HOSTILE, encoded, noise

from inoculate.core.threat import Threat
from inoculate.playground.play import PlayOptions, play
from inoculate.playground.serve import Playground
from inoculate.playground.upload import LARGEST_FILE

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'inoculate[play]'")
pytestmark = needs_browser


@pytest.fixture(scope="module")
def served(digits: Any, other: Any) -> Iterator[Playground]:
    with play(trained_digits()[0], digits, OFFERED, Threat("linf", 0.1), hardened=other) as page:
        yield page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any, served: Playground) -> Iterator[Any]:
    """Opens the page and waits for its first answer."""
    with watched_pages(browser, served.url, timeout=60_000) as opening:

        def opened_and_settled(width: int = 1400, scheme: str = "light", **options: Any) -> Any:
            page = opening(width, color_scheme=scheme, **options)
            settled(page)
            return page

        yield opened_and_settled


def settled(page: Any, words: str = "") -> None:
    """Wait until the answer that holds these words is complete."""
    page.locator("#answer .about", has_text=words).wait_for()
    page.locator("#answer .waiting").first.wait_for(state="detached")


def about(page: Any) -> str:
    return str(page.locator("#answer .about").inner_text())


def answered_anew(page: Any, before: str) -> None:
    """Wait until there is another answer than before."""
    page.wait_for_function("(old) => document.querySelector('#answer .about')?.innerText !== old", arg=before)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_it_opens_fits_and_asks_nobody_else(opened: Any, served: Playground, width: int, scheme: str) -> None:
    page = opened(width, scheme)
    assert page.locator("#answer .card").count() == 2
    assert page.locator("#answer img").count() == 14
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = [url for url in page.requested if not url.startswith((served.url, "data:", "blob:"))]
    assert outside == []
    assert page.complaints == []
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate("[...document.querySelectorAll('#answer img')].every((image) => image.naturalWidth > 0)")


@pytest.mark.slow
def test_the_slider_is_dragged(opened: Any) -> None:
    page = opened()
    slider = page.locator("#eps input[type=range]")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=12)
    page.mouse.up()
    settled(page, "eps 102/255")
    assert page.locator("#answer .fooled").count() == 2


@pytest.mark.slow
def test_an_image_and_an_attack_are_chosen(opened: Any) -> None:
    page = opened()
    before = about(page)
    page.locator("#images button.thumbnail-item").nth(4).click()
    answered_anew(page, before)
    settled(page, "on image")
    number = re.search(r"image (\d+)", about(page))
    assert number
    assert page.locator("#number input").input_value() == number[1]
    page.get_by_label("PGD").check()
    settled(page, "PGD, L∞ eps 25.5/255 on image " + number[1])
    page.locator("#attributions input").uncheck()
    page.wait_for_function("document.querySelectorAll('#answer img').length === 6")


def test_everything_is_done_by_keyboard_alone(opened: Any) -> None:
    page = opened()
    page.on("filechooser", lambda _: None)  # from here on: a listener takes effect only some time after it was added

    def reach(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    reach("#images button")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    before = about(page)
    page.keyboard.press("Enter")
    answered_anew(page, before)  # the first answer names an image, too
    settled(page, "on image")
    reach("#number input")
    page.keyboard.press("Control+a")
    page.keyboard.type("7")
    settled(page, "on image 7 of digits")
    reach("#upload button")
    with page.expect_file_chooser():
        page.keyboard.press("Enter")
    reach("#attack input[value=pgd]")
    page.keyboard.press("Space")
    settled(page, "PGD")
    reach("#eps input[type=range]")
    page.keyboard.press("End")
    settled(page, "PGD, L∞ eps 102/255 on image 7 of digits")


def test_an_image_is_uploaded_and_a_broken_file_is_refused_in_one_line(opened: Any, tmp_path: Path) -> None:
    page = opened(390)
    (tmp_path / "mine.png").write_bytes(encoded(noise(20, 16, "RGBA")))
    page.set_input_files("#upload input[type=file]", tmp_path / "mine.png")
    settled(page, "on uploaded image, without a label; transparent parts were laid on white")
    (tmp_path / "cut.png").write_bytes(HOSTILE["cut PNG"][0]())
    page.set_input_files("#upload input[type=file]", tmp_path / "cut.png")
    line = page.locator("#status .refusal")
    line.wait_for()
    assert line.inner_text() == "the image cannot be read (image file is truncated): save it again as PNG or JPEG"
    assert line.get_attribute("role") == "alert"
    assert "uploaded image" in about(page), "what was there stays"
    page.set_input_files("#upload input[type=file]", tmp_path / "mine.png")
    line.wait_for(state="detached")
    page.locator("#number input").fill("999")
    line.wait_for()
    assert line.inner_text() == "image 999 is not there: give a number from 0 to 39"


@pytest.mark.slow
def test_a_file_that_is_too_large_is_refused_and_the_page_goes_on(opened: Any, tmp_path: Path) -> None:
    page = opened()
    (tmp_path / "large.png").write_bytes(bytes(LARGEST_FILE + 1))
    page.set_input_files("#upload input[type=file]", tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size").first.wait_for()
    page.get_by_label("PGD").check()
    settled(page, "PGD")


@pytest.mark.slow
def test_what_is_uploaded_is_deleted_and_nothing_else_is_served(
    opened: Any, served: Playground, tmp_path: Path
) -> None:
    page = opened()
    (tmp_path / "very-private.png").write_bytes(encoded(noise(20, 16)))
    page.set_input_files("#upload input[type=file]", tmp_path / "very-private.png")
    settled(page, "on uploaded image")
    place = Path(served._folder.name)
    assert list(place.rglob("*very-private*.png")) == []
    for file in ("/etc/passwd", __file__, "pyproject.toml"):
        assert page.request.get(f"{served.url}gradio_api/file={file}").status in (403, 404)


def test_it_listens_on_this_machine_alone(served: Playground, digits: Any) -> None:
    assert served.url.startswith("http://127.0.0.1:")
    port = int(served.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1, port {port}"):
        play(trained_digits()[0], digits, ["fgsm"], options=PlayOptions(port=port))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_an_automated_audit_finds_nothing_serious(opened: Any, width: int, scheme: str) -> None:
    """The whole page, with Gradio's controls: before the first answer, then with an attack that fools and a refusal."""
    page = opened(width, scheme, bypass_csp=True)
    page.locator("#eps input[type=range]").press("End")
    settled(page, "eps 102/255")
    assert page.locator("#answer .fooled").count() == 2
    page.locator("#number input").fill("999")
    page.locator("#status .refusal").wait_for()
    page.wait_for_function(ANSWERED)  # an answer that is being replaced is faint, on purpose
    page.wait_for_timeout(300)  # and takes 150 ms to lose that
    assert serious_findings(page) == []
    page.route("**/queue/join*", lambda _: None)  # never answered
    page.reload()
    page.locator("#eps input[type=range]").wait_for()
    assert page.locator("#answer .about").count() == 0
    assert serious_findings(page) == []


ANSWERED = (
    "() => !document.querySelector('#answer .pending, #answer.pending') && document.querySelector('#answer .about')"
)
OUTSIDE = """
[...document.querySelectorAll('#answer *, #attack *, #eps *, #attributions *, #number *')]
  .filter((e) => e.getBoundingClientRect().width)
  .filter((e) => { const b = e.getBoundingClientRect(); return b.right > innerWidth + 1 || b.left < -1; })
  .map((e) => e.tagName + ' ' + e.textContent.slice(0, 30))
"""
