"""The worklist and the report in a real browser: Playwright's Python package with Chromium."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.pipelines.review.corrections import import_corrections
from orchestrator.pipelines.review.worklist import write_worklist
from orchestrator.runs.run_dir import RunDir
from tests.conftest import ROOT, Recorder
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
    made = make_run(folder / "run", folder / "in", page=True)
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


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["worklist", "report_html"])
def test_axe_finds_nothing_serious(browser: Any, run: RunDir, name: str, width: int) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install --no-save axe-core")
    path: Path = getattr(run, name)
    watched = Watched(browser, path, width)
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
