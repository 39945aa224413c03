"""LoRA on real models: which layers get one, what is trained and saved, how it fits again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from finetune_api.lora import Lora
from finetune_trainer.errors import UsageError
from finetune_trainer.models.lora import (
    ADAPTER_FILES,
    adapt,
    load_adapter,
    merged,
    save_adapter,
    trained_parameters,
)

URI = "pvc://models/tiny"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def bert() -> PreTrainedModel:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    config.num_labels = 3
    return scoring(BertForSequenceClassification(config))


def gpt2() -> PreTrainedModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=20,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    config.num_labels = 3
    return scoring(GPT2ForSequenceClassification(config))


def scoring(model: PreTrainedModel) -> PreTrainedModel:
    model.train(mode=False)
    return model


MODELS = [bert, gpt2]


def a_trained_adapter(model: PreTrainedModel) -> PeftModel:
    """An adapter none of whose matrices is zero, as after some steps."""
    adapted = adapt(model, URI, Lora(rank=4), (), seed=3)
    torch.manual_seed(2)
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted.eval()


def layers(model: PeftModel) -> list[str]:
    return list(model.peft_config["default"].target_modules)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", MODELS)
def test_all_linear_layers_of_the_backbone_get_one_and_the_head_is_trained_whole(
    make: Callable[[], PreTrainedModel],
) -> None:
    model = make()
    adapted = adapt(model, URI, Lora(rank=4), (), seed=3)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    heads = {name for name in trained if "lora_" not in name}
    # BERT: query, key, value, output, two of the MLP; GPT-2: attention in and out, two of the MLP.
    per_block = 6 if make is bert else 4
    pooler = 1 if make is bert else 0
    assert len(trained - heads) == 2 * (2 * per_block + pooler)
    assert {"classifier" in name or "score" in name for name in heads} == {True}
    whole = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained_parameters(make(), URI, Lora(rank=4), ()) == whole


def test_what_the_base_model_lacked_is_trained_whole_too() -> None:
    new = ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight")
    adapted = adapt(bert(), URI, Lora(rank=4), new, seed=3)
    assert adapted.peft_config["default"].modules_to_save == ["bert.pooler.dense", "classifier"]  # type: ignore[attr-defined]
    assert not [name for name in layers(adapted) if "pooler" in name]


def test_named_layers_alone_get_one() -> None:
    adapted = adapt(bert(), URI, Lora(rank=4, targets=("query", "attention.self.value")), (), 3)
    assert {name.rpartition(".")[2] for name in layers(adapted)} == {"query", "value"}
    assert len(layers(adapted)) == 4


@pytest.mark.parametrize("target", ["q_proj", "uery", "classifier"])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(target: str) -> None:
    with pytest.raises(UsageError, match=rf"targets: .*no linear layer {target} .* dense, key, q"):
        adapt(bert(), URI, Lora(targets=("query", target)), (), seed=3)


def test_a_model_with_batch_normalization_is_refused() -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    with pytest.raises(UsageError, match=r"batch normalization .*set it to full"):
        adapt(ResNetForImageClassification(config), URI, Lora(), (), seed=3)


def test_an_untrained_adapter_changes_nothing_and_depends_on_its_seed_alone() -> None:
    before = bert()(input_ids=IDS).logits
    seen = []
    for seed, disturbance in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(disturbance)
        adapted = adapt(bert(), URI, Lora(rank=4), (), seed=seed).eval()
        assert torch.equal(adapted(input_ids=IDS).logits, before)
        state = adapted.state_dict()
        seen.append(next(state[name] for name in state if "lora_A" in name))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("make", MODELS)
def test_a_saved_adapter_on_the_base_model_and_merged_into_it_compute_the_same(
    make: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = make()
    base = copy.deepcopy(model)
    adapted = a_trained_adapter(model)
    expected = adapted(input_ids=IDS).logits
    assert (expected - base(input_ids=IDS).logits).abs().max() > 0.1
    save_adapter(adapted, tmp_path)
    loaded = load_adapter(base, tmp_path).eval()
    assert torch.equal(loaded(input_ids=IDS).logits, expected)
    whole = merged(loaded)
    assert {name.partition(".")[0] for name, _ in whole.named_parameters()} == {
        name.partition(".")[0] for name, _ in make().named_parameters()
    }
    torch.testing.assert_close(whole(input_ids=IDS).logits, expected, atol=1e-4, rtol=0)


def test_a_saved_adapter_holds_what_was_trained_and_names_no_machine(tmp_path: Path) -> None:
    model = bert()
    model.name_or_path = "/somewhere/on/this/machine"
    save_adapter(a_trained_adapter(model), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*ADAPTER_FILES, "config.json"}
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(one.numel() for one in weights.values()) == trained_parameters(
        bert(), URI, Lora(rank=4), ()
    )
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == URI
    assert "/somewhere" not in "".join(path.read_text() for path in tmp_path.glob("*.json"))


def test_an_adapter_of_a_model_from_the_hub_names_it_so_that_peft_finds_it(tmp_path: Path) -> None:
    adapted = adapt(bert(), f"hf://acme/bert@{'a' * 40}", Lora(rank=4), (), 1)
    save_adapter(adapted, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("acme/bert", "a" * 40)
