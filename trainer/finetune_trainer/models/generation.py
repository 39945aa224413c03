"""How a language model is asked to go on, and at which tokens it stops.

A maker's ``generation_config.json`` may name more stops than the tokenizer's end-of-text token:
the end of a chat turn, say. Both count, in what is learned as in what is exported.
"""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.errors import UsageError

_FILE = "generation_config.json"


def stop_ids(settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a generation, in order."""
    stated = settings.eos_token_id
    ids = stated if isinstance(stated, list) else [stated]
    return sorted({int(one) for one in (*ids, tokenizer.eos_token_id) if one is not None})


def read_settings(folder: Path, uri: str) -> GenerationConfig:
    """Read a model folder's settings of generation; the library's own where it has none.

    Raises
    ------
    UsageError
        If they can't be read, or could not be written again: the model could not be saved.
    """
    if not (folder / _FILE).is_file():
        return GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        settings: GenerationConfig = GenerationConfig.from_pretrained(folder, local_files_only=True)
        settings.validate(strict=True)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"model.uri: {uri}: its {_FILE} is not valid ({reason}); mend it, or take it out of "
            "the folder"
        ) from error
    return settings


def settle_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write into the model's own settings where it stops and what it pads with."""
    settings = model.generation_config
    settings.eos_token_id = stop_ids(settings, tokenizer)
    settings.bos_token_id = tokenizer.bos_token_id
    settings.pad_token_id = tokenizer.pad_token_id
