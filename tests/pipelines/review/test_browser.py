"""The worklist and the reports in a real browser: Playwright's Python package with Chromium."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.evaluation.report.comparison import render_comparison_html
from orchestrator.evaluation.report.nights import build_nights, render_nights
from orchestrator.evaluation.report.rate_report import render_rate_html
from orchestrator.pipelines.review.corrections import import_corrections
from orchestrator.pipelines.review.worklist import write_worklist
from orchestrator.runs.run_dir import RunDir
from tests.conftest import ROOT, Recorder
from tests.evaluation.report import (
    test_comparison,
    test_overlays,
    test_training_report,
    test_tuning,
)
from tests.evaluation.report.make_page import make_page
from tests.pipelines.review.make_run import make_run

pytestmark = pytest.mark.slow
WIDTHS = (390, 1280)
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
_GRAVE = ("serious", "critical")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    why = "the browser extra is not installed"
    sync_api = pytest.importorskip("playwright.sync_api", reason=why)
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Watched:
    """A page, and what it said on the console and asked of the network.

    Args:
        browser: Chromium.
        path: the file to open.
        width: of the window, px.
    """

    def __init__(self, browser: Any, path: Path, width: int) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, accept_downloads=True
        )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.path = path
        self.open_again()

    def open_again(self) -> Any:
        """Opens the page in a tab of its own, in place of the one before; returns it."""
        for page in self.context.pages:
            page.close()
        self.requests.clear()
        self.page = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(self.path.as_uri())
        return self.page

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def check(self) -> None:
        """Fails where anything was said, anything but the page was asked for, or it is too wide."""
        assert self.errors == []
        outside = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        assert outside == [self.path.as_uri()]
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert self.page.evaluate(fits), "the page is wider than its window"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("review")
    made = make_run(folder / "run", folder / "in")
    write_worklist(made.path, 20, Recorder())
    return made


@pytest.mark.parametrize("width", WIDTHS)
def test_twenty_images_are_read_by_keyboard_exported_and_imported(
    browser: Any, run: RunDir, width: int, tmp_path: Path
) -> None:
    watched = Watched(browser, run.worklist, width)
    page = watched.page
    keys = "pnu" * 6 + "pn"
    assert "Called by the model" not in page.inner_text("#facts")
    assert page.inner_text("#place") == ""  # a folder may name the label
    for key in keys[:10]:
        page.keyboard.press(key)
    # Arrows, undo, and what the browser keeps when the page is left and opened again
    page.keyboard.press("z")
    assert page.inner_text("#progress-text") == "9 of 20 read"
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#title") == "Image 9 of 20"
    assert "Called by the model" in page.inner_text("#facts")
    assert page.get_attribute("#answer-u", "aria-pressed") == "true"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page = watched.open_again()
    assert page.inner_text("#title") == "Image 10 of 20"
    assert page.inner_text("#progress-text") == "9 of 20 read"
    for key in keys[9:]:
        page.keyboard.press(key)
    assert page.inner_text("#progress-text") == "20 of 20 read"
    with page.expect_download() as download:
        page.keyboard.press("e")
    source = tmp_path / download.value.suggested_filename
    download.value.save_as(source)
    assert source.name == "corrections.csv"
    watched.check()
    watched.context.close()
    report = import_corrections(run.path, source).report
    assert (report["num_answers"], report["num_unsure"]) == (20, 6)
    assert report["answers"] == {"NORMAL": 7, "PNEUMONIA": 7}
    order = [item["row"] for item in json.loads(data_of(run))["items"]]
    stored = {row["row"]: row["answer"] for row in pq.read_table(run.corrections).to_pylist()}
    assert [stored[row] for row in order] == [{"p": 1, "n": 0, "u": None}[key] for key in keys]


def data_of(run: RunDir) -> str:
    page = run.worklist.read_text()
    return page.partition('id="data">')[2].partition("</script>")[0]


def test_a_formula_in_a_name_is_no_formula_in_the_export(browser: Any, tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", tmp_path / "in", 8)
    write_worklist(made.path, 1, Recorder())
    text = made.worklist.read_text()
    path = json.loads(data_of(made))["items"][0]["path"]
    made.worklist.write_text(text.replace(json.dumps(path), json.dumps('=HYPERLINK("x")')))
    watched = Watched(browser, made.worklist, 1280)
    watched.page.keyboard.press("p")
    with watched.page.expect_download() as download:
        watched.page.keyboard.press("e")
    lines = Path(download.value.path()).read_text().splitlines()
    assert ',"\'=HYPERLINK(""x"")",' in lines[1]
    watched.check()
    watched.context.close()


def draw_nights() -> str:
    nights = [
        {
            "run": f"score-20261126-18071{day}-eafd91",
            "ended": f"2026-11-0{day}T18:07:15+00:00",
            "ended_s": 0.0,
            "report": make_page()[0] | ({"drift": None, "scope": None} if day == 2 else {}),
        }
        for day in range(1, 4)
    ]
    return render_nights(build_nights(nights), "/data/predictions/of-a-rather-long-name/of-runs")


PAGES: dict[str, Callable[[], str]] = {
    "report": lambda: make_page()[1],
    "training": lambda: test_training_report.build()[1],
    "comparison": lambda: render_comparison_html(
        test_comparison.build(test_comparison.MODELS), test_comparison.MODELS
    ),
    "tuning": lambda: test_tuning.page({"value": 0.1, "low": 0.05, "high": 0.2, "num_seeds": 3}),
    "rate": lambda: render_rate_html(
        test_overlays.SEARCH | {"recipe": {"backbone": "tiny"}, "run": {"run_id": "find-lr-1"}}
    ),
    "nights": draw_nights,
}


@pytest.fixture(scope="module")
def page_of(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("pages")

    def find(name: str) -> Path:
        path = folder / f"{name}.html"
        if name == "worklist":
            return run.worklist
        if not path.exists():
            path.write_text(PAGES[name]())
        return path

    return find


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["worklist", *PAGES])
def test_axe_finds_nothing_serious(
    browser: Any, page_of: Callable[[str], Path], name: str, width: int
) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install --no-save axe-core")
    watched = Watched(browser, page_of(name), width)
    watched.check()
    watched.page.evaluate(AXE.read_text())
    found = watched.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    grave = [
        (rule["id"], rule["help"], [node["html"][:120] for node in rule["nodes"]])
        for rule in found["violations"]
        if rule["impact"] in _GRAVE
    ]
    assert grave == []
    watched.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_no_table_or_picture_is_cut_off_in_print(
    browser: Any, page_of: Callable[[str], Path], name: str
) -> None:
    watched = Watched(browser, page_of(name), 695)  # A4 less its margins, 96 px an inch
    watched.page.emulate_media(media="print")
    wide = "[...document.querySelectorAll('.panel')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert watched.page.evaluate(f"{wide}.map(e => e.innerText.slice(0, 60))") == []
    watched.context.close()


def test_a_table_wider_than_a_phone_is_scrolled_by_keyboard(
    browser: Any, page_of: Callable[[str], Path]
) -> None:
    watched = Watched(browser, page_of("report"), 390)
    group = watched.page.get_by_role("group", name="Figures and their drift")
    group.focus()
    assert group.evaluate("e => e.scrollWidth > e.clientWidth && e.scrollLeft === 0")
    watched.page.keyboard.press("ArrowRight")
    deadline = time.monotonic() + 10
    while not group.evaluate("e => e.scrollLeft"):  # it moves smoothly
        assert time.monotonic() < deadline
    watched.context.close()
