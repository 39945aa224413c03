"""Tags of words: how schemes are read, how spans are found, and figures that agree with seqeval."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.dataset import Columns, DataFormat, TagScheme
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.data.readers import RowSource, read_rows
from finetune_trainer.data.tagged import TagRows, Tags, as_iob2
from finetune_trainer.errors import DataError
from finetune_trainer.evaluation.spans import spans_of_iob2, spans_of_plain
from finetune_trainer.evaluation.tag_baselines import (
    fit_majority,
    fit_taggers,
    load_taggers,
    save_taggers,
    shape_of,
)
from finetune_trainer.evaluation.tagging import (
    TagOutputs,
    by_group,
    count,
    figures,
    score,
    type_scores,
)

IOB2 = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=8).map(tuple)

TRUTH = [
    ["B-PER", "I-PER", "O", "B-LOC"],
    ["O", "B-ORG", "I-ORG", "I-ORG", "O"],
    ["B-LOC", "I-LOC", "B-LOC", "O"],
    ["I-PER", "O", "B-PER"],
]
TOLD = [
    ["B-PER", "I-PER", "O", "B-ORG"],
    ["O", "I-ORG", "I-ORG", "I-ORG", "O"],
    ["B-LOC", "I-LOC", "I-LOC", "O"],
    ["B-PER", "I-LOC", "B-PER"],
]
SEQEVAL = {
    "LOC": (0.0, 0.0, 0.0, 3),
    "ORG": (0.5, 1.0, 2 / 3, 1),
    "PER": (1.0, 1.0, 1.0, 3),
}
"""seqeval 1.2.2, classification_report(TRUTH, TOLD) in its default mode."""


def test_figures_are_those_of_seqevals_default_mode() -> None:
    counts = count(TRUTH, [TOLD], spans_of_iob2)
    found = {key: float(value[0, 0]) for key, value in figures(counts, np.ones((1, 4))).items()}
    assert found[Metric.MICRO_F1] == pytest.approx(4 / 7)
    assert found[Metric.PRECISION] == pytest.approx(4 / 7)
    assert found[Metric.RECALL] == pytest.approx(4 / 7)
    assert found[Metric.MACRO_F1] == pytest.approx(0.555556, abs=1e-6)
    assert found[Metric.TOKEN_ACCURACY] == pytest.approx(11 / 16)
    for one in type_scores(counts):
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx(SEQEVAL[one.label])


def test_figures_are_those_of_seqevals_own_example() -> None:
    truth = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    told = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = figures(count(truth, [told], spans_of_iob2), np.ones((1, 2)))
    assert found[Metric.MICRO_F1] == pytest.approx(0.5)
    assert found[Metric.MACRO_F1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", set()),
        ("B-A I-A", {(0, 2, "A")}),
        ("B-A B-A", {(0, 1, "A"), (1, 2, "A")}),
        ("B-A I-B", {(0, 1, "A"), (1, 2, "B")}),
        ("O I-A I-A", {(1, 3, "A")}),
        ("I-A B-A I-A", {(0, 1, "A"), (1, 3, "A")}),
        ("B-A O I-A", {(0, 1, "A"), (2, 3, "A")}),
        ("B-A-B I-A-B", {(0, 2, "A-B")}),
    ],
)
def test_a_span_begins_at_b_and_where_i_goes_on_with_nothing(
    tags: str, spans: set[tuple[int, int, str]]
) -> None:
    assert spans_of_iob2(tags.split()) == spans


def test_nothing_told_is_no_span() -> None:
    assert spans_of_iob2(["B-A", None, "I-A"]) == {(0, 1, "A"), (2, 3, "A")}
    assert spans_of_plain(["X", None, "O"]) == {(0, 1, "X"), (2, 3, "O")}


@given(IOB2)
def test_mending_keeps_the_spans_and_is_done_once(tags: Tags) -> None:
    mended = TagRows(TagScheme.IOB2).mended(tags)
    assert spans_of_iob2(mended) == spans_of_iob2(tags)
    assert TagRows(TagScheme.IOB2).mended(mended) == mended
    assert [tag[2:] for tag in mended] == [tag[2:] for tag in tags]


@pytest.mark.parametrize(
    ("scheme", "written", "read"),
    [
        (TagScheme.IOB2, "B-A I-A O", "B-A I-A O"),
        (TagScheme.IOB1, "I-A I-A O I-A B-A I-B", "B-A I-A O B-A B-A B-B"),
        (TagScheme.BIOES, "B-A I-A E-A S-A O S-B", "B-A I-A I-A B-A O B-B"),
        (TagScheme.BIOES, "B-A L-A U-A", "B-A I-A B-A"),
        (TagScheme.PLAIN, "NOUN O VERB", "NOUN O VERB"),
    ],
)
def test_every_scheme_is_read_as_iob2(scheme: TagScheme, written: str, read: str) -> None:
    assert as_iob2(written.split(), scheme) == tuple(read.split())


@pytest.mark.parametrize(
    ("scheme", "tag"), [("iob2", "NOUN"), ("iob2", "S-A"), ("bioes", "X-A"), ("plain", "B-A")]
)
def test_a_tag_of_another_scheme_is_refused_by_its_place(scheme: str, tag: str) -> None:
    rows = TagRows(TagScheme(scheme))
    values: dict[str, Any] = {"tokens": ["a", "b"], "tags": ["NOUN" if tag == "B-A" else "O", tag]}
    with pytest.raises(DataError, match=r"here: tag 2: .* set dataset.tagScheme"):
        rows.read(values, Columns(), "here")


def outputs(rows: int = 60) -> TagOutputs:
    chance = random.Random(5)
    kinds = ["O", "O", "B-A", "I-A", "B-B"]

    def some(own: list[str], share: float) -> list[str]:
        return [chance.choice(kinds) if chance.random() < share else tag for tag in own]

    truth = [chance.choices(kinds, k=chance.randint(1, 9)) for _ in range(rows)]
    return TagOutputs(
        truth=truth,
        told=([some(row, 0.2) for row in truth], [some(row, 0.6) for row in truth]),
        baselines=(Baseline.WORD_MAJORITY,),
        nll=np.full(rows, 0.5),
        read=np.asarray([len(row) for row in truth]),
        finding=spans_of_iob2,
    )


def test_a_weight_of_two_is_a_row_twice() -> None:
    one = outputs()
    counts = count(one.truth, one.told, one.finding)
    weights = np.random.default_rng(1).integers(0, 3, len(one.truth)).astype(np.float64)
    chosen = np.repeat(np.arange(len(one.truth)), weights.astype(int)).tolist()
    again = count(
        [one.truth[row] for row in chosen],
        [[told[row] for row in chosen] for told in one.told],
        one.finding,
    )
    weighed = figures(counts, weights[None])
    repeated = figures(again, np.ones((1, len(chosen))))
    for metric, values in weighed.items():
        assert values == pytest.approx(repeated[metric])


def test_figures_do_not_depend_on_the_order_of_rows() -> None:
    one = outputs()
    order = np.random.default_rng(2).permutation(len(one.truth)).tolist()
    assert one.nll is not None
    assert one.read is not None
    other = TagOutputs(
        truth=[one.truth[row] for row in order],
        told=tuple([told[row] for row in order] for told in one.told),
        baselines=one.baselines,
        nll=one.nll[order],
        read=one.read[order],
        finding=one.finding,
    )
    assert score(one, 200, seed=1) == score(other, 200, seed=1)


def test_a_groups_figures_are_those_of_its_rows_alone() -> None:
    one = outputs(120)
    names = ["even" if row % 2 else "odd" for row in range(120)]
    (report,) = by_group(one, {"g": names})
    for group in report.groups:
        for told, side in ((True, "value"), (False, "rest")):
            rows = [row for row in range(120) if (names[row] == group.group) is told]
            counts = count(
                [one.truth[row] for row in rows], [[one.told[0][row] for row in rows]], one.finding
            )
            alone = figures(counts, np.ones((1, len(rows))))
            for contrast in group.contrasts:
                assert getattr(contrast, side) == pytest.approx(alone[contrast.metric][0, 0])
        assert group.figure.value == group.contrasts[0].value
    assert [one.metric for one in report.groups[0].contrasts] == [
        Metric.MICRO_F1,
        Metric.TOKEN_ACCURACY,
    ]


def test_rows_without_a_span_say_nothing_of_a_groups_spans() -> None:
    one = outputs(120)
    empty = [["O"] * 5 for _ in range(40)]
    made = TagOutputs(
        truth=[*one.truth, *empty],
        told=([*one.told[0], *empty],),
        baselines=(),
        finding=one.finding,
    )
    (report,) = by_group(made, {"g": ["a"] * 40 + ["b"] * 80 + ["c"] * 40})
    *_, silent = report.groups
    assert silent.insufficient == (Metric.MICRO_F1,)
    assert (silent.figure.value, silent.figure.low) == (0.0, None)
    assert [one.metric for one in silent.contrasts] == [Metric.TOKEN_ACCURACY]


def test_a_faultless_tagger_is_not_certain() -> None:
    one = outputs(20)
    perfect = TagOutputs(
        truth=one.truth,
        told=(one.truth, one.told[1]),
        baselines=one.baselines,
        nll=one.nll,
        read=one.read,
        finding=one.finding,
    )
    metrics = score(perfect, 400, seed=1).metrics
    assert {name for name in metrics if metrics[name].low is None} == {Metric.LOSS}
    for metric in (Metric.MICRO_F1, Metric.RECALL, Metric.TOKEN_ACCURACY):
        assert metrics[metric].value == metrics[metric].high == 1.0
        assert (metrics[metric].low or 1.0) < 1.0


def test_a_word_is_told_its_most_frequent_tag_and_an_unknown_one_outside() -> None:
    rows = [("Paris", "in"), ("Paris", "Paris")]
    tags: list[Tags] = [("B-A", "O"), ("B-B", "B-A")]
    majority = fit_majority(rows, tags)
    assert majority.tag([("Paris", "in", "new")]) == [("B-A", "O", "O")]
    plain = fit_majority([("a", "b", "c")], [("X", "Y", "Y")])
    assert plain.tag([("new",)]) == [("Y",)]


def test_features_tell_what_a_word_alone_does_not_and_are_kept_without_pickle(
    tmp_path: Path,
) -> None:
    rows = [("in" if number % 2 else "with", f"Name{number}") for number in range(40)]
    tags: list[Tags] = [("O", "B-LOC" if number % 2 else "B-PER") for number in range(40)]
    of_words, of_features = fit_taggers(rows, tags, list(range(40)), spans_of_iob2, seed=1)
    assert of_features.cross_validated == 1.0
    assert of_features.baseline.tag([("in", "Unseen"), ("with", "Unseen")]) == [
        ("O", "B-LOC"),
        ("O", "B-PER"),
    ]
    save_taggers(of_words.baseline, of_features.baseline, tmp_path)
    asked = [*rows, ("in", "Unseen", "with")]
    majority, features = load_taggers(tmp_path)
    assert of_words.baseline.tag(asked) == majority.tag(asked)
    assert of_features.baseline.tag(asked) == features.tag(asked)


def test_a_shape_is_capitals_small_letters_and_digits() -> None:
    assert [shape_of(word) for word in ("McDonald", "U.S.", "1984", "iPhone4")] == [
        "XxXx",
        "X.X.",
        "0",
        "xXx0",
    ]


def test_conll_rows_end_at_empty_lines_and_documents_are_no_words(tmp_path: Path) -> None:
    path = tmp_path / "rows.conll"
    path.write_text("\n-DOCSTART- -X- O\n\nEU\tNNP\tB-ORG\nrejects VBZ O\n\n\n\nall O")
    source = RowSource(
        form=TagRows(TagScheme.IOB2),
        path=path,
        name="rows.conll",
        format=DataFormat.AUTO,
        columns=Columns(),
    )
    rows = list(read_rows(source))
    assert [(row.input, row.target) for row in rows] == [
        (("EU", "rejects"), ("B-ORG", "O")),
        (("all",), ("O",)),
    ]
    assert [row.place for row in rows] == [
        "rows.conll: the row at line 4",
        "rows.conll: the row at line 9",
    ]
