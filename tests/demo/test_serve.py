"""The page on which a model is asked, as a browser shows it."""

import re
import shutil
import socket
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from kit.data.records import read_sft_records
from kit.demo import serve
from kit.errors import UserError
from kit.evaluate.ask_config import AskConfig

chromium = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.xdist_group("browser")
in_a_browser = [
    pytest.mark.skipif(not find_spec("gradio"), reason='no gradio: pip install "medvqa-kit[demo]"'),
    pytest.mark.skipif(not chromium, reason="no browser: apt-get install chromium"),
]
QUESTION = "Is there a lung in this image? <b>bold</b>"


def free_port() -> int:
    with socket.socket() as one:
        one.bind((serve.HOST, 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def url():
    """A page of the embedded model that takes files of 1 MB."""
    patch = pytest.MonkeyPatch()
    patch.setattr(serve, "LARGEST_FILE", 1)
    flags = {"serve": True, "port": free_port(), "max_new_tokens": 100, "random_draws": 1}
    with serve.running(AskConfig(base_model="tiny", **flags)) as address:
        yield address
    patch.undo()


@pytest.fixture(scope="module")
def page(url):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.asked_for, page.said = [], []
        page.on("request", lambda request: page.asked_for.append(request.url))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(url)
        page.wait_for_selector(".nothing")
        yield page
        browser.close()


def ask(page, image: Path | None, question: str) -> str:
    """Choose an image, write a question, click; what the page says, which is something new."""
    from playwright.sync_api import expect

    result = page.locator(".reply, .mistake, .nothing")
    before = result.inner_text()
    if image:
        if page.get_by_label("Remove Image").count():
            page.get_by_label("Remove Image").click()
        with page.expect_response(lambda response: "/upload" in response.url):
            page.set_input_files("input[type=file]", image)
        page.wait_for_selector(".image-frame img, img[alt]")
    page.get_by_label("question").fill(question)
    page.get_by_role("button", name="Ask").click()
    expect(result).not_to_have_text(before, timeout=30_000)
    return result.inner_text()


class TestPage:
    pytestmark = in_a_browser

    def test_mistakes_are_messages(self, page, tmp_path):
        assert "There is no image" in ask(page, None, "Why?")
        Image.new("L", (60, 60)).save(tmp_path / "x.png")
        assert "The question is empty" in ask(page, tmp_path / "x.png", "  ")
        assert "has 10000 characters" in ask(page, None, "a" * 10_000)
        Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")
        assert "more than 50 megapixels" in ask(page, tmp_path / "huge.png", "Why?")
        (tmp_path / "text.png").write_text("hello")
        assert "is not an image" in ask(page, tmp_path / "text.png", "Why?")

    def test_an_answer_with_what_is_said_without_its_boxes(self, page, prepared):
        records = read_sft_records(prepared["test"])[0]
        record = next(one for one in records if one.regions)
        said = ask(page, Path(record.image), record.question)
        assert page.locator(".said").inner_text()
        assert re.search(r"probability [01]\.\d\d", said)
        assert "boxes (x1, y1, x2, y2 in pixels): (" in said
        shown = page.locator(".reply img")
        assert shown.count() >= 2
        assert shown.evaluate_all("all => all.every(one => one.naturalWidth > 200)")
        assert "without the boxes" in page.locator(".without").inner_text()
        assert page.locator(".finding").inner_text().startswith("The answer ")

    @pytest.mark.parametrize("width", [390, 1280])
    def test_it_fits_its_window(self, page, width):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for part in page.locator(".reply img, button, textarea").all():
            if part.is_visible():
                box = part.bounding_box()
                assert 0 <= box["x"] <= box["x"] + box["width"] <= width

    def test_too_large_a_file_is_refused(self, page, tmp_path):
        Image.effect_noise((1200, 1200), 90).save(tmp_path / "noise.png")
        page.get_by_label("Remove Image").click()
        page.set_input_files("input[type=file]", tmp_path / "noise.png")
        page.wait_for_selector("text=/maximum|exceed|too large/i")

    def test_nothing_is_fetched_from_elsewhere(self, page, url):
        away = [one for one in page.asked_for if not one.startswith((url, "data:", "blob:"))]
        assert (away, page.said) == ([], [])
        text = urllib.request.urlopen(url).read().decode()
        assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?://", text)

    def test_it_listens_here_alone(self, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            serve.require_port(port)
        elsewhere = socket.gethostbyname(socket.gethostname())
        if not elsewhere.startswith("127."):
            with socket.socket() as one:
                assert one.connect_ex((elsewhere, port)) != 0


def test_a_port_that_is_taken_is_told_at_once(monkeypatch):
    monkeypatch.setattr(serve, "need_extra", lambda *_: None)
    with socket.socket() as other:
        other.bind((serve.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port {port} cannot be used") as caught,
            serve.running(AskConfig(base_model="tiny", serve=True, port=port)),
        ):
            pass
        assert f"--port {port + 1}" in caught.value.fix


def test_an_image_that_was_deleted_meanwhile_is_to_be_chosen_again(tmp_path):
    with pytest.raises(UserError, match="no longer kept") as caught:
        serve.checked_image(str(tmp_path / "x.png"))
    assert caught.value.fix == "choose it again"
