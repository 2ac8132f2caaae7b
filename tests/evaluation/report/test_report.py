import html
import json
import re

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.decode.rules import DECODE_NOTES, GREY_RULES
from orchestrator.data.schema import PREDICTIONS, REJECTED
from orchestrator.errors import DataError
from orchestrator.evaluation.metrics import METRIC_NAMES
from orchestrator.evaluation.report.page import list_facts
from orchestrator.evaluation.report.report import build_report, render_html
from orchestrator.evaluation.tally import MAX_REJECTED_SHOWN, Tally
from orchestrator.evaluation.wording import describe_rule
from tests.evaluation.report.make_page import make_page

MODEL = {"backbone": "EfficientNetB5", "sha256": "ab" * 32, "weights": None}
RUN = {"run_id": "score-1", "versions": {"numpy": "2.4", "keras": "3.15"}}
EVIL = "<script>alert(1)</script>&\"'{{ 7*7 }}"


def predictions(labels, probabilities, paths=None, patients=None, rules=None, notes=None):
    num = len(labels)
    paths = paths or [f"image-{row}.jpeg" for row in range(num)]
    columns = {
        "row": range(num),
        "path": paths,
        "patient_id": patients or [None] * num,
        "label": labels,
        "probability": probabilities,
        "grey_rule": rules or ["as_stored"] * num,
        "decode_notes": notes or [None] * num,
    }
    filled = {name: columns.get(name, [None] * num) for name in PREDICTIONS.names}
    arrays = {
        name: pa.array(values, PREDICTIONS.field(name).type) for name, values in filled.items()
    }
    return pa.table(arrays, schema=PREDICTIONS)


def rejected(codes=(), paths=None, message="Cut short. Copy it again."):
    num = len(codes)
    columns = {
        "row": range(num),
        "path": paths or [f"bad-{row}.jpeg" for row in range(num)],
        "code": codes,
        "message": [message] * num,
    }
    filled = {name: columns.get(name, [None] * num) for name in REJECTED.names}
    arrays = {name: pa.array(values, REJECTED.field(name).type) for name, values in filled.items()}
    return pa.table(arrays, schema=REJECTED)


def report_and_page(scored, bad, threshold=0.5):
    tally = Tally(threshold)
    for start in range(0, max(scored.num_rows, bad.num_rows, 1), 3):  # shards of three rows
        tally.add(scored.slice(start, 3), bad.slice(start, 3))
    report = build_report(
        tally,
        found=scored.num_rows + bad.num_rows,
        threshold_rule="youden",
        model=MODEL,
        run=RUN,
        num_resamples=50,
    )
    assert report == json.loads(json.dumps(report, allow_nan=False))
    page = render_html(report, tally)
    shown = re.sub(r"<[^>]*>", " ", page.replace("<wbr>", ""))
    return report, page, html.unescape(re.sub(r"\s+", " ", shown))


@pytest.mark.parametrize(
    ("model", "images"),
    [({}, "validation images"), ({"recalibrated": "x"}, "labelled images of one site")],
)
def test_the_rule_of_a_threshold_that_was_replaced_is_told_in_words(model, images):
    tally = Tally(0.3)
    tally.add(predictions([0, 1], [0.1, 0.7]), rejected())
    own = {"value": 0.5, "rule": "sensitivity@0.95"}
    report = build_report(
        tally, found=2, threshold_rule="fixed", overridden=own, model=MODEL | model, run=RUN
    )
    words = f"0.500 (highest specificity with a sensitivity of at least 0.95 on {images})"
    assert words in render_html(report, tally)


def test_a_labelled_run_says_which_group_is_served_worse():
    num, found = 120, []
    for row in range(num):
        label, is_north = row % 2, row % 3 == 0
        path = f"{EVIL.replace('/', '')}/{row}.png" if is_north else f"south/{row}.png"
        found.append((label, 0.4 if is_north and label else 0.1 + 0.8 * label, path))
    labels, probabilities, paths = zip(*found, strict=True)
    scored = predictions(labels, probabilities, list(paths), [f"p{row}" for row in range(num)])
    report, page, visible = report_and_page(scored, rejected())
    (site,) = report["subgroups"]["dimensions"]
    assert [group["num_images"] for group in site["groups"]] == [40, 80]
    north = site["groups"][0]
    assert (north["num_positive"], north["metrics"]["sensitivity"]["value"]) == (20, 0.0)
    assert report["subgroups"]["worst"]["group"] == north["name"] == EVIL.replace("/", "")
    assert "Served worst is Site folder: <script>" in visible
    assert "with sensitivity (recall) 0.000 against 1.000 of the other images" in visible
    assert EVIL.replace("/", "") not in page
    assert "0.000 worse 0.000–0.168" in visible
    few, _, visible = report_and_page(scored.slice(0, 60), rejected())
    assert few["subgroups"]["worst"] is None
    assert "0.000 0.000–0.308 few" in visible
    unlabelled, _, visible = report_and_page(predictions([None] * 4, [0.1] * 4), rejected())
    assert unlabelled["subgroups"] is None
    assert "Who is served worse" not in visible


def test_labelled_run():
    scored = predictions(
        [0, 0, 1, 1, 1], [0.1, 0.7, 0.2, 0.8, 0.9], patients=["a", "b", "c", "c", "d"]
    )
    report, page, visible = report_and_page(scored, rejected(["damaged", "empty_file", "damaged"]))
    assert report["counts"] == {
        "found": 8,
        "scored": 5,
        "rejected": 3,
        "scored_before": 0,
        "rejected_before": 0,
        "ignored": 0,
        "rejected_by_code": {"damaged": 2, "empty_file": 1},
        "called": {"NORMAL": 2, "PNEUMONIA": 3},
        "labelled": {"NORMAL": 2, "PNEUMONIA": 3},
    }
    assert report["confusion"] == {"tn": 1, "fp": 1, "fn": 1, "tp": 2}
    assert set(report["metrics"]) == set(METRIC_NAMES)
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert (report["threshold"], report["num_patients"]) == (0.5, 4)
    assert report["model"]["sha256"] == "ab" * 32
    for text in (
        "Research use only. Not a diagnostic device",
        "Sensitivity (recall)",
        "PPV (precision)",
        "Of 3 images labelled PNEUMONIA, 2 were called so; 1 were missed.",
        "1 of 1 missed images",
        "image-2.jpeg",  # missed
        "image-1.jpeg",  # false alarm
        "ROC curve",
        "Reliability",
        "highest sensitivity + specificity",
        "numpy 2.4 · keras 3.15",
        "bad-0.jpeg",
        "Cut short. Copy it again.",
    ):
        assert text in visible, text
    assert page.count("<svg") >= 5


def test_the_answer_comes_first_then_what_needs_a_person():
    _, page = make_page()
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Accepted, or left to a person",
        "Was the model made for these images?",
        "Images worth a second look",
        "Metrics",
        "At the threshold, and at every other",
        "Probabilities",
        "Who is served worse",
        "Drift from the training images",
        "Where the model looked",
        "Rejected files",
        "How stored values became grey",
        "How this was made",
    ]
    first = page.partition("<h2>")[0]
    assert re.findall(r'class="name">(?:<a[^>]*>)?([^<]*)', first) == [
        "Files found",
        "Scored",
        "Ignored",
        "Called PNEUMONIA",
        "Patients",
        "Sensitivity (recall)",
        "Specificity",
        "Accuracy",
        "AUROC",
        "Left to a person",
        "Out of scope",
        "Rejected",
        "Drift",
    ]
    links = re.findall(r'href="#([^"]+)"', first)
    assert links == ["review", "scope", "rejected", "drift"]
    assert all(f'<section id="{link}">' in page for link in links)


def test_every_table_is_in_a_named_group_and_every_picture_says_what_it_is():
    _, page = make_page()
    named = r'<div class="[a-z]+ scroll" tabindex="0" role="group" aria-label="[^"]+">'
    assert len(re.findall(named, page)) == page.count('scroll"') > 10
    tables = re.findall(rf"{named}\s*(?:<h3>[^<]*</h3>\s*)?<table", page)
    assert len(tables) == page.count("<table")
    assert "<th></th>" not in page
    assert page.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == 6
    assert page.count("<svg") == len(re.findall(r'<svg [^>]*aria-label="[^"]+"', page))


def test_rows_are_counted_by_grey_rule_and_note():
    rules = ["as_stored", "window", "narrower_depth", "as_stored", None]  # None: an old data set
    notes = [None, "no_end_marker", "window_ignored,no_end_marker", None, None]
    scored = predictions([None] * 5, [0.1] * 5, rules=rules, notes=notes)
    report, _, visible = report_and_page(scored, rejected())
    assert report["decoding"] == {
        "grey_rules": {"as_stored": 2, "narrower_depth": 1, "window": 1},
        "notes": {"no_end_marker": 2, "window_ignored": 1},
    }
    assert "How stored values became grey" in visible
    for word, count in (report["decoding"]["grey_rules"] | report["decoding"]["notes"]).items():
        meaning = (GREY_RULES | DECODE_NOTES)[word]
        assert re.search(rf"{word} {count} (Note: )?{re.escape(meaning)}", visible), word


def test_page_is_self_contained():
    _, page, _ = report_and_page(predictions([0, 1], [0.1, 0.9]), rejected(["damaged"]))
    for word in ("<script", "<link", "<img", "@import", "src=", "<iframe"):
        assert word not in page
    outside = set(re.findall(r"https?://[^\"' )]+", page))
    assert all(url.startswith("http://www.w3.org/") for url in outside)  # XML namespaces only
    assert "default-src 'none'" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_text_from_files_is_escaped():
    scored = predictions([0, 1], [0.9, 0.1], paths=[EVIL, EVIL])
    bad = rejected(["damaged"], paths=[EVIL], message=EVIL)
    _, page, visible = report_and_page(scored, bad)
    assert "<script" not in page
    assert visible.count(EVIL) >= 5  # once each in the lists of images and of rejected files


def test_unlabelled_run():
    report, page, visible = report_and_page(predictions([None] * 3, [0.1, 0.6, 0.9]), rejected())
    assert report["metrics"] == {}
    assert report["confusion"] is None
    assert report["counts"]["called"] == {"NORMAL": 1, "PNEUMONIA": 2}
    assert "no labels" in visible
    assert page.count("<svg") == 1  # the histogram
    assert "Sensitivity" not in visible
    assert "Rejected files" not in visible


def test_partly_labelled_run_measures_the_labelled_rows():
    report, _, visible = report_and_page(
        predictions([0, None, 1, None], [0.1, 0.2, 0.9, 0.8]), rejected()
    )
    assert (report["num_images"], report["counts"]["scored"]) == (2, 4)
    assert "2 scored images carry no label and are left out" in visible


def test_labels_of_one_class():
    report, _, visible = report_and_page(predictions([0, 0, 0], [0.1, 0.2, 0.9]), rejected())
    assert report["metrics"]["auroc"]["value"] is None
    assert "one class" in report["metrics"]["auroc"]["note"]
    assert "Undefined: needs images of both classes" in visible
    assert "No ROC, precision–recall and reliability curves" in visible
    assert not re.search(r"\bnan\b", visible, re.IGNORECASE)


def test_nothing_scored():
    report, _, visible = report_and_page(predictions([], []), rejected(["damaged"]))
    assert report["counts"]["scored"] == 0
    assert "No image was scored" in visible
    report, _, visible = report_and_page(predictions([], []), rejected())
    assert report["counts"]["found"] == 0


def test_thousands_of_rejected_rows_are_capped_and_every_code_is_shown():
    codes = ["damaged"] * 5000 + ["empty_file"]
    report, page, visible = report_and_page(predictions([0, 1], [0.1, 0.9]), rejected(codes))
    assert report["counts"]["rejected_by_code"] == {"damaged": 5000, "empty_file": 1}
    assert len(page) < 200_000
    shown = re.findall(r"bad-\d+\.jpeg", page)
    assert len(shown) <= MAX_REJECTED_SHOWN
    assert "bad-5000.jpeg" in shown
    assert f"{len(shown)} of 5,001 rejected files. The full table is rejected.parquet" in visible


def test_few_codes_fill_the_list():
    _, page, _ = report_and_page(predictions([0, 1], [0.1, 0.9]), rejected(["a"] * 30 + ["b"] * 60))
    assert len(re.findall(r"bad-\d+\.jpeg", page)) == 90


def test_chunked_tables_and_float32_threshold():
    parts = [predictions([label], [0.3]) for label in (0, 1)]
    threshold = float(np.float32(0.3))
    report, _, _ = report_and_page(pa.concat_tables(parts), rejected(), threshold)
    assert report["counts"]["called"] == {"NORMAL": 0, "PNEUMONIA": 2}


def known(files, code=None, root=0):
    return {"root": root, "matched": "file", "code": code, "files": files}


def test_rows_that_do_not_add_up_are_refused():
    tally = Tally(0.5)
    tally.add(predictions([0, 1], [0.1, 0.9]), rejected(["damaged"]))
    fixed = {"threshold_rule": "fixed", "model": MODEL, "run": RUN}
    with pytest.raises(DataError, match="2 scored and 1 rejected rows for 4 files"):
        build_report(tally, found=4, **fixed)
    with pytest.raises(DataError, match="rows and 3 known from earlier runs for 4 files"):
        build_report(tally, found=4, known=[known(2), known(1, "damaged")], **fixed)


def test_files_known_from_earlier_runs_are_counted_and_shown():
    tally = Tally(0.5)
    report = build_report(
        tally,
        found=7,
        threshold_rule="fixed",
        model=MODEL,
        run=RUN,
        known=[known(4), known(1, root=1), known(2, "damaged")],
    )
    assert report["counts"]["scored_before"] == 5
    assert report["counts"]["rejected_before"] == 2
    assert report["known"][1] == {"root": 1, "matched": "file", "code": None, "files": 1}
    page = render_html(report, tally)
    assert "Known from earlier runs" in page
    assert "5 scored, 2 rejected there" in page
    assert "every one is known from an earlier run" in page


def test_lists_of_images_are_those_of_the_whole_run_whatever_the_shards():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500).tolist()
    probabilities = rng.integers(0, 50, 500) / 50  # with ties
    whole = predictions(labels, probabilities.tolist(), patients=[f"p{n % 90}" for n in range(500)])
    one, many = Tally(0.5), Tally(0.5)
    one.add(whole, rejected())
    for start in range(0, 500, 7):
        many.add(whole.slice(start, 7), rejected())
    assert one.images == many.images
    assert one.image_counts == many.image_counts
    assert (one.patients == many.patients).all()
    order = np.argsort(np.abs(probabilities.astype(np.float32) - np.float64(0.5)), kind="stable")
    expected = [f"image-{row}.jpeg" for row in order[:10]]
    assert [image["path"] for image in many.images["uncertain"]] == expected


def test_rules_and_facts_in_words():
    assert "sensitivity of at least 0.95" in describe_rule("sensitivity@0.95")
    assert describe_rule("fixed") == "given by the user"
    assert list_facts({"image_size": 150, "none": None, "b": [True, 0.5]}) == [
        ("image size", "150"),
        ("b", "yes, 0.5"),
    ]
