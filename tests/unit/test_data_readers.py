"""Files as rows: whatever a file holds is a row, or one error that says where and what to do."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.dataset import Columns, DataFormat
from finetune_trainer.data.form import AnyForm
from finetune_trainer.data.grouping import check_groups
from finetune_trainer.data.readers import RowSource, read_files, read_rows
from finetune_trainer.data.rows import CleanRow, Row
from finetune_trainer.data.texts import ClassRows, LabelRows, NumberRows
from finetune_trainer.data.values import ROW_LIMIT_BYTES
from finetune_trainer.errors import DataError

SECRET = "nobody may read this"


def read(path: Path, **columns: str) -> list[Row[str, str]]:
    source = RowSource(
        form=ClassRows(),
        path=path,
        name=path.name,
        format=DataFormat.AUTO,
        columns=Columns.model_validate(columns),
    )
    return list(read_rows(source))


def refusal(folder: Path, name: str, content: bytes, **columns: str) -> str:
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path, **columns)
    message = str(caught.value)
    assert SECRET not in message
    assert message.startswith(name)
    assert "\n" not in message
    return message


CSV_REFUSALS = {
    "empty": (b"", "is empty"),
    "header only": (b"text,label\n", "no rows"),
    "blank lines only": (b"\n\n\r\n", "no rows"),
    "wrong column": (
        b"tekst,label\nx,a\n",
        "no column 'text' (dataset.columns.text); the columns are: tekst, label; did you mean 'te",
    ),
    "preferences": (
        b"question,chosen,rejected\nx,a,b\n",
        "columns are: question, chosen, rejected; learning from preferences is not done; instead,",
    ),
    "no header": (f"{SECRET} at all please,a\nx,b\n".encode(), "is the header missing?"),
    "semicolons": (b"text;label\nx;a\n", "separate columns by commas"),
    "two of a name": (b"text,text,label\nx,y,a\n", "two columns are named 'text'"),
    "a field too many": (
        f"text,label\nx,a\n{SECRET},so,b\n".encode(),
        "row 2 (line 3): 3 fields where the header has 2",
    ),
    "a field too few": (f"text,label\n{SECRET}\n".encode(), "row 1 (line 2): 1 fields"),
    "not UTF-8": (
        f"text,label\n{SECRET},a\n".encode() + b"caf\xe9,b\n",
        "line 3: not UTF-8 at byte 37",
    ),
    "UTF-16": ("text,label\nx,a\n".encode("utf-16"), "encoded as UTF-16"),
    "a NUL byte": (f"text,label\n{SECRET}\0,a\n".encode(), "line 2: holds a NUL byte"),
    "a quote inside": (f'text,label\n"{SECRET}" x,a\n'.encode(), "row at line 2: not valid CSV"),
    "an open quote": (f'text,label\nx,a\n"{SECRET},a\n'.encode(), "row at line 3: not valid CSV"),
    "an open quote over a mebibyte": (
        f'text,label\nx,a\n"{SECRET},a\n'.encode() + b"x,a\n" * (ROW_LIMIT_BYTES // 3),
        "row at line 3: longer than 1048576 bytes",
    ),
    "old line ends": (f"text,label\r{SECRET},a\r".encode(), "not valid CSV"),
}


@pytest.mark.parametrize("case", CSV_REFUSALS)
def test_a_bad_csv_is_one_message_with_its_place(tmp_path: Path, case: str) -> None:
    content, words = CSV_REFUSALS[case]
    assert words in refusal(tmp_path, "rows.csv", content)


def line(**values: object) -> bytes:
    return json.dumps(values).encode() + b"\n"


JSONL_REFUSALS = {
    "empty": (b"", "is empty"),
    "not JSON": (line(text="x", label="a") + f"{{{SECRET}\n".encode(), "line 2: not valid JSON"),
    "a list": (b'["x", "a"]\n', "line 1: holds a list; write one object per line"),
    "never a label": (line(text="x", lable="a"), "no column 'label'"),
    "a number as text": (line(text=3, label="a"), "line 1: column 'text' holds a number, not text"),
    "an object as label": (line(text="x", label={SECRET: 1}), "column 'label' holds an object"),
    "a fraction as label": (line(text="x", label=0.5), "column 'label' holds a number; write"),
    "half a character": (
        b'{"text": "x \\ud800", "label": "a"}\n',
        "line 1: column 'text' holds half of a surrogate pair at character 2",
    ),
    "a label like a text": (
        line(text="x", label=SECRET * 20),
        "holds 400 characters, more than 253; is it the right column?",
    ),
    "deep": (b"[" * 100_000 + b"\n", "line 1: "),
    "a number of 5000 digits": (b'{"text": "x", "label": ' + b"9" * 5000 + b"}\n", "can't be read"),
    "not UTF-8": (line(text="x", label="a") + b"\xff\n", "line 2: not UTF-8 at byte 28"),
    "a long line": (line(text="x" * (ROW_LIMIT_BYTES + 1), label="a"), "line 1: longer than"),
}


@pytest.mark.parametrize("case", JSONL_REFUSALS)
def test_a_bad_jsonl_is_one_message_with_its_place(tmp_path: Path, case: str) -> None:
    content, words = JSONL_REFUSALS[case]
    assert words in refusal(tmp_path, "rows.jsonl", content)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


PARQUET_REFUSALS = {
    "no Parquet": (b"PAR1 is how it begins", "not a Parquet file"),
    "cut short": (parquet(text=["x"] * 1000, label=["a"] * 1000)[:-20], "not a Parquet file"),
    "wrong column": (parquet(text=["x"], lable=["a"]), "did you mean 'lable'?"),
    "no rows": (
        parquet(text=pa.array([], pa.string()), label=pa.array([], pa.string())),
        "no rows",
    ),
    "numbers as text": (parquet(text=[1], label=["a"]), "row 1: column 'text' holds a number"),
    "bytes as text": (parquet(text=[b"x"], label=["a"]), "row 1: column 'text' holds another type"),
    "not UTF-8": (
        parquet(
            text=pa.Array.from_buffers(
                pa.string(),
                1,
                [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")],
            ),
            label=["a"],
        ),
        "not UTF-8",
    ),
    "a long row": (
        parquet(text=["x", "y" * (ROW_LIMIT_BYTES + 1)], label=["a", "b"]),
        "row 2: longer than 1048576 bytes",
    ),
}


@pytest.mark.parametrize("case", PARQUET_REFUSALS)
def test_a_bad_parquet_is_one_message_with_its_place(tmp_path: Path, case: str) -> None:
    content, words = PARQUET_REFUSALS[case]
    assert words in refusal(tmp_path, "rows.parquet", content)


def test_a_damaged_page_of_parquet_is_a_data_error(tmp_path: Path) -> None:
    whole = parquet(text=[f"text {number}" for number in range(5000)], label=["a"] * 5000)
    for place in range(4, len(whole) - 8, len(whole) // 40):
        damaged = whole[:place] + bytes(16) + whole[place + 16 :]
        (tmp_path / "rows.parquet").write_bytes(damaged)
        try:
            read(tmp_path / "rows.parquet")
        except DataError as error:
            assert str(error).startswith("rows.parquet")  # noqa: PT017 - some damage can be read


def test_a_row_of_100_mebibytes_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("wb") as file:
        file.write(b"text,label\nx,a\n")
        file.seek(100 << 20)
        file.write(b"\n")
    reads = read_limited(path)
    assert reads < 3 * ROW_LIMIT_BYTES


def read_limited(path: Path) -> int:
    """Read until the error, and give the most memory that Python held meanwhile."""
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="row at line 3: longer than"):
            read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.text('a,"{}[]:\r\n\0é', max_size=80).map(str.encode))
def test_no_bytes_end_in_anything_but_rows_or_a_data_error(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    try:
        read(tmp_path / name, text="a", label="a")
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right


TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=20), bom=st.booleans())
def test_what_a_writer_wrote_is_what_is_read(
    tmp_path: Path,
    texts: list[str],
    bom: bool,  # noqa: FBT001 - hypothesis gives it by name
) -> None:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerows([("label", "text"), *((f"l{len(text)}", text) for text in texts)])
    (tmp_path / "rows.csv").write_bytes(sink.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    (tmp_path / "rows.jsonl").write_bytes(
        b"".join(line(text=text, label=len(text)) for text in texts)
    )
    (tmp_path / "rows.parquet").write_bytes(
        parquet(text=texts, label=[len(text) for text in texts])
    )
    expected = [(str(number), text) for number, text in enumerate(texts, start=1)]
    for name, prefix in (("rows.csv", "l"), ("rows.jsonl", ""), ("rows.parquet", "")):
        rows = read(tmp_path / name)
        assert [(row.id, row.input) for row in rows] == expected
        assert [row.target for row in rows] == [f"{prefix}{len(text)}" for text in texts]


def test_rows_without_text_or_label_are_rows_for_cleaning_to_count(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(
        line(text="x", label=True)
        + line(text=None, label="a")
        + line(label=2.0, text="y")
        + line(text="z", label=None)
    )
    rows = [(row.input, row.target) for row in read(tmp_path / "rows.jsonl")]
    assert rows == [("x", "true"), ("", "a"), ("y", "2"), ("z", None)]


def test_an_id_names_one_row_alone(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a.csv", b"text,label,id\nx,a,7\ny,b,\n", id="id")
    assert "row 2 (line 3): column 'id' is empty" in message
    (tmp_path / "b.csv").write_bytes(b"text,label,id\nx,a,7\ny,b,7\n")
    columns = Columns(id="id")
    source = RowSource(
        form=ClassRows(),
        path=tmp_path / "b.csv",
        name="b.csv",
        format=DataFormat.AUTO,
        columns=columns,
    )
    with pytest.raises(DataError, match=r"b\.csv: row 2 \(line 3\): id '7' names an earlier row"):
        list(read_files([source]))


def test_every_row_needs_its_group(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a.csv", b"text,label,who\nx,a,p1\ny,b, \n", group="who")
    assert "row 2 (line 3): column 'who' is empty" in message


def test_an_ending_that_tells_no_format_needs_one(tmp_path: Path) -> None:
    assert "set dataset.format" in refusal(tmp_path, "rows.txt", b"text,label\nx,a\n")


def test_a_compressed_file_is_called_one(tmp_path: Path) -> None:
    content = gzip.compress(b"text,label\nx,a\n")
    assert refusal(tmp_path, "rows.csv.gz", content).endswith("not read; unpack it")


NUMBERS_THAT_NO_MODEL_HOLDS = {
    "their squares overflow": [1e300, 2e300],
    "their sum overflows": [1.7e308, -1.7e308, 1.7e308],
    "their spread is no number": [1e-320, 2e-320],
    "single precision ends": [0.0, 1e39],
}


@pytest.mark.parametrize("case", NUMBERS_THAT_NO_MODEL_HOLDS)
def test_numbers_that_no_model_holds_are_refused(case: str) -> None:
    with pytest.raises(DataError, match="write them in another unit"):
        NumberRows().measured(NUMBERS_THAT_NO_MODEL_HOLDS[case])
    measured = NumberRows().measured([1e-20, 1e20])
    assert measured.deviation == 0.5e20


def test_a_stated_format_goes_before_the_ending(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(b"text,label\nx,a\n")
    source = RowSource(
        form=ClassRows(),
        path=tmp_path / "rows.txt",
        name="rows.txt",
        format=DataFormat.CSV,
        columns=Columns(),
    )
    assert [row.input for row in read_rows(source)] == ["x"]


@pytest.mark.parametrize(
    ("written", "number"),
    [(b"3", 3.0), (b"-1.5e3", -1500.0), (b'" 2 "', 2.0), (b'""', None), (b"-0.0", 0.0)],
)
def test_a_number_may_be_written_as_one_or_as_text(
    tmp_path: Path, written: bytes, number: float | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "x", "label": ' + written + b"}\n")
    (row,) = read_rows(source_of(path, NumberRows()))
    assert row.target == number
    assert str(row.target) != "-0.0"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (f'"{SECRET}"'.encode(), "holds text that is no number"),
        (b"true", "holds true or false, not a number"),
        (b"[1]", "holds a list, not a number"),
        (b'"nan"', "write a finite number"),
        (b"1" + b"0" * 400, "write a finite number"),
    ],
)
def test_what_is_no_number_is_refused_with_its_place(
    tmp_path: Path, written: bytes, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "x", "label": ' + written + b"}\n")
    with pytest.raises(DataError, match=said) as caught:
        list(read_rows(source_of(path, NumberRows())))
    assert str(caught.value).startswith("rows.jsonl: line 1: column 'label'")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        (b'["b", "a", "b"]', ("a", "b")),
        (b'"b| a |"', ("a", "b")),
        (b"[7]", ("7",)),
        (b"[]", ()),
        (b'""', ()),
        (b"null", None),
    ],
)
def test_several_labels_are_a_set_that_may_be_empty_but_not_unset(
    tmp_path: Path, written: bytes, labels: tuple[str, ...] | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "x", "label": ' + written + b"}\n")
    (row,) = read_rows(source_of(path, LabelRows()))
    assert row.target == labels


def source_of(path: Path, form: AnyForm) -> RowSource:
    return RowSource(
        form=form, path=path, name=path.name, format=DataFormat.AUTO, columns=Columns()
    )


def grouped(folder: Path, name: str, content: bytes, *columns: str) -> list[tuple[str, ...]]:
    path = folder / name
    path.write_bytes(content)
    source = RowSource(
        form=ClassRows(),
        path=path,
        name=name,
        format=DataFormat.AUTO,
        columns=Columns(),
        groups=columns,
    )
    return [row.groups for row in read_rows(source)]


def test_a_row_that_has_no_group_is_in_one_of_its_own(tmp_path: Path) -> None:
    content = b"text,label,sex,place\nx,a,f,\ny,b, ,north\n"
    read = grouped(tmp_path, "rows.csv", content, "place", "sex")
    assert read == [("(missing)", "f"), ("north", "(missing)")]


def test_groups_of_jsonl_may_be_true_or_false_unset_or_absent(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"native": True},
        {"native": False},
        {"native": None},
        {},
        {"native": 2.5},
    ]
    lines = [json.dumps({"text": "x", "label": "a", **row}) for row in rows]
    read = grouped(tmp_path, "rows.jsonl", "\n".join(lines).encode(), "native")
    assert [name for (name,) in read] == ["true", "false", "(missing)", "(missing)", "2.5"]


@pytest.mark.parametrize(
    ("content", "column", "said"),
    [
        (b"text,label,sex\nx,a,f\n", "sexe", "no column 'sexe' (evaluation.groups[0])"),
        (f"text,label,sex\nx,a,{SECRET * 4}\n".encode(), "sex", "80 characters, more than 63"),
    ],
)
def test_a_column_that_makes_no_groups_is_refused(
    tmp_path: Path, content: bytes, column: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        grouped(tmp_path, "rows.csv", content, column)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def in_groups(*names: str) -> list[CleanRow[str, str]]:
    return [
        CleanRow(
            id=str(i), input="x", target="a", classes=("a",), group=None, key=b"", groups=(name,)
        )
        for i, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("18", "2.5", "(missing)"), "holds numbers; cut them into brackets"),
        (tuple(f"g{i}" for i in range(21)), "21 different values among the test rows, more than"),
        (("north", "north"), "the same value in all test rows"),
        (("(missing)",), "the same value in all test rows"),
    ],
)
def test_groups_are_a_few_names(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=r"evaluation\.groups: column 'age'") as caught:
        check_groups(in_groups(*names), ("age",))
    assert said in str(caught.value)


def test_twenty_groups_and_codes_among_names_are_groups() -> None:
    check_groups(in_groups(*(f"g{i}" for i in range(20))), ("age",))
    check_groups(in_groups("18", "older"), ("age",))
