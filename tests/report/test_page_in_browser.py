"""The page in a real browser: Debian's chromium, or Chrome, driven by playwright."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_samples import launched, needs_browser, serious_findings, watched_pages
from page_samples import explained, whole_run
from recorded_samples import recorded
from report_samples import clean, row

from inoculate.artifacts.rows import write_rows
from inoculate.attribution.explanation import save_explanations
from inoculate.report.evidence.pack import write_evidence
from inoculate.report.write import write_report

pytestmark = needs_browser
WIDTHS, SCHEMES = (390, 1400), ("light", "dark")


UNFOLD = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = whole_run(tmp_path_factory.mktemp("run"))
    return write_report(folder, folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """Opens the page with given options."""
    with watched_pages(browser, page_file.as_uri(), timeout=20_000) as opening:
        yield opening


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_a_complaint_and_fits(opened: Any, page_file: Path, width: int, scheme: str) -> None:
    page = opened(width, color_scheme=scheme)
    assert page.complaints == []
    assert [url for url in page.requested if not url.startswith("data:")] == [page_file.as_uri()]
    page.evaluate(UNFOLD)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(OUTSIDE) == []


def test_long_names_break_rather_than_push(opened: Any, tmp_path: Path) -> None:
    name = "/home/somebody/networks/" + "resnet18-with-a-long-name-" * 12 + "final.safetensors"
    rows = [clean(name, "standard", 95), row(name), row(name, attack="pgd", correct=3)]
    write_rows(tmp_path / "results.json", rows)
    save_explanations(tmp_path, [explained("mnist", name, arm) for arm in ("standard", "hardened")])
    page = opened(390)
    page.goto(write_report(tmp_path, tmp_path / "page.html").as_uri())
    assert page.locator(".case:visible").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(OUTSIDE) == []


def test_every_figure_and_picture_is_drawn(opened: Any) -> None:
    page = opened()
    figures = page.evaluate(
        """[...document.querySelectorAll('main svg')].map((svg) => {
             const box = svg.getBoundingClientRect();
             return [box.width, box.height, svg.querySelectorAll('path, use, rect').length]; })"""
    )
    assert len(figures) > 30
    assert all(width > 200 and height > 60 and marks > 5 for width, height, marks in figures)
    page.select_option("select[data-filter=model] >> nth=0", "")
    loaded = page.evaluate("[...document.images].map((image) => [image.complete, image.naturalWidth])")
    assert len(loaded) > 100
    assert all(complete and size == 16 for complete, size in loaded)


def column(page: Any, table: int, number: int) -> list[str]:
    cells = page.locator("table.sortable").nth(table).locator(f"tbody tr > :nth-child({number})")
    return list(cells.all_inner_texts())


def test_tables_sort_by_click_and_by_keyboard(opened: Any) -> None:
    page = opened()
    page.evaluate(UNFOLD)
    tables = page.locator("table.sortable")
    foot = tables.nth(1).locator("tfoot").inner_text()
    before = column(page, 1, 3)
    button = tables.nth(1).locator("thead th").nth(2).get_by_role("button")
    button.click()
    up = column(page, 1, 3)
    assert [float(cell.split()[0]) for cell in up] == sorted(float(cell.split()[0]) for cell in before)
    assert up != before
    assert tables.nth(1).locator("thead th").nth(2).get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert [float(cell.split()[0]) for cell in column(page, 1, 3)] == sorted(
        (float(cell.split()[0]) for cell in before), reverse=True
    )
    page.keyboard.press("Space")
    assert column(page, 1, 3) == up
    assert tables.nth(1).locator("tfoot").inner_text() == foot
    names = tables.nth(1).locator("thead th").nth(0)
    names.get_by_role("button").click()
    assert column(page, 1, 1) == sorted(column(page, 1, 1))
    assert page.locator("[aria-sort]").count() == 1


def test_the_images_of_a_network_and_an_arm_are_chosen_by_keyboard(opened: Any) -> None:
    page = opened()
    form = page.locator("form.controls").first
    cases, arms = page.locator(".cases").first.locator(".case:visible"), page.locator(".cases").first
    assert cases.count() == 3  # the first network's
    form.locator("select").nth(0).focus()
    page.keyboard.press("ArrowDown")
    assert form.locator("select").nth(0).input_value() == "resnet50"
    assert all(text.startswith("resnet50") for text in cases.locator("h4").all_inner_texts())
    page.keyboard.press("Home")
    assert cases.count() == 6
    assert form.locator("output").inner_text() == "6 images"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert set(arms.locator(".arm:visible strong").all_inner_texts()) == {"standard"}


def test_everything_can_be_reached_by_keyboard_and_the_focus_is_seen(opened: Any) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.evaluate(UNFOLD)
    seen = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        if {"A", "BUTTON", "DIV", "SUMMARY", "SPAN", "INPUT", "SELECT"} <= seen:
            break
    assert {"A", "BUTTON", "DIV", "SUMMARY", "SPAN", "INPUT", "SELECT"} <= seen
    cannot = page.evaluate(
        """[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth && e.tabIndex < 0)"""
    )
    assert cannot == []


def test_without_javascript_all_is_readable(opened: Any) -> None:
    page = opened(390, java_script_enabled=False)
    assert page.locator(".case:visible").count() == 12
    assert page.locator("form.controls:visible").count() == 0
    assert page.locator("thead button").count() == 0
    assert page.locator("table:visible").count() > 10


def test_printed_it_shows_every_image_and_no_controls(opened: Any) -> None:
    page = opened()
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".case:visible").count() == 12
    assert page.locator("form.controls:visible, nav:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.answer a')).color") == "rgb(11, 94, 168)"
    assert len(page.pdf(format="A4")) > 10_000


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrast_is_enough_to_read(opened: Any, scheme: str) -> None:
    """WCAG 2.2 AA: text 4.5 to 1, large text 3 to 1; lines and marks of figures 3 to 1 against the page."""
    page = opened(1400, color_scheme=scheme)
    assert page.evaluate(POOR_TEXT) == []
    assert page.evaluate(POOR_MARKS) == []


def test_it_is_in_order_for_those_who_do_not_see_it(opened: Any) -> None:
    page = opened()
    assert page.title() == "both sizes: robustness report"
    assert page.locator("html").get_attribute("lang") == "en"
    levels = [
        int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => h.tagName)")
    ]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("[...document.images].every((image) => image.alt.trim().length > 3)")
    assert page.evaluate(
        "[...document.querySelectorAll('svg')].every((svg) => svg.getAttribute('role') === 'img' "
        "&& svg.getAttribute('aria-label').length > 20)"
    )
    assert page.evaluate("[...document.querySelectorAll('select')].every((each) => each.labels.length === 1)")
    assert page.evaluate("[...document.querySelectorAll('th')].every((each) => each.scope)")
    for landmark in ("main", "nav", "header"):
        assert page.locator(landmark).count() == 1
    small = page.evaluate(
        """[...document.querySelectorAll('nav a, button, select, summary')].filter((each) => {
             const box = each.getBoundingClientRect(); return box.height > 0 && box.height < 18; })"""
    )
    assert small == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, page_file: Path) -> dict[str, Path]:
    """A study, one model, and a comparison of two."""
    place = tmp_path_factory.mktemp("pages")
    one = recorded(place / "one", [0.02, 0.005, 0.0, 0.5] * 8, model="/nets/a-rather-long-name-of-a-network.onnx")
    other = recorded(place / "other", [0.5, 0.005, 0.5, 0.5] * 8, model="other", checks=(True, None, False))
    return {
        "study": page_file,
        "model": write_report(one, place / "model.html"),
        "comparison": write_report([one, other], place / "comparison.html"),
    }


@pytest.mark.parametrize("kind", ["model", "comparison"])
@pytest.mark.parametrize("width", WIDTHS)
def test_other_pages_fit_and_answer_before_the_third_screen(
    opened: Any, pages: dict[str, Path], kind: str, width: int
) -> None:
    page = opened(width)
    page.goto(pages[kind].as_uri())
    places = page.evaluate(
        "[...document.querySelectorAll('.answer, .picture')].map((e) => e.getBoundingClientRect().bottom)"
    )
    assert len(places) >= 4
    assert max(places) < 2 * 844
    page.evaluate(UNFOLD)
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("kind", ["study", "model", "comparison"])
def test_the_first_screen_leaves_no_room_for_another_answer(opened: Any, pages: dict[str, Path], kind: str) -> None:
    page = opened()
    page.goto(pages[kind].as_uri())
    cards = page.evaluate(
        """[...document.querySelectorAll('.hero:not(.many) .picture, .answer')].map((each) => {
             const box = each.getBoundingClientRect(); return [box.left, box.top, box.bottom]; })"""
    )
    first, second = (
        [(top, bottom) for at, top, bottom in cards if at == left] for left in sorted({at for at, _, _ in cards})
    )
    assert first[0][0] == second[0][0]
    top, bottom = second[0]
    assert second[-1][1] - first[-1][1] < bottom - top + 16


def test_a_slider_shows_what_falls_at_each_eps_by_keyboard(opened: Any, pages: dict[str, Path]) -> None:
    page = opened()
    page.goto(pages["model"].as_uri())
    words, wrong = page.locator("form.slider output"), page.locator(".tile.wrong")
    assert words.inner_text().startswith("no attack: "), "at first where the first images fail"
    page.locator("form.slider input").focus()
    page.keyboard.press("End")
    assert words.inner_text() == "eps 0.03: 6 of these 6 wrong"
    page.keyboard.press("Home")
    assert words.inner_text() == f"no attack: {wrong.count()} of these 6 wrong"
    first = wrong.count()
    page.keyboard.press("ArrowRight")
    assert words.inner_text() == f"eps 0.01: {wrong.count()} of these 6 wrong"
    assert 0 < first < wrong.count() < 6
    assert "still right" in page.locator(".tile:not(.wrong)").first.inner_text()


def test_a_bar_says_its_interval_and_n_on_focus(opened: Any, pages: dict[str, Path]) -> None:
    page = opened()
    page.goto(pages["model"].as_uri())
    page.locator(".ladder .bar").last.focus()
    tip = page.evaluate("getComputedStyle(document.activeElement, '::after').content")
    assert "95 % interval" in tip
    assert "n = 32" in tip
    above = page.evaluate(
        """(() => { const bar = document.activeElement, { left, top } = bar.getBoundingClientRect();
             return document.elementFromPoint(left + 9, top - 9) === bar; })()"""
    )
    assert above, "below the last bar, the tip would be cut at the end of the column"


@pytest.mark.parametrize("javascript", [True, False])
def test_the_contents_are_a_menu_where_it_is_narrow_and_a_column_where_it_is_wide(
    opened: Any, javascript: bool
) -> None:
    narrow, wide = (opened(width, java_script_enabled=javascript) for width in WIDTHS)
    assert narrow.locator("nav a:visible").count() == 0
    narrow.locator("nav summary").click()
    assert narrow.locator("nav a:visible").count() > 5
    assert wide.locator("nav a:visible").count() > 5
    assert wide.evaluate("document.querySelector('nav').getBoundingClientRect().right") < wide.evaluate(
        "document.querySelector('main').getBoundingClientRect().left"
    )


@pytest.mark.parametrize("kind", ["study", "model", "comparison"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_automated_audit_finds_nothing_serious(opened: Any, pages: dict[str, Path], kind: str, scheme: str) -> None:
    page = opened(390, color_scheme=scheme, bypass_csp=True)
    page.goto(pages[kind].as_uri())
    page.evaluate(UNFOLD)
    assert serious_findings(page) == []


# Elements that lie side by side must not cover one another.
OVERLAPS = """
(() => {
  const found = [];
  for (const parent of document.querySelectorAll(
      'body, main, section, .figures, .strip, .cases, .case, .arms, .arm, .heatmaps, .key, .controls, nav ol, ' +
      '.table, .hero, .pictures, .picture, .answers, .answer, .ladder li, .classes li, ' +
      '.tiles, .tile, .slider, header')) {
    const boxes = [...parent.children].filter((e) => !e.matches('.skip, script, .unseen'))
      .flatMap((e) => [...e.getClientRects()].map((b) => [e, b])).filter(([, b]) => b.width && b.height);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).filter(([other]) => other !== one).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 1) found.push(`${one.className || one.tagName} / ${other.className || other.tagName}`);
    }));
  }
  return found;
})()
"""
# Nothing reaches beyond the page's edge, apart from what scrolls in a box of its own.
OUTSIDE = """
[...document.querySelectorAll('main *, header *, nav *')]
  .filter((e) => !e.closest('.scroll') && !e.closest('svg') && e.getBoundingClientRect().width)
  .filter((e) => { const b = e.getBoundingClientRect(); return b.right > innerWidth + 1 || b.left < -1; })
  .map((e) => e.tagName + ' ' + e.textContent.slice(0, 30))
"""
_LUMINANCE = """
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  const over = (color, below) => {  // a colour as it looks on another, 0 to 255
    pen.fillStyle = `rgb(${below.join(',')})`; pen.fillRect(0, 0, 1, 1);
    pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const ground = (e) => { const chain = []; for (let n = e; n instanceof Element; n = n.parentElement) chain.unshift(n);
    return chain.reduce((below, n) => over(getComputedStyle(n).backgroundColor, below), [255, 255, 255]); };
"""
POOR_TEXT = (
    "(() => {"
    + _LUMINANCE
    + """
  const found = new Set();
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.matches('script, style, option')) continue;
    const style = getComputedStyle(e), below = ground(e), inFigure = e.closest('svg');
    const color = over(inFigure ? (style.fill === 'none' ? style.color : style.fill) : style.color, below);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = contrast(color, below);
    if (ratio < (large ? 3 : 4.5)) found.add(`${e.tagName} ${e.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return [...found];
})()"""
)
POOR_MARKS = (
    "(() => {"
    + _LUMINANCE
    + """
  const below = ground(document.body), found = new Set();
  const names = ['standard', 'augmented', 'transferred', 'duplicates', 'noise',
    ...[0, 1, 2, 3].map((n) => `spare-${n}`)];
  for (const name of names) {
    const color = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
    const ratio = contrast(over(color, below), below);
    if (!color || ratio < 3) found.add(`${name} ${ratio.toFixed(2)}`);
  }
  return [...found];
})()"""
)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_of_evidence_is_quiet_and_fits_a_telephone(
    opened: Any, page_file: Path, tmp_path: Path, scheme: str
) -> None:
    page = opened(width=390, color_scheme=scheme)
    page.requested.clear()
    write_evidence(page_file.parent, tmp_path)
    address = (tmp_path / "evidence.html").as_uri()
    page.goto(address)
    assert page.complaints == []
    assert page.requested == [address]
    for element in page.query_selector_all("details"):
        element.evaluate("element => element.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    missing = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash)).length"
    assert page.evaluate(missing) == 0
