"""Whether a model's folder fits the task: told by name, before a GPU is held."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.report import ExitCode
from finetune_api.run import LAYOUT, Run
from finetune_trainer.__main__ import main
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import UsageError
from finetune_trainer.models.check import (
    check_config,
    check_lengths,
    load_tokenizer,
    usable_positions,
)
from finetune_trainer.models.facts import model_facts
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.models.load import load_model
from harness.trainer import a_run, an_environment

URI = "pvc://models/one"


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def check(folder: Path, max_length: int = 32) -> None:
    config = check_config(folder, URI, SINGLE_LABEL)
    tokenizer = load_tokenizer(folder, URI)
    check_lengths(config, tokenizer, URI, max_length)
    model_facts(folder, URI, config, SINGLE_LABEL, 2)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def without_a_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(
        {name: one for name, one in weights.items() if "layer.1.output.dense" not in name},
        path,
        metadata={"format": "pt"},
    )


def without_pad_and_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if "token" not in k}
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    assert vocabulary["model"]["vocab"]
    for name in ("special_tokens_map.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)


REFUSALS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "not a model's folder: it has no config"),
    "a broken config": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "a config of nothing": (lambda f: (f / "config.json").write_text("[]"), "names no model_type"),
    "an unknown type": (
        lambda f: change_config(f, model_type="homemade", auto_map={"AutoModel": "x.Y"}),
        "model_type 'homemade' can't be read by the transformers library; code",
    ),
    "a field of another type": (
        lambda f: change_config(f, hidden_size="big"),
        "config.json does not fit model_type 'bert'",
    ),
    "images": (
        lambda f: change_config(f, model_type="resnet"),
        "resnet is an architecture with",
    ),
    "an encoder-decoder": (
        lambda f: (f / "config.json").write_text('{"model_type": "t5"}'),
        "t5 is an encoder-decoder: tuning of encoder-decoders (sequence to sequence) is not done;",
    ),
    "quantized": (
        lambda f: change_config(f, quantization_config={"quant_method": "bitsandbytes"}),
        "its weights are quantized: tuning on quantized weights (QLoRA) is not done; instead,",
    ),
    "a GGUF file": (
        lambda f: (f / "model.safetensors").rename(f / "model-q4.gguf"),
        "a GGUF file: tuning on quantized weights (QLoRA) is not done; instead, model.method lora",
    ),
    "a diffusion pipeline": (
        lambda f: (f / "model_index.json").write_text("{}"),
        "a diffusion pipeline: tuning of diffusion models is not done; instead, of images, task",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "pickled weights": (
        only_a_pickle,
        "pickled (.bin), which can run code when read; load it",
    ),
    "weights cut short": (cut_weights, "its weights can't be read (SafetensorError"),
    "a layer missing": (
        without_a_layer,
        "2 weights of the backbone are missing or of another shape than config.json says (bert.enc",
    ),
    "another shape": (
        lambda f: change_config(f, intermediate_size=128),
        "weights of the backbone are missing or of another shape",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "it has no tokenizer (tokenizer.json)",
    ),
    "a broken tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{"),
        "its tokenizer can't be loaded",
    ),
    "no padding and no end": (without_pad_and_end, "neither a padding nor an end-of-text token"),
    "another tokenizer": (
        lambda f: change_config(f, vocab_size=100),
        "its tokenizer has 136 tokens and the model only 100; they are not of one model",
    ),
}


@dataclass(frozen=True)
class Job:
    """What the prepare step is told: a model of its own, and rows of two classes."""

    folder: Path
    run: Run

    @property
    def model(self) -> Path:
        return self.folder / "claims" / "models" / "one"

    def prepare(self) -> None:
        """Run the step in this process."""
        prepare(RankEnvironment.from_env(self.environment()), self.run)

    def environment(self) -> dict[str, str]:
        return an_environment(self.folder, self.run, BASE=str(self.folder))

    def data(self) -> Path:
        return self.folder / "workspace" / str(LAYOUT.prepared)


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path, sentences_csv: Path) -> Job:
    run = a_run(dataset={"train": "rows.csv", "columns": {"id": "id"}}, model=URI)
    job = Job(folder=tmp_path / "job", run=run)
    shutil.copytree(tiny_model, job.model)
    shutil.copy(sentences_csv, job.folder / "rows.csv")
    return job


def as_classifier(*labels: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        from transformers import BertForSequenceClassification

        BertForSequenceClassification.from_pretrained(
            folder,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
        ).save_pretrained(folder)

    return save


def as_tagger(folder: Path) -> None:
    """Give it a head for tokens: of the same name, and of nine classes."""
    from transformers import BertForTokenClassification

    BertForTokenClassification.from_pretrained(folder, num_labels=9).save_pretrained(folder)


def with_a_shard_missing(folder: Path) -> None:
    from transformers import BertModel

    BertModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    next(folder.glob("model-00002-of-*.safetensors")).unlink()


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "labels in another order": (
        as_classifier("positive", "negative"),
        "it classifies into positive, negative, the data into negative, positive; name the labels",
    ),
    "other labels": (
        as_classifier("fine", "dull"),
        "it classifies into fine, dull, the data into negative, positive; name the labels in the",
    ),
    "another number of labels": (
        as_classifier("a", "b", "c"),
        "it classifies into a, b, c, the data into negative, positive",
    ),
    "another head of the same name": (
        as_tagger,
        "its head is not one for 2 outputs (of another shape: classifier.bias, classifier.weight)",
    ),
    "two ids of padding": (
        lambda folder: change_config(folder, pad_token_id=7),
        "it pads with 7 by its config.json and with 0 by its tokenizer; make them equal",
    ),
    "a layer missing": (
        without_a_layer,
        "2 weights of the backbone are missing or of another shape than config.json says (bert.enc",
    ),
    "a shard missing": (with_a_shard_missing, "its weights can't be read"),
    "pickled weights": (only_a_pickle, "its weights are pickled (.bin)"),
    "weights cut short": (cut_weights, "its weights can't be read (SafetensorError"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_training_would_refuse_is_refused_before_a_gpu_is_held(job: Job, case: str) -> None:
    spoil, words = UNFIT[case]
    spoil(job.model)
    with pytest.raises(UsageError) as caught:
        job.prepare()
    assert str(caught.value).startswith(f"model.uri: {URI}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not job.data().exists()
    # And so it would be there: a second line stands before the training.
    with pytest.raises(UsageError):
        load_model(job.model, URI, SINGLE_LABEL, ("negative", "positive"), dropout=None, seed=1)


def test_an_unfit_model_is_one_line_and_exit_code_64(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    as_classifier("a", "b", "c")(job.model)
    for name, value in job.environment().items():
        monkeypatch.setenv(name, value)
    capfd.readouterr()
    assert main(["prepare"]) == ExitCode.USAGE
    (told,) = capfd.readouterr().err.strip().splitlines()
    assert "it classifies into a, b, c" in told


@pytest.mark.parametrize("labels", [("negative", "positive"), ("LABEL_0", "LABEL_1")])
def test_a_classifier_of_the_datas_labels_or_of_unnamed_ones_is_prepared(
    job: Job, labels: tuple[str, ...]
) -> None:
    as_classifier(*labels)(job.model)
    job.prepare()
    assert job.data().exists()


@pytest.mark.parametrize("case", REFUSALS)
def test_a_folder_that_is_no_fitting_model_is_refused_by_name(folder: Path, case: str) -> None:
    spoil, words = REFUSALS[case]
    spoil(folder)
    with pytest.raises(UsageError) as caught:
        check(folder)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"model.uri: {URI}: ")
    assert "\n" not in str(caught.value)


def test_a_whole_model_passes(folder: Path) -> None:
    check(folder, max_length=64)


def test_a_model_for_masked_words_passes_though_it_has_no_pooler(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    read = check_config(tmp_path, URI, SINGLE_LABEL)
    assert model_facts(tmp_path, URI, read, SINGLE_LABEL, 3).classes == 3


def test_a_decoder_pads_with_its_end_of_text(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<|end|>": 0, "good": 1, "bad": 2}, unk_token="<|end|>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")  # type: ignore[no-untyped-call]  # as transformers has it
    wrapped.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=3, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    GPT2Model(config).save_pretrained(tmp_path)
    read = check_config(tmp_path, URI, SINGLE_LABEL)
    tokenizer = load_tokenizer(tmp_path, URI)
    assert tokenizer.pad_token_id == 0
    check_lengths(read, tokenizer, URI, 16)
    facts = model_facts(tmp_path, URI, read, SINGLE_LABEL, 2)
    assert (facts.layers, facts.hidden_size, facts.intermediate_size) == (1, 8, 32)
    with pytest.raises(UsageError, match="16 positions"):
        check_lengths(read, tokenizer, URI, 17)


def test_positions_that_roberta_loses_to_padding_are_not_offered() -> None:
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=12,
        pad_token_id=1,
    )
    longest = usable_positions(config)
    assert longest == 10
    model = RobertaForSequenceClassification(config)
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(input_ids=torch.full((1, longest + 1), 5))
