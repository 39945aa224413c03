"""The rows that a job learns from and is measured on: the block `dataset` of its spec."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.markers import Cel, Contract, ShortText, Uri, rules
from finetune_api.uris import SOURCES, URI_RULE


class DataFormat(StrEnum):
    """How rows are written; ``auto`` goes by the file's ending."""

    AUTO = "auto"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    CONLL = "conll"


class TagScheme(StrEnum):
    """How the tags of words mark spans."""

    IOB2 = "iob2"
    IOB1 = "iob1"
    BIOES = "bioes"
    PLAIN = "plain"


class SplitStrategy(StrEnum):
    """How a row gets its role."""

    HASH = "hash"
    STRATIFIED = "stratified"


@rules(
    Cel(
        "has(self.prompt) == has(self.completion)",
        "dataset.columns: prompt and completion go together; name both, or neither",
    ),
    Cel(
        "!has(self.messages) || !has(self.prompt)",
        "dataset.columns: messages excludes prompt and completion: keep one form",
    ),
    Cel(
        "!has(self.tools) || has(self.messages)",
        "dataset.columns.tools goes with dataset.columns.messages",
    ),
)
class Columns(Contract):
    """Which columns of the data carry what."""

    text: Annotated[ShortText, Field(description="The column with the input text.")] = "text"
    label: Annotated[
        ShortText,
        Field(
            description="The column with the class, or with the number that is to be told. Of "
            "several labels a list, or a text with | between them; empty for none of them."
        ),
    ] = "label"
    prompt: Annotated[
        ShortText | None,
        Field(description="causal-lm: the column with what is read, and not learned."),
    ] = None
    completion: Annotated[
        ShortText | None,
        Field(description="causal-lm: the column with what is learned after the prompt."),
    ] = None
    messages: Annotated[
        ShortText | None,
        Field(
            description="causal-lm: the column with chats, lists of {role, content}; what the "
            "assistant says is learned, by its message's weight (0 to 1) where it has one."
        ),
    ] = None
    tools: Annotated[
        ShortText | None,
        Field(description="causal-lm: the column with a chat's tools, as a list or as its JSON."),
    ] = None
    tokens: Annotated[
        ShortText | None,
        Field(
            description="token-classification: the column with a row's words, a list of texts "
            "(recipe: tokens)."
        ),
    ] = None
    tags: Annotated[
        ShortText | None,
        Field(
            description="token-classification: the column with as many tags, each a text, or a "
            "number that counts dataset.labels from 0 (recipe: tags)."
        ),
    ] = None
    image: Annotated[
        ShortText | None,
        Field(
            description="image-classification: the column with the image, as its bytes or as a "
            "path from the file's own folder (recipe: image; in a file called metadata file_name)."
        ),
    ] = None
    id: Annotated[
        ShortText | None,
        Field(description="A column that names the row in reports; by default its row number."),
    ] = None
    group: Annotated[
        ShortText | None,
        Field(
            description="Rows with the same value here stay together in one role (a patient, an "
            "author, a document), and intervals are resampled by it."
        ),
    ] = None


class Cleaning(Contract):
    """What is done to the rows before they are split; each step is counted and shown."""

    markup: Annotated[
        bool,
        Field(
            description="Take HTML tags and entities out (not of the rows of causal-lm and "
            "token-classification)."
        ),
    ] = True
    unicode_form: Annotated[
        Literal["NFC", "NFKC", "None"], Field(description="The Unicode form that texts get.")
    ] = "NFC"
    min_characters: Annotated[
        int, Field(ge=1, le=10_000, description="Rows with a shorter text are dropped.")
    ] = 1
    deduplicate: Annotated[
        bool, Field(description="Keep one of the rows that have the same input and the same label.")
    ] = True
    near_duplicates: Annotated[
        Literal["report", "drop", "ignore"] | None,
        Field(
            description="What happens to texts that share at least 0.7 of their runs of three "
            "words with another one (one word changed in fifteen), and to images that show what "
            "another one shows, encoded anew, resized, brightened or cropped a little (recipe: "
            "report). report: those that train or select and are near one of the test rows are "
            "taken out as leaks, and so are those that train and are near one that selects; others "
            "are counted. drop: of those with the same label one is kept as well. ignore: they are "
            "not looked for."
        ),
    ] = None
    conflicts: Annotated[
        Literal["drop", "keep"],
        Field(
            description="What happens to equal inputs with different labels; a question may have "
            "several answers, so that causal-lm keeps them."
        ),
    ] = "drop"
    drop_labels: Annotated[
        tuple[ShortText, ...],
        Field(max_length=50, description="Rows with one of these labels are dropped and counted."),
    ] = ()


@rules(
    Cel(
        "self.select + self.test < 90",
        "dataset.split: select and test together must leave more than 10 percent to train on",
    )
)
class Split(Contract):
    """Which share of the rows trains, selects and tests. What is left of 100 trains."""

    select: Annotated[
        int,
        Field(
            ge=1,
            le=50,
            description="Percent of rows that choose the best checkpoint and nothing else.",
        ),
    ] = 8
    test: Annotated[
        int,
        Field(
            ge=1,
            le=50,
            description="Percent of rows that only the evaluate step sees. Unused where "
            "dataset.test names a set of its own.",
        ),
    ] = 20
    seed: Annotated[int, Field(ge=0, le=2_147_483_647, description="Seed of the hash.")] = 0
    strategy: Annotated[
        SplitStrategy,
        Field(
            description="hash: the input's seeded hash against a threshold, so that added rows "
            "move nobody. stratified: ranked by that hash within each class, for rare classes."
        ),
    ] = SplitStrategy.HASH


@rules(
    Cel(
        URI_RULE.replace("self", "self.train"),
        f"dataset.train must be {SOURCES}",
    ),
    Cel(
        f"!has(self.test) || {URI_RULE.replace('self', 'self.test')}",
        f"dataset.test must be {SOURCES}",
    ),
    Cel(
        "self.labels.size() != 1",
        "dataset.labels: one class can't be classified; name at least two, or leave it out",
    ),
    Cel(
        "!self.cleaning.dropLabels.exists(one, one in self.labels)",
        "dataset.cleaning.dropLabels: a label of dataset.labels stands there too; keep it in one "
        "of them",
    ),
)
class Dataset(Contract):
    """The rows: where they are, what they mean, how they are cleaned and split."""

    train: Annotated[
        Uri,
        Field(
            description="pvc://CLAIM/PATH, https://…, s3://…, gs://…, "
            "hf://datasets/OWNER/NAME@COMMIT/FILE; in a local run also a path."
        ),
    ]
    test: Annotated[
        Uri | None,
        Field(
            description="Test rows of their own. Rows that train also holds are taken out there."
        ),
    ] = None
    format: Annotated[
        DataFormat,
        Field(
            description="auto goes by the file's ending. conll (token-classification): a word and "
            "its tag in a line, the first and the last of its columns, and an empty line between "
            "rows."
        ),
    ] = DataFormat.AUTO
    columns: Annotated[Columns, Field(description="Which column carries what.")] = Columns()
    labels: Annotated[
        tuple[ShortText, ...],
        Field(
            max_length=200,
            description="The classes in the order of the model's outputs; by default those of the "
            "data, sorted. A label that is not named here is an error.",
        ),
    ] = ()
    tag_scheme: Annotated[
        TagScheme | None,
        Field(
            description="token-classification: iob2: B-TYPE begins a span, I-TYPE goes on, O is "
            "outside. iob1 (B- only between spans of a type) and bioes (or BILOU) are read as "
            "iob2, which is what the model learns. plain: each word has a tag of its own, as parts "
            "of speech have (recipe: iob2)."
        ),
    ] = None
    cleaning: Annotated[Cleaning, Field(description="Steps before the split.")] = Cleaning()
    max_dropped_percent: Annotated[
        int | None,
        Field(
            ge=0,
            le=100,
            description="The most rows that may be left out; more are an error (recipe: 5). "
            "causal-lm: because they are too long, or no token of them is learned. "
            "image-classification: because they hold no image that can be used.",
        ),
    ] = None
    split: Annotated[Split, Field(description="Shares of the three roles.")] = Split()
    limit: Annotated[
        int | None,
        Field(
            ge=10,
            le=1_000_000_000,
            description="Use a random sample of so many rows (never the first ones).",
        ),
    ] = None
