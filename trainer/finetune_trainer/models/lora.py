"""Low-rank adaptation: what is put beside a model, what is kept of it, and how it goes together.

``training`` adapts a base model and saves the adapter; ``evaluation`` loads it onto the base again.
The library is peft; ours are which layers get one, that they begin alike on every rank, and that no
file depends on chance or asks a model hub.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_api.lora import Lora
from finetune_trainer import hub
from finetune_trainer.errors import UsageError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_CONFIG, _WEIGHTS = ADAPTER_FILES
_ADAPTER = "default"
_LINEAR = (torch.nn.Linear, Conv1D)


def adapt(
    model: PreTrainedModel, uri: str, lora: Lora, new_weights: tuple[str, ...], seed: int
) -> PeftModel:
    """Freeze a model, and put trained matrices beside its layers; its head is trained in full.

    Parameters
    ----------
    new_weights
        Names of the weights that the base model lacked: the modules that own them are trained, and
        saved, whole.
    seed
        Of the matrices' first values: the same on any number of ranks, at any ZeRO stage.

    Raises
    ------
    UsageError
        If the model has batch normalization, or no layer that is named.
    """
    saved = _saved_modules(model, new_weights)
    targets = _targets(model, uri, lora, saved)
    config = LoraConfig(
        r=lora.rank,
        # Typed as an integer, and only ever divided by the rank.
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=saved or None,
        # peft would find it out, and warn of it.
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    assert isinstance(adapted, PeftModel)
    # peft puts the folder there, which is another one on another machine.
    peft_config = adapted.peft_config[_ADAPTER]
    peft_config.base_model_name_or_path = uri
    if uri.startswith(hub.SCHEME):
        place = hub.HubPath.of(uri, "model.uri")
        peft_config.base_model_name_or_path = place.repository
        peft_config.revision = place.commit
    return adapted


def trained_parameters(
    model: PreTrainedModel, uri: str, lora: Lora, new_weights: tuple[str, ...]
) -> int:
    """How many numbers ``adapt`` would train; the model may be on the meta device.

    Raises
    ------
    UsageError
        As ``adapt`` does.
    """
    saved = _saved_modules(model, new_weights)
    targets = _targets(model, uri, lora, saved)
    sizes = (model.get_parameter(f"{name}.weight").shape for name in targets)
    matrices = sum(lora.rank * sum(shape) for shape in sizes)
    whole = (one.numel() for name in saved for one in model.get_submodule(name).parameters())
    return matrices + sum(whole)


def save_adapter(
    model: PeftModel, folder: Path, state: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write the adapter and the trained head, and the base model's configuration with its labels.

    ``state`` holds the model's weights where they can't be read from it (ZeRO 3).
    """
    weights = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    whole = {name: weights[name].detach().contiguous() for name in sorted(weights)}
    save_file(whole, folder / _WEIGHTS, metadata={"format": "pt"})
    settings = model.peft_config[_ADAPTER].to_dict() | {"inference_mode": True}
    text = json.dumps(settings, indent=2, sort_keys=True, default=sorted)
    (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    base.config.save_pretrained(folder)


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Put a saved adapter onto the base model that it was trained beside."""
    return PeftModel.from_pretrained(
        base, str(folder), autocast_adapter_dtype=False, torch_device=str(base.device)
    )


def merged(model: PeftModel) -> PreTrainedModel:
    """One model without adapter that computes the same, up to rounding; ``model`` is used up."""
    whole = model.merge_and_unload()  # peft forwards it to the tuner
    assert isinstance(whole, PreTrainedModel)
    return whole


def _saved_modules(model: PreTrainedModel, new_weights: tuple[str, ...]) -> list[str]:
    """The head, and what else is new. An output embedding is the backbone's own turned around."""
    output = _output_embeddings(model)
    head = (
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix
        and module is not output
        and any(True for _ in module.parameters())
    )
    names = sorted({*head, *(name.rpartition(".")[0] for name in new_weights)})
    return [name for name in names if not any(_is_within(name, other) for other in names)]


def _output_embeddings(model: PreTrainedModel) -> torch.nn.Module | None:
    found: torch.nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return found


def _is_within(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


def _targets(model: PreTrainedModel, uri: str, lora: Lora, saved: list[str]) -> list[str]:
    _refuse_batch_norm(model, uri)
    layers = [
        name
        for name in _linear_layers(model)
        if name not in saved and not any(_is_within(name, other) for other in saved)
    ]
    if not lora.targets:
        return layers
    chosen = {
        target: [name for name in layers if name == target or name.endswith(f".{target}")]
        for target in lora.targets
    }
    absent = sorted(target for target, names in chosen.items() if not names)
    if absent:
        known = sorted({name.rpartition(".")[2] for name in layers})
        raise UsageError(
            f"model.lora.targets: {uri} has no linear layer {', '.join(absent)} in its backbone; "
            f"it has {', '.join(known)}"
        )
    return [name for name in layers if any(name in names for names in chosen.values())]


def _linear_layers(model: PreTrainedModel) -> Iterator[str]:
    output = _output_embeddings(model)
    for name, module in model.named_modules():
        if isinstance(module, _LINEAR) and module is not output:
            yield name


def _refuse_batch_norm(model: PreTrainedModel, uri: str) -> None:
    """Its statistics move with the data, and no adapter holds them: a merge would not be equal."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise UsageError(
                f"model.method: {uri} has batch normalization ({name}), whose statistics no "
                "adapter can hold; set it to full"
            )
