"""The pages as a browser shows them: one browser for all."""

import re
import shutil

import pytest
from helpers import metrics_of, rows
from stub_processes import evaluated_study

from kit.files import write_jsonl
from kit.report.certify import certify_run
from kit.report.config import CertifyConfig, CurvesConfig, LookConfig, ReportConfig
from kit.report.curves import curves
from kit.report.look import look
from kit.report.report import report

MODE = "caption_reason_answer"
chromium = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not chromium, reason="no browser: apt-get install chromium"),
]

GRPO = {
    "reward": 0.1, "rewards/format/mean": 0.2, "rewards/answer/mean": 0.3, "kl": 0.01,
    "entropy": 0.5, "completions/mean_length": 9.0, "time/rollout": 1.0, "time/update": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, written):
    """Opens the report, offline, and fails for anything that the console says."""
    said = []

    def at(width: int = 1280, scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{written / 'report.html'}")
        page.wait_for_selector(".js-plotly-plot .main-svg")
        return page

    yield at
    assert said == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (820, "dark")])
def test_the_page_fits_its_window_and_shows_its_plots(opened, evaluations, width, scheme):
    """And its verdict above the fold."""
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    plots = page.locator("[data-figure]:visible")
    assert plots.count() >= 7
    drawn = page.evaluate(
        "[...document.querySelectorAll('[data-figure]')].filter(e => e.offsetParent)"
        ".every(e => e.querySelectorAll('.main-svg .trace').length > 0)"
    )
    assert drawn
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.body).color")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink)]
    assert (light[0] > light[1]) == (scheme == "light")
    assert abs(light[0] - light[1]) > 450  # readable
    box = page.locator(".short .lead:visible").first.bounding_box()
    assert box["y"] + box["height"] < 900
    lead = page.locator(".short .lead:visible").first.inner_text()
    metrics = {name: metrics_of(folder) for name, folder in evaluations.items()}
    name = f"{MODE}/exact/all"
    best = max(metrics, key=lambda model: metrics[model][name])
    assert lead.startswith(best)
    assert f"{100 * metrics[best][name]:.1f}%" in lead
    assert page.locator("#failure-cards .card").count() == 3


def test_filters_show_what_they_say(opened):
    page = opened()
    page.click("#f-clear")
    cards = page.evaluate("CARDS")
    own = [card for card in cards if card["mode"] == MODE]

    def count() -> int:
        return int(page.locator("#count").inner_text().split(" of ")[1].split()[0])

    assert count() == len(own)
    for field in ("model", "modality", "content_type", "answer_type"):
        for value in {card[field] for card in own if card[field]}:
            if page.locator(f"#f-{field}").is_visible():
                page.select_option(f"#f-{field}", value)
                assert count() == sum(card[field] == value for card in own)
        page.click("#f-clear")
    for kind in {kind for card in own for kind in card["kinds"]}:
        page.select_option("#f-kind", kind)
        assert count() == sum(kind in card["kinds"] for card in own)
        assert page.locator("#meaning").inner_text()
    page.click("#f-clear")
    page.select_option("#f-right", "wrong")
    assert count() == sum(not card["right"] for card in own)
    page.fill("#f-search", "no such words anywhere")
    assert count() == 0
    page.click("#f-clear")
    while page.locator("#more").is_visible():
        page.click("#more")
    assert page.locator("#cards .card").count() == len(own)


def test_pictures_load_and_boxes_lie_on_them(opened):
    page = opened()
    loaded = page.evaluate(
        "Promise.all([...document.querySelectorAll('#failure-cards img, #cards img')]"
        ".map(i => { i.loading = 'eager'; return i.decode().then(() => i.naturalWidth > 0); }))"
    )
    assert loaded
    assert all(loaded)
    inside = page.evaluate(
        "[...document.querySelectorAll('.picture svg rect')].filter(r => r.closest('details')"
        " === null).every(r => { const a = r.getBoundingClientRect(),"
        " b = r.closest('.picture').getBoundingClientRect(); return a.left >= b.left - 3 &&"
        " a.right <= b.right + 3 && a.top >= b.top - 3 && a.bottom <= b.bottom + 3; })"
    )
    assert inside


def test_mode_and_theme_are_switched(opened):
    page = opened()
    shown = page.locator(".short:visible")
    first = shown.all_inner_texts()
    page.select_option("#mode", "think_answer")
    assert shown.all_inner_texts() != first
    assert page.locator("[data-figure='boxes']").is_hidden()  # no boxes in that mode
    assert page.locator("[data-figure='flips']").is_visible()
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    colour = page.evaluate("document.querySelector('[data-figure=images]').layout.font.color")
    assert colour == page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    )


def test_what_a_model_says_is_shown_as_text(browser, evaluations, tmp_path):
    """Markup in an answer neither runs nor ends the script that carries it."""
    folder = tmp_path / "evil"
    shutil.copytree(evaluations["base"], folder)
    own = rows(folder, "predictions.jsonl")
    evil = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    for row in own:
        row |= {"answer": evil, "caption": evil, "question": evil, "problem": evil, "text": evil}
    write_jsonl(folder / "predictions.jsonl", own)
    report(ReportConfig(evaluations=[f"<b>evil</b>={folder}"], output=str(tmp_path / "out")))
    page = browser.new_page()
    page.goto(f"file://{tmp_path / 'out' / 'report.html'}")
    page.wait_for_selector("#cards .card")
    assert evil in page.locator("#cards .card h3").first.inner_text()
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_curves_are_drawn_and_smoothed(width, scheme, browser, run_of, tmp_path):
    folders = [run_of(tmp_path / "sft", 7), run_of(tmp_path / "grpo", 5, **GRPO)]
    page_file = tmp_path / "curves.html"
    curves(CurvesConfig(runs=[str(f) for f in folders], output=str(page_file)))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"file://{page_file}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".js-plotly-plot .main-svg .trace").count() >= 8
    loss = "document.querySelector('[data-figure=loss]').data[0].y"
    assert page.evaluate(loss) == [1 / n for n in range(1, 8)]
    page.select_option("#smoothing", "0.8")
    smooth, expected, mass = page.evaluate(loss), 0.0, 0.0
    for value, n in zip(smooth, range(1, 8), strict=True):
        expected, mass = 0.8 * expected + 0.2 / n, 0.8 * mass + 0.2
        assert value == pytest.approx(expected / mass)
    assert said == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_records_are_filtered_and_their_boxes_lie_on_them(
    width, scheme, browser, prepared, tmp_path
):
    look(LookConfig(data=str(prepared["train"]), output=str(tmp_path / "look.html"), limit=40))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"file://{tmp_path / 'look.html'}")
    page.wait_for_selector("#cards .card")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cards = page.evaluate("CARDS")

    def count() -> int:
        return int(page.locator("#count").inner_text().split(" of ")[1].split()[0])

    assert count() == len(cards)
    page.select_option("#f-boxes", "yes")
    boxed = [card for card in cards if card["views"][0]["boxes"]]
    assert 0 < count() == len(boxed) < len(cards)
    drawn = page.locator("#cards .card").first.locator("svg rect")
    assert drawn.count() == len(boxed[0]["views"][0]["boxes"])
    outside = "e => { const a = e.getBoundingClientRect(), b = e.closest('.picture')"
    outside += (
        ".getBoundingClientRect(); return a.right > b.right + 3 || a.bottom > b.bottom + 3; }"
    )
    assert not drawn.first.evaluate(outside)
    page.fill("#f-search", boxed[0]["question"])
    assert 0 < count() == sum(card["question"] == boxed[0]["question"] for card in boxed)
    page.locator("#cards summary").first.click()
    assert page.locator("#cards pre").nth(1).inner_text() == boxed[0]["texts"][1][1]
    page.click("#f-clear")
    assert count() == len(cards)
    if page.locator("[data-why]").count():
        page.locator("[data-why]").first.click()
        assert 0 < count() < len(cards)
    assert said == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_certificate_shows_its_curve_and_what_it_withholds(
    width, scheme, browser, evaluations, tmp_path
):
    config = {"evaluation": str(evaluations["sft"]), "output": str(tmp_path), "need": 1e-9}
    certify_run(CertifyConfig(**config, resplits=2))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"file://{tmp_path / 'certificate.html'}")
    page.wait_for_selector(".js-plotly-plot .main-svg .trace")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".short .lead").inner_text() == "Nothing is certified."
    cards = page.evaluate("CARDS")
    page.select_option("#f-kind", "boxless")
    boxless = [card for card in cards if card["kinds"] == ["boxless"]]
    assert 0 < len(boxless) == page.locator("#cards .card").count() < len(cards)
    assert all("Withheld" in text for text in page.locator("#cards .card").all_inner_texts())
    assert said == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_study_fits_its_window_and_shows_its_plots(width, scheme, browser, tmp_path):
    folder = evaluated_study(tmp_path)
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"file://{folder / 'out/page/study.html'}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".js-plotly-plot .errorbars").count() >= 3
    assert page.locator("td.good:visible").count() == 2, "exact match and evidence gap of one"
    assert page.locator("td.bad:visible").count() == 1
    box = page.locator(".short .lead").bounding_box()
    assert box["y"] + box["height"] < 900
    page.click("summary:has-text('All metrics')")
    assert page.locator("td:has-text('LLaVA-Med')").count() == 0
    assert page.locator("td:visible:has-text('exact match, open')").count() == 1
    assert said == []
