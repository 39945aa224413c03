"""Every architecture that is called tested: all of it learns, and an adapter is kept whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from finetune_api.architectures import TESTED
from finetune_api.datareport import DataReport, PrepareReport, TargetStatistics
from finetune_api.lora import Lora
from finetune_api.tasks import Task
from finetune_trainer.data.rows import CleanRow
from finetune_trainer.evaluation.probing import pooled
from finetune_trainer.models.check import check_config, check_lengths, load_tokenizer
from finetune_trainer.models.facts import model_facts
from finetune_trainer.models.load import load_model
from finetune_trainer.models.lora import adapt, merged
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.rows import Batch, Padding, model_inputs
from harness.language import gpt2_tokenizer, llama_tokenizer
from harness.tinymodel import tiny_tokenizer
from harness.trainer import A_DIGEST, a_run

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 66, "n_inner": 64},
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1},
    "qwen2": {"num_key_value_heads": 1},
}
WITHOUT_TYPES = {"distilbert", "modernbert", "roberta", "xlm-roberta", "camembert"}
BYTE_LEVEL = {"gpt2", "qwen2"}
DECODERS = set(TESTED[Task.CAUSAL_LM])

TARGETS: dict[Task, tuple[tuple[str, ...], list[Any]]] = {
    Task.TEXT_CLASSIFICATION: (("a", "b"), ["a", "b", "b"]),
    Task.MULTI_LABEL_CLASSIFICATION: (("a", "b"), [("a",), (), ("a", "b")]),
    Task.TEXT_REGRESSION: (("value",), [1.0, 3.0, 2.0]),
    Task.TOKEN_CLASSIFICATION: (
        ("B-X", "I-X", "O"),
        [("O", "B-X"), ("B-X", "I-X", "O"), ("O",)],
    ),
}
TEXTS = ("the film", "a funny story", "war")


def cases() -> Iterator[tuple[Task, str]]:
    for task, architectures in TESTED.items():
        # Those of images are trained, scored and exported in `test_image_*.py`.
        if task is not Task.IMAGE_CLASSIFICATION:
            yield from ((task, one) for one in architectures)


def a_base(folder: Path, architecture: str, task: Task) -> None:
    """A random backbone (of a language model all of it), as its maker would publish it."""
    tokenizer = tiny_tokenizer()
    if architecture in DECODERS:
        tokenizer = gpt2_tokenizer() if architecture in BYTE_LEVEL else llama_tokenizer()
    if architecture in WITHOUT_TYPES:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = {"pad_token_id": pad, "bos_token_id": 1, "eos_token_id": 2}
    if architecture == "modernbert":
        ends |= {"cls_token_id": 2, "sep_token_id": 3}
    config = AutoConfig.for_model(
        architecture,
        # Room for a padding token, which not every tokenizer has.
        vocab_size=len(tokenizer) + 1,
        **(SIZES if architecture not in {"gpt2", "distilbert"} else {}),
        **OWN.get(architecture, {}),
        **ends,
    )
    torch.manual_seed(3)
    auto = FORMS[task].head.auto if task is Task.CAUSAL_LM else AutoModel
    auto.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def a_batch(task: Task, tokenizer: Any, pad: int) -> Batch:
    form = FORMS[task]
    if task is Task.CAUSAL_LM:
        ids = [tokenizer(text)["input_ids"] for text in ("red 1 1", "blue 7")]
        columns: dict[str, list[Any]] = {
            "input_ids": ids,
            "token_weights": [[0.0] + [1.0] * (len(row) - 1) for row in ids],
        }
        rows = len(ids)
    else:
        labels, targets = TARGETS[task]
        words = task is Task.TOKEN_CLASSIFICATION
        rows = len(TEXTS)
        clean = [
            CleanRow(
                id=text, input=tuple(text.split()) if words else text, target=target, classes=(),
                group=None, key=b"",
            )
            for text, target in zip(TEXTS, targets, strict=True)
        ]  # fmt: skip
        encoded = form.encoder(tokenizer, labels, 16).encode(clean)
        examples = [row.example for row in encoded]
        columns = {name: [one[name] for one in examples] for name in examples[0]}
    batch = form.collation(Padding(pad)).batch(columns)
    return {**batch, "weights": torch.ones(rows)}


def a_report(labels: tuple[str, ...], facts: Any) -> PrepareReport:
    data = DataReport(
        read_rows=3, kept_rows=3, train_rows=3, select_rows=0, test_rows=0, cleaning=(),
        classes=(), data_digest=A_DIGEST, split_digest=A_DIGEST,
        target=TargetStatistics(mean=2.0, deviation=1.0, min=1.0, max=3.0),
    )  # fmt: skip
    return PrepareReport(data=data, model=facts, labels=labels)


@pytest.mark.parametrize(("task", "architecture"), list(cases()))
def test_all_of_it_learns_and_an_adapter_is_merged_as_it_computed(
    task: Task, architecture: str, tmp_path: Path
) -> None:
    folder, uri = tmp_path / "base", "pvc://models/base"
    a_base(folder, architecture, task)
    form = FORMS[task]
    labels, _ = TARGETS.get(task, ((), []))
    config = check_config(folder, uri, form.head)
    tokenizer = load_tokenizer(folder, uri, of_words=form.head.reads_words)
    check_lengths(config, tokenizer, uri, 16)
    training = a_run(dataset={"train": "rows.csv"}, training={"max_length": 16}).training
    facts = model_facts(folder, uri, config, form.head, max(1, len(labels)), training=training)
    assert facts.trace is not None, "what a step of it holds can be counted"
    loaded = load_model(folder, uri, form.head, labels, dropout=0.0, seed=1)
    model = loaded.model
    assert facts.parameters == sum(one.numel() for one in model.parameters())
    batch = a_batch(task, tokenizer, int(tokenizer.pad_token_id))
    if form.evidence().probe is not None:
        body = model.base_model
        assert isinstance(body, PreTrainedModel)
        features = pooled(batch, body(**model_inputs(batch)))
        assert features.shape == (len(TEXTS), facts.hidden_size)
    row_loss = form.loss(model, a_report(labels, facts))

    def losses(of: Any) -> torch.Tensor:
        return row_loss(of(**model_inputs(batch), **form.call), batch)

    loss = losses(model).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    idle = [name for name, one in model.named_parameters() if one.grad is None]
    assert torch.isfinite(loss)
    assert not [name for name in idle if "pooler" not in name], "every weight is reached"
    model.train(mode=False)
    adapted = adapt(model, uri, Lora(rank=2), loaded.new_weights, seed=1)
    adapted.train(mode=False)
    for one in adapted.parameters():
        if one.requires_grad:
            torch.nn.init.normal_(one, std=0.05)
    with torch.no_grad():
        before = losses(adapted)
        whole = merged(adapted)
        whole.save_pretrained(tmp_path / "export")
        again = form.head.auto.from_pretrained(tmp_path / "export", dtype=torch.float32)
        again.train(mode=False)
        torch.testing.assert_close(losses(whole), before, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(losses(again), before, atol=1e-4, rtol=1e-4)
