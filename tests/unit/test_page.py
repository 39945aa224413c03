"""The page of a job: its verdict in words, and every figure on it as the facts have it."""

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.datareport import SuspectPair, Suspects, TargetStatistics
from finetune_api.evaluationreport import BaselineScores, Interval
from finetune_api.phases import Phase, Reason
from finetune_api.report import FailureClass
from finetune_api.tasks import ERRORS, TASKS, Baseline
from finetune_api.usage import TimeClass
from finetune_operator.cli.page import PageFacts, figures, write_page
from finetune_operator.cli.page.axis import axis
from finetune_operator.cli.page.curve import loss_curve
from finetune_operator.cli.page.evidence import WIDEST_MATRIX, evidence
from finetune_operator.cli.page.render import page
from finetune_operator.cli.page.verdict import Tone, compared, verdict
from unit.builders_page import (
    a_gate_result,
    a_job,
    a_status,
    an_interval,
    attempt_rows,
    complete,
    cost,
    curve,
    digest,
    evaluated,
    evaluated_numbers,
    prepared,
    records,
)

_VOID = {"meta", "br", "link", "img"}


class _Reader(HTMLParser):
    """What a page says, what it is made of, and whether every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return plain(" ".join(self.words))


def plain(text: str) -> str:
    """A text with every white space as one space."""
    return " ".join(text.split())


def read(facts: PageFacts) -> _Reader:
    reader = _Reader()
    reader.feed(page(facts))
    reader.close()
    assert reader.open == []
    return reader


def without_reports(**status: Any) -> PageFacts:
    return PageFacts(job=a_job(a_status(**status)))


def failed(reason: str, message: str, **status: Any) -> PageFacts:
    return without_reports(phase="Failed", reason=reason, message=message, **status)


def against_tfidf(reduction: Interval | None) -> BaselineScores:
    return BaselineScores(name=Baseline.TFIDF, metrics={}, error_reduction=reduction)


_FEWER = "makes {} fewer errors than tuned TF-IDF"
_MORE = "makes {} more errors than tuned TF-IDF"
_UNCLEAR = "is not shown to differ from tuned TF-IDF: {} fewer errors"


@pytest.mark.parametrize(
    ("value", "low", "high", "sentence"),
    [
        (0.2299, 0.1432, 0.3156, f"{_FEWER.format('23 %')} (14 to 32 %)"),
        (-0.12, -0.2, -0.03, f"{_MORE.format('12 %')} (3 to 20 %)"),
        (0.05, -0.04, 0.14, f"{_UNCLEAR.format('5 %')} (−4 to 14 % fewer)"),
        (0.05, 0.0, 0.14, f"{_UNCLEAR.format('5 %')} (0 to 14 % fewer)"),
        (0.01, 0.004, 0.02, f"{_FEWER.format('1 %')} (0.4 to 2 %)"),
        (0.01, 0.0001, 0.02, f"{_FEWER.format('1 %')} (< 0.1 to 2 %)"),
        (0.3, None, None, _FEWER.format("30 %")),
        (0.0, 0.0, 0.0, "makes exactly as many errors as tuned TF-IDF"),
    ],
)
def test_a_difference_is_claimed_only_if_its_interval_excludes_none(
    value: float, low: float | None, high: float | None, sentence: str
) -> None:
    assert (
        plain(compared(ERRORS, against_tfidf(Interval(value=value, low=low, high=high))))
        == sentence
    )


def test_a_baseline_without_errors_can_not_be_beaten() -> None:
    said = compared(ERRORS, against_tfidf(None))
    assert said == "can make no fewer errors than tuned TF-IDF, which makes none"


_ADVICE = "(in a local run: with another workspace)"
_MISSED = [
    a_gate_result("accurate", 0.87, 0.8448),
    a_gate_result("fine", 0.8, 0.8448),
    a_gate_result("better", 0.2, 0.1432, against="tfidf", bound="Lower"),
]
_NEVER_MEASURED = [a_gate_result("better", 0.0, None, against="tfidf")]


def gate_failed(**report: Any) -> PageFacts:
    facts = complete(phase="Failed", reason="GateFailed")
    return dataclasses.replace(facts, evaluation=evaluated(passed=False, **report))


@pytest.mark.parametrize(
    ("facts", "tone", "sentence"),
    [
        (
            complete(),
            Tone.GOOD,
            (
                "0.845 accuracy [0.828, 0.861]; makes 23 % fewer errors than tuned TF-IDF "
                "(14 to 32 %)."
            ),
        ),
        (without_reports(), Tone.GOOD, "The model is exported."),
        (
            dataclasses.replace(complete(), evaluation=evaluated(baselines=[])),
            Tone.GOOD,
            "0.845 accuracy [0.828, 0.861].",
        ),
        (
            gate_failed(gate=_MISSED),
            Tone.BAD,
            (
                "Not exported: accuracy is 0.845, below the required 0.870; the lower bound of "
                "error reduction against tuned TF-IDF is 0.143, below the required 0.200. The "
                "model makes 23 % fewer errors than tuned TF-IDF (14 to 32 %)."
            ),
        ),
        (
            gate_failed(gate=_NEVER_MEASURED, baselines=[]),
            Tone.BAD,
            (
                "Not exported: error reduction against tuned TF-IDF is undefined, at least 0.000 "
                "is required."
            ),
        ),
        (
            failed("DataError", "row 17: no text", attempts=attempt_rows()[:1], progress=None),
            Tone.BAD,
            "Failed in the prepare step. row 17: no text.",
        ),
        (
            failed("BackoffLimitExceeded", "3 failures are charged."),
            Tone.BAD,
            "Failed at step 235 of 235. 3 failures are charged.",
        ),
        (
            without_reports(phase="Suspended", reason="Interrupted", message="Stopped on request"),
            Tone.WAITING,
            "Suspended at step 235 of 235. Stopped on request.",
        ),
        (
            without_reports(phase="Pending", reason="RateMissing", message="No rate for local."),
            Tone.WAITING,
            "No rate for local.",
        ),
        (
            without_reports(phase="Training", reason="Running"),
            Tone.WAITING,
            "Training at step 235 of 235.",
        ),
        (without_reports(phase="Preparing"), Tone.WAITING, "The rows are being prepared."),
        (PageFacts(job=a_job()), Tone.WAITING, "Nothing has started yet."),
    ],
)
def test_the_verdict_comes_first_in_one_sentence(
    facts: PageFacts, tone: Tone, sentence: str
) -> None:
    found = verdict(facts)
    assert (plain(found.sentence), found.tone) == (sentence, tone)
    assert read(facts).text.index(sentence) < 400


@pytest.mark.parametrize(
    "reason",
    [
        FailureClass.USER_ERROR,
        FailureClass.DATA_ERROR,
        FailureClass.STORAGE,
        Reason.GATE_FAILED,
        Reason.BACKOFF_LIMIT_EXCEEDED,
        Reason.DEADLINE_EXCEEDED,
    ],
)
def test_a_failed_job_says_its_reason_and_what_to_do(reason: str) -> None:
    text = read(failed(str(reason), "It broke")).text
    assert f"({reason})" in text
    assert _ADVICE in text


@pytest.mark.parametrize(
    "reason",
    [
        Reason.SUSPENDED_BY_USER,
        Reason.INTERRUPTED,
        Reason.BUDGET_EXCEEDED,
        Reason.BASELINE_PASSES,
    ],
)
def test_a_suspended_job_says_how_it_goes_on(reason: Reason) -> None:
    text = read(without_reports(phase="Suspended", reason=str(reason))).text
    assert "Its work is saved." in text
    assert "to go on" in text


def test_every_figure_of_the_evaluation_is_the_reports() -> None:
    text = read(complete()).text
    report = evaluated()
    assert set(report.metrics) == set(TASKS[report.task].metrics)
    for value in report.metrics.values():
        bounds = "" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]"
        assert f"{value.value:.3f}{bounds}" in text
    for row in report.per_class:
        scores = f"{row.precision:.3f} {row.recall:.3f} {row.f1:.3f} {row.support:,}"
        assert f"{row.label} {scores}" in text
    assert "negative 948 87 % 143 13 % positive 196 18 % 897 82 %" in text
    for baseline in report.baselines:
        assert baseline.error_reduction is not None
        for value in (*baseline.metrics.values(), baseline.error_reduction):
            assert f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]" in text
    assert "accurate accuracy ≥ 0.800 0.845 ✓ passed" in text
    assert "0.000 0.143 ✓ passed" in text
    assert "2,184 test rows" in text
    assert "C 4, ngrams 1-2, analyzer word" in text
    assert "0.791" in text


def test_every_figure_of_the_cost_is_the_statuss() -> None:
    text = read(complete()).text
    assert "Spent: 0.068 USD of a limit of 0.50 USD, 0.00644 USD of it wasted." in text
    assert "Held: 0.170 h of ranks on the CPU." in text
    assert "productive work that was kept 7 min 46 s 76 % 0.0518 USD" in text
    assert "lost work done again after an end 58 s 9 % 0.0064 USD" in text
    assert "All 10 min 12 s 0.068 USD" in text
    assert "Priced at 0.40 USD per device-hour: entry “local” of rate card “example”." in text
    assert "projected" not in text


def test_the_bar_of_the_cost_is_divided_without_a_rest() -> None:
    bar = [
        (float(str(a["x"]).rstrip("%")), float(str(a["width"]).rstrip("%")))
        for tag, a in read(complete()).tags
        if tag == "rect" and "fill" in str(a.get("style"))
    ]
    assert len(bar) == len(cost()["classes"])
    end = 0.0
    for start, width in bar:
        assert start == pytest.approx(end, abs=0.002)
        end = start + width
    assert end == pytest.approx(100, abs=0.01)


def test_each_class_of_time_has_a_color_and_a_meaning() -> None:
    shares = [{"name": name, "deviceSeconds": "1", "cost": "0.1"} for name in TimeClass]
    content = page(complete(cost=cost(classes=shares)))
    for name in TimeClass:
        assert f"background:var(--{name})" in content
        assert content.count(f"--{name}:") == 3, "light, dark and print each set it"


def test_an_unfinished_job_shows_what_it_will_cost() -> None:
    money = cost(projected="0.080000", projectedP90="0.095000")
    text = read(complete(phase="Training", completionTime=None, cost=money)).text
    assert "At completion it will be about 0.08 USD (nine times in ten under 0.095 USD)." in text


def test_hours_without_a_rate_are_never_shown_as_free() -> None:
    shares = [{"name": "productive", "deviceSeconds": "466.5", "cost": "0.000000"}]
    money = cost(spent="0.000000", unpricedHours="0.170000", classes=shares)
    text = read(complete(cost=money)).text
    assert "Spent: unpriced" in text
    assert "0.170 h had no matching rate" in text
    assert "7 min 46 s 100 % unpriced" in text
    assert "Cost unpriced" in text


def test_prices_of_a_fake_gpu_are_marked() -> None:
    assert "fake GPU" in read(complete(cost=cost(fakeGpu=True))).text
    assert "fake GPU" not in read(complete()).text


def test_a_smoke_run_says_that_its_figures_mean_nothing() -> None:
    resolved = a_status().model_dump(by_alias=True)["resolved"]
    assert "smoke run" in read(complete(resolved={**resolved, "smoke": True})).text
    assert "smoke run" not in read(complete()).text


def test_every_attempt_stands_with_its_reason_steps_time_and_cost() -> None:
    text = read(complete()).text
    assert (
        "2 train NodeFault rank 1 on this-machine Rank 1 was killed (signal 9). "
        "10:00:42 2 min 16 s 0 149 4 min 32 s 58 s 0.0302 USD" in text
    )
    assert "3 train Completed on this-machine 10:03:00 2 min 14 s 120 235 4 min 28 s" in text


def test_attempts_older_than_the_status_are_counted() -> None:
    rows = [{**row, "number": row["number"] + 7} for row in attempt_rows()]
    assert "7 earlier ones" in read(complete(attempts=rows, attempt=11)).text


def test_what_became_of_the_rows_is_the_reports() -> None:
    text = read(complete()).text
    assert "10,605 rows were read, 10,553 kept." in text
    assert "dropped label 37 dropped 10,568 17, 203…" in text
    assert "markup 4 changed 10,568 1, 2, 3, 4" in text
    assert "exact duplicates 15 dropped 10,553" in text
    assert "near duplicates, kept 9 counted 10,553 512" in text
    assert "in another language than most 1 counted 10,553 77" in text
    assert "source: readers 512 57 184" in text
    assert "en 6,702 761 1,950" in text
    assert "undecided 809 96 234" in text
    assert "Words 158,120, 14,907 of them different" in text
    assert "Different words among 42 at random 36.6" in text
    assert "Effective number of rows 7,498.6 of 7,512" in text
    assert "negative 3,801 424 1,091 5,316" in text
    assert "All 7,512 857 2,184 10,553" in text
    for words in ("199,817", "Median 25", "Mean 26.6", "48.0", "3 (such as 4411, 5120, 9006)"):
        assert words in text


def test_what_is_left_after_cleaning_is_what_was_kept() -> None:
    report = prepared().data
    dropped = sum(reason.rows for reason in report.cleaning if reason.dropped)
    assert report.read_rows - dropped == report.kept_rows, "the builder itself must add up"


def test_settings_and_digests_stand_in_full() -> None:
    text = read(complete()).text
    for words in ("learningRate 5e-05", "globalBatchSize 32", "labels negative, positive"):
        assert words in text
    for character in "abcdef":
        assert digest(character) in text


def test_the_curve_marks_best_checkpoint_and_resumption() -> None:
    drawn = loss_curve(complete())
    assert drawn is not None
    assert drawn.best is not None
    assert drawn.best.x == pytest.approx(100 * 180 / 235, abs=0.01)
    assert [(mark.text, round(mark.x, 1)) for mark in drawn.resumed] == [("attempt 3", 51.1)]
    assert len(drawn.train.dots) == len([p for p in curve() if "loss" in p])
    assert len(drawn.select.dots) == len([p for p in curve() if "selectLoss" in p])
    assert drawn.select.dots[2].told == "step 180: select loss 0.380"


def test_the_lower_loss_lies_lower() -> None:
    drawn = loss_curve(complete())
    assert drawn is not None
    assert drawn.train.dots[0].y < drawn.train.dots[-1].y


def test_a_baseline_that_met_the_gate_is_told_beside_the_baselines() -> None:
    message = "Tuned TF-IDF meets every requirement of the gate on the 857 select rows."
    condition = {
        "type": "BaselinePasses",
        "status": "True",
        "reason": "BaselinePasses",
        "message": message,
        "lastTransitionTime": "2026-11-23T10:05:14Z",
    }
    assert message in read(complete(conditions=[condition])).text
    assert message not in read(complete()).text


def test_suspect_rows_are_counted_by_what_they_have_and_called_by_their_ids() -> None:
    facts = complete()
    assert facts.prepare is not None
    assert "suspect" not in read(facts).text
    suspects = Suspects(
        baseline=Baseline.TFIDF,
        looked_at=7512,
        rows=41,
        pairs=(
            SuspectPair(has="negative", likely="positive", rows=38),
            SuspectPair(likely="positive", rows=3),
        ),
        examples=tuple(f"r{row}" for row in range(10)),
    )
    data = facts.prepare.data.model_copy(update={"suspects": suspects})
    prepare = facts.prepare.model_copy(update={"data": data})
    text = read(dataclasses.replace(facts, prepare=prepare)).text
    assert "41 of 7,512 training rows (0.5 %) are suspect: tuned TF-IDF" in text
    assert "negative positive 38" in text
    assert "not positive positive 3" in text
    assert "r0, r1, r2, r3, r4, r5, r6, r7, r8, r9…" in text


def test_overfitting_and_the_gap_are_told_beside_the_curve() -> None:
    message = "The loss on the select rows rose from 0.31 at step 30 to 0.45 at step 60."
    condition = {
        "type": "Overfitting",
        "status": "True",
        "reason": "SelectLossRises",
        "message": message,
        "lastTransitionTime": "2026-11-23T10:05:14Z",
    }
    found = {
        "trainRows": 857,
        "selectRows": 857,
        "trainLoss": an_interval(0.29, 0.27, 0.31),
        "selectLoss": an_interval(0.38, 0.35, 0.41),
        "gap": an_interval(0.09, 0.06, 0.12),
    }
    facts = dataclasses.replace(
        complete(conditions=[condition]), evaluation=evaluated(generalization=found)
    )
    text = read(facts).text
    assert f"It began to learn its rows by heart. {message}" in text
    assert "a generalization gap of 0.090 [0.060, 0.120]" in text
    assert "by heart" not in read(complete()).text


def test_an_unfinished_curve_leaves_room_for_the_steps_to_come() -> None:
    half = {"step": 149, "totalSteps": 298, "percent": "50 %"}
    points = [{"step": 1, "loss": 0.7}, {"step": 149, "loss": 0.4}]
    drawn = loss_curve(without_reports(phase="Training", progress={**half, "curve": points}))
    assert drawn is not None
    assert drawn.train.dots[-1].x == pytest.approx(50)


@pytest.mark.parametrize(
    "facts",
    [
        PageFacts(job=a_job()),
        without_reports(),
        dataclasses.replace(complete(), records=()),
        dataclasses.replace(complete(), prepare=None),
        dataclasses.replace(complete(), evaluation=None),
        complete(cost=None),
        complete(resolved=None),
        complete(progress=None),
        complete(progress={"step": 1, "totalSteps": 9, "percent": "11 %", "curve": curve()[:1]}),
        complete(attempts=[{"number": 1, "step": "prepare"}], attempt=1),
        complete(cost=cost(classes=[])),
        *(without_reports(phase=phase) for phase in Phase),
    ],
    ids=lambda _: "facts",
)
def test_a_page_may_lack_any_part(facts: PageFacts) -> None:
    text = read(facts).text
    assert "None" not in text
    assert "movie-reviews" in text


_EVIL = "<script>alert(1)</script>\"'&"


def test_everything_that_people_wrote_is_escaped() -> None:
    report = prepared().wire()
    report["labels"] = [_EVIL, "b"]
    report["data"]["classes"][0]["label"] = _EVIL
    report["data"]["cleaning"][0]["examples"] = [_EVIL]
    scores = [{**row.wire(), "label": _EVIL} for row in evaluated().per_class]
    rows = [{**row, "message": _EVIL, "reason": "NodeFault"} for row in attempt_rows()]
    facts = PageFacts(
        job=a_job(
            a_status(attempts=rows, message=_EVIL),
            dataset={"train": "pvc://demo/x.csv", "labels": [_EVIL, "b"]},
        ),
        records=records(),
        prepare=type(prepared()).model_validate(report),
        evaluation=evaluated(labels=[_EVIL, "b"], perClass=scores),
    )
    reader = read(facts)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert page(facts).count("<script") == 0
    assert reader.text.count(plain(html.unescape(_EVIL))) >= 6
    assert _EVIL in read(failed("Unknown", _EVIL)).text


def test_the_page_asks_nothing_of_the_network_and_runs_nothing() -> None:
    content = page(complete())
    assert "default-src 'none'" in content
    assert not re.search(r"https?://|url\(|@import", content)
    for tag, attributes in read(complete()).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "form"}
        assert not {"src", "href", "action", "srcset"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]


def test_the_page_can_be_read_by_ear() -> None:
    reader = read(complete())
    names = [tag for tag, _ in reader.tags]
    assert names.count("h1") == 1
    assert names.count("table") == names.count("caption")
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.tags:
        if tag == "section":
            assert attributes["aria-labelledby"] in ids
        if tag == "th":
            assert attributes.get("scope") in {"col", "row"}
        if attributes.get("role") == "img":
            assert attributes["aria-label"]


@pytest.mark.parametrize("classes", [WIDEST_MATRIX, WIDEST_MATRIX + 1])
def test_many_classes_show_their_confusions_and_no_endless_matrix(classes: int) -> None:
    labels = [f"class-{number}" for number in range(classes)]
    matrix = [[0] * classes for _ in labels]
    matrix[3] = [10 if i == 3 else 40 if i == 5 else 0 for i in range(classes)]
    scores = [evaluated().per_class[0].wire() | {"label": label} for label in labels]
    report = evaluated(labels=labels, confusionMatrix=matrix, perClass=scores)
    text = read(dataclasses.replace(complete(), evaluation=report)).text
    assert ("class-3 class-5 40 80 %" in text) == (classes > WIDEST_MATRIX)


def test_the_page_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("earlier")
    write_page(path, complete())
    assert path.read_text(encoding="utf-8") == page(complete())
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(2, 8))
def test_an_axis_holds_its_values_and_ends_on_ticks(values: list[float], ticks: int) -> None:
    found = axis(values, ticks=ticks)
    slack = 1e-6 * (found.high - found.low)
    assert found.low - slack <= min(values)
    assert max(values) <= found.high + slack
    assert (found.ticks[0], found.ticks[-1]) == (found.low, found.high)
    assert 2 <= len(found.ticks) <= ticks + 3


@given(st.decimals(min_value=0, max_value=10**9, places=6))
def test_money_is_never_shown_as_nothing(amount: Any) -> None:
    shown = figures.money(f"{amount:f}", "USD")
    digits = shown.removesuffix("\u00a0USD").replace(",", "")
    assert (float(digits) == 0) == (amount == 0)
    assert float(digits) == pytest.approx(float(amount), rel=0.005, abs=0.005)


@pytest.mark.parametrize(
    ("amount", "decimals", "shown"),
    [("0.000010", 4, "< 0.0001 USD"), ("0.000051", 4, "0.0001 USD"), ("0", 4, "0.0000 USD")],
)
def test_money_in_a_column_has_equal_places(amount: str, decimals: int, shown: str) -> None:
    assert plain(figures.money_in_column(amount, "USD", decimals)) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.4, "< 1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_lengths_of_time_have_two_units(seconds: float, shown: str) -> None:
    assert plain(figures.seconds(seconds)) == shown


def test_an_interval_is_shown_with_its_bounds() -> None:
    assert figures.interval(Interval.model_validate(an_interval(0.5, 0.4, 0.6))) == (
        "0.500 [0.400, 0.600]"
    )
    assert figures.interval(None) == "–"
    assert figures.score(-0.0001) == "0.000"
    assert figures.score(-0.25) == "−0.250"


def test_right_cells_lie_on_the_diagonal_and_are_as_deep_as_their_share() -> None:
    found = evidence(complete())
    assert found is not None
    assert [[cell.right for cell in row] for row in found.matrix] == [[True, False], [False, True]]
    assert [[cell.share for cell in row] for row in found.matrix] == [
        [pytest.approx(948 / 1091, abs=1e-4), pytest.approx(143 / 1091, abs=1e-4)],
        [pytest.approx(196 / 1093, abs=1e-4), pytest.approx(897 / 1093, abs=1e-4)],
    ]


def test_model_and_baselines_lie_on_one_axis_the_best_baseline_first() -> None:
    found = evidence(complete())
    assert found is not None
    rows = found.comparison.rows
    assert [row.name for row in rows] == ["this model", "tuned TF-IDF", "the majority class"]
    assert [row.is_model for row in rows] == [True, False, False]
    assert [row.at for row in rows] == sorted((row.at for row in rows), reverse=True)
    for row in rows:
        assert row.low is not None
        assert row.high is not None
        assert 0 <= row.low < row.at < row.high <= 100


def test_a_baseline_that_was_left_out_is_named_with_its_reason() -> None:
    report = evaluated(baselinesLeftOut={"probe": "the model has 8.0 billion weights"})
    text = read(dataclasses.replace(complete(), evaluation=report)).text
    said = "not compared with a head on the frozen model: the model has 8.0 billion weights."
    assert said in text
    assert "frozen model" not in read(complete()).text


def test_a_head_on_the_frozen_model_stands_among_the_baselines_and_is_not_the_headline() -> None:
    told = evaluated().baselines
    better = told[1].model_copy(update={"name": Baseline.PROBE})
    report = evaluated().model_copy(update={"baselines": (*told, better)})
    facts = dataclasses.replace(complete(), evaluation=report)
    found = evidence(facts)
    assert found is not None
    assert "a head on the frozen model" in [row.name for row in found.comparison.rows]
    assert "frozen" not in verdict(facts).sentence


def test_a_regressors_page_speaks_of_its_error_and_of_no_classes() -> None:
    facts = complete(phase="Failed", reason="GateFailed")
    assert facts.prepare is not None
    target = {"mean": 50, "deviation": 25, "min": 1, "max": 99}
    data = facts.prepare.data.model_copy(
        update={"classes": (), "target": TargetStatistics.model_validate(target)}
    )
    facts = dataclasses.replace(
        facts,
        prepare=facts.prepare.model_copy(update={"data": data, "labels": ("value",)}),
        evaluation=evaluated_numbers(),
    )
    text = read(facts).text
    assert "upper bound of root mean squared error (RMSE) is 14.000, above the required 13" in text
    assert "makes 61 % less squared error than tuned TF-IDF (50 to 70 %)" in text
    assert "Rank correlation (Spearman)" in text
    assert "Standard deviation" in text
    assert "Confusion" not in text
    assert "Rows per class" not in text
    found = evidence(facts)
    assert found is not None
    names = [row.name for row in found.comparison.rows]
    assert names == ["this model", "tuned TF-IDF", "the mean of the training rows"]


def test_thresholds_stand_beside_the_figures_that_they_made() -> None:
    report = evaluated(thresholds={"positive": 0.3725})
    text = read(dataclasses.replace(complete(), evaluation=report)).text
    assert "A label is told from this probability on: positive 0.372." in text
    assert "A label is told from" not in read(complete()).text
