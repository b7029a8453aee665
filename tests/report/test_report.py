"""Evaluations side by side: what is written, and the page as a browser shows it."""

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from helpers import metrics_of

from kit.errors import UserError
from kit.report.cases import KINDS, choose
from kit.report.comparison import compare
from kit.report.report import ReportConfig, report
from kit.report.table import ROWS, metrics_table
from kit.report.verdict import verdict

MODE = "caption_reason_answer"
chromium = shutil.which("chromium") or shutil.which("chromium-browser")


def in_browser(test):
    """One at a time: a browser wants a core of its own."""
    skip = pytest.mark.skipif(not chromium, reason="no browser: apt-get install chromium")
    return pytest.mark.xdist_group("browser")(skip(test))


def config_of(evaluations, output, **changes) -> ReportConfig:
    entries = [f"{name}={folder}" for name, folder in evaluations.items()]
    return ReportConfig(evaluations=entries, output=str(output), **changes)


@pytest.fixture(scope="module")
def written(evaluations, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert report(config_of(evaluations, folder)) == 0
    return folder


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------- the files
def test_files_hold_metrics_differences_and_the_verdict(written, evaluations):
    found = json.loads((written / "report.json").read_text())
    metrics = {name: metrics_of(folder) for name, folder in evaluations.items()}
    assert found["metrics"] == metrics
    text = (written / "report.txt").read_text()
    assert text.startswith(metrics_table(metrics))
    by_metric = {(d["mode"], d["metric"]): d for d in found["differences"]}
    exact = by_metric[MODE, "exact/all"]
    name = f"{MODE}/exact/all"
    apart = metrics["sft"][name] - metrics["base"][name]
    assert exact["difference"] == pytest.approx(apart)
    assert (exact["a"], exact["b"], exact["n"]) == ("base", "sft", 14)
    assert "mcnemar/p_value" in exact
    shown = metrics["base"].keys() & metrics["sft"].keys()
    for name in ROWS:
        if f"{MODE}/{name}" in shown:  # but what no question has a value of for both
            few = "claimed" in name or "both" in name or "consistency@" in name
            assert few or (MODE, name) in by_metric, name
    comparisons = compare({name: rows_of(folder) for name, folder in evaluations.items()})
    for sentence in verdict(metrics, comparisons, MODE).lead:
        assert sentence in text


def test_the_same_evaluations_give_the_same_page(written, evaluations, tmp_path):
    report(config_of(evaluations, tmp_path))
    for name in ("report.html", "report.json", "report.txt"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_the_page_needs_no_network_and_tells_no_paths(written, evaluations):
    page = (written / "report.html").read_text()
    own = page.replace(script_of_plotly(), "")
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)\w""", own)
    assert set(re.findall(r"https?://[^\s\"']+", own)) <= {"http://www.w3.org/2000/svg"}
    assert str(next(iter(evaluations.values())).parent) not in own
    image = rows_of(evaluations["base"])[0]["image"]
    assert image not in own


def test_phantoms_do_not_pass_for_the_dataset_in_whose_layout_they_are(written):
    page = (written / "report.html").read_text()
    assert "they say nothing about patients" in page
    assert "ours are of drawn phantoms" in page
    assert "83.1%" in page  # a published figure stands there all the same


@functools.cache
def script_of_plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def test_one_evaluation_has_a_page_of_its_own(evaluations):
    page = (evaluations["base"] / "report.html").read_text()
    assert "tiny answers:" in page
    assert " vs " not in page.replace(script_of_plotly(), "")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "evaluations is not given"),
        (["a"], "has no name"),
        (["=a"], "has no name"),
        (["a=b", "a=c"], "a name stands twice"),
        (["a=nowhere"], "no metrics.json to read"),
    ],
)
def test_evaluations_that_cannot_be_compared(entries, message, tmp_path):
    with pytest.raises(UserError, match=message):
        report(ReportConfig(evaluations=entries, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no predictions.jsonl"), ("{", "not valid JSON"), ('{"mode": 1}', "older version")],
)
def test_predictions_that_cannot_be_read(content, message, evaluations, tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    shutil.copy(evaluations["base"] / "metrics.json", folder)
    if content is not None:
        (folder / "predictions.jsonl").write_text(content + "\n")
    with pytest.raises(UserError, match=message):
        report(ReportConfig(evaluations=[f"a={folder}"], output=str(tmp_path / "out")))


# ------------------------------------------------------------------------------- the cases
def test_cases_are_of_their_kind_and_no_more_than_asked_for(evaluations):
    rows = [row for row in rows_of(evaluations["sft"]) if row["mode"] == MODE]
    chosen = choose(rows, each=3)
    for kind in KINDS:
        fitting = [row for row in rows if kind.holds(row)]
        shown = [row for row, kinds in chosen if kind.name in kinds]
        assert len(shown) >= min(3, len(fitting))
        assert all(kind.holds(row) for row in shown)
    assert len({id(row) for row, _ in chosen}) == len(chosen) <= 3 * len(KINDS)
    wrong = [r for r, _ in choose(rows, each=1) if r["scores"]["exact"] < 1]
    surest = max(
        (r for r in rows if r["scores"]["exact"] < 1),
        key=lambda row: row["confidences"]["answer_probability"],
    )
    assert surest in wrong


# ----------------------------------------------------------------------------- the browser
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


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (820, "dark")])
def test_the_page_fits_its_window_and_shows_its_plots(opened, width, scheme):
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


@pytest.mark.slow
@in_browser
def test_the_verdict_stands_above_the_fold(opened, evaluations):
    page = opened(390)
    box = page.locator(".short .lead:visible").first.bounding_box()
    assert box["y"] + box["height"] < 900
    lead = page.locator(".short .lead:visible").first.inner_text()
    metrics = {name: metrics_of(folder) for name, folder in evaluations.items()}
    name = f"{MODE}/exact/all"
    best = max(metrics, key=lambda model: metrics[model][name])
    assert lead.startswith(best)
    assert f"{100 * metrics[best][name]:.1f}%" in lead
    assert page.locator("#failure-cards .card").count() == 3


@pytest.mark.slow
@in_browser
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


@pytest.mark.slow
@in_browser
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


@pytest.mark.slow
@in_browser
def test_mode_and_theme_are_switched(opened):
    page = opened()
    first = page.locator(".short .lead:visible").first.inner_text()
    page.select_option("#mode", "think_answer")
    assert page.locator(".short .lead:visible").first.inner_text() != first
    assert page.locator("[data-figure='boxes']").is_hidden()  # no boxes in that mode
    assert page.locator("[data-figure='flips']").is_visible()
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    colour = page.evaluate("document.querySelector('[data-figure=images]').layout.font.color")
    assert colour == page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    )


@pytest.mark.slow
@in_browser
def test_what_a_model_says_is_shown_as_text(browser, evaluations, tmp_path):
    """Markup in an answer neither runs nor ends the script that carries it."""
    folder = tmp_path / "evil"
    shutil.copytree(evaluations["base"], folder)
    rows = rows_of(folder)
    evil = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    for row in rows:
        row |= {"answer": evil, "caption": evil, "question": evil, "problem": evil, "text": evil}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(lines)
    report(ReportConfig(evaluations=[f"<b>evil</b>={folder}"], output=str(tmp_path / "out")))
    page = browser.new_page()
    page.goto(f"file://{tmp_path / 'out' / 'report.html'}")
    page.wait_for_selector("#cards .card")
    assert evil in page.locator("#cards .card h3").first.inner_text()
    assert page.evaluate("window.hacked") is None


def test_a_picture_that_is_gone_is_told(evaluations, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(evaluations["base"], folder)
    text = (folder / "predictions.jsonl").read_text()
    (folder / "predictions.jsonl").write_text(text.replace("source.jpg", "elsewhere.jpg"))
    report(ReportConfig(evaluations=[f"a={folder}"], output=str(tmp_path / "out")))
    assert "pictures are missing" in (tmp_path / "out" / "report.html").read_text()
