"""The page of an audit as a browser shows it."""

import re
import shutil

import pytest

from kit.files import write_jsonl

chromium = shutil.which("chromium") or shutil.which("chromium-browser")
LONG = "<b>two_with_a_name_as_long_as_a_page"
HOSTILE = "<script>document.title = 'broken'</script>"


@pytest.fixture
def page_of(asked, audited, prepared, tmp_path):
    """The page of an audit of two systems, one with a name that is no text for a page."""

    def write():
        for name, said in (("one", asked.said), ("two", [HOSTILE] * len(asked.said))):
            rows = [{"qid": r.qid, "pred": a} for r, a in zip(asked.records, said, strict=True)]
            write_jsonl(tmp_path / f"{name}.jsonl", rows)
        found = audited(
            f"one={tmp_path / 'one.jsonl'}", f"{LONG}={tmp_path / 'two.jsonl'}",
            train_data=str(prepared["test"]), claim=["one:exact/all=0.99", "one:open recall=0.01"],
        )  # fmt: skip
        return tmp_path / "out" / "audit.html", found

    return write


def test_the_page_needs_nothing_and_says_what_the_json_says(page_of):
    path, found = page_of()
    text = path.read_text()
    assert path.stat().st_size < 200_000
    assert not re.search(r"""(src|href)=["'](?!#|data:)|url\(|@import""", text)
    assert "<b>two" not in text
    own = found["systems"]["one"]["metrics"]
    for name in ("exact/all", "llava_med/open_recall", "medevalkit/total", "medevalkit/f1"):
        assert f"{100 * own[name]:.1f}%" in text
        assert f"[{100 * own[f'{name}/low']:.1f}," in text
    assert "not reproduced" in text


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(not chromium, reason="no browser: apt-get install chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_fits_its_window(page_of, width, scheme):
    from playwright.sync_api import sync_playwright

    path, found = page_of()
    said = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert page.title() == f"Audit of one, {LONG}"
        own = found["systems"]["one"]["metrics"]["exact/all"]
        dot = page.locator(".forest .dot.of-0, .forest .of-0 .dot").first
        track = page.locator(".forest .track").first.bounding_box()
        box = dot.bounding_box()
        middle = box["x"] + box["width"] / 2
        assert abs((middle - track["x"]) / track["width"] - own) < 0.02
        lead = page.locator(".short .lead").bounding_box()
        assert lead["y"] + lead["height"] < 900
        page.click("#theme")
        assert page.evaluate("document.documentElement.dataset.theme") != scheme
        browser.close()
    assert said == []
