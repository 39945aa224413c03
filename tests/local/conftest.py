"""Fixtures of the local tier: a model small enough to train in a test, and rows it can learn."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.tinymodel import write_sentences, write_tiny_model
from harness.trainer import a_run, an_environment
from harness.training import Job

# Tests share few cores; more threads than one per process only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a random two-layer BERT without a head, with its fast tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def sentences_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a CSV of 400 distinct sentences with two labels."""
    path = tmp_path_factory.mktemp("rows") / "sentences.csv"
    write_sentences(path)
    return path


@pytest.fixture(scope="session")
def prepared_job(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, sentences_csv: Path
) -> Job:
    """Give a job whose rows the prepare step has made; training tests copy its folder."""
    folder = tmp_path_factory.mktemp("jobs") / "prepared"
    run = a_run(dataset={"train": sentences_csv.name})
    environment = an_environment(folder, run, BASE=str(sentences_csv.parent))
    shutil.copytree(tiny_model, folder / "claims" / "models" / "tiny-bert")
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "prepare"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Job(folder=folder, training={})
