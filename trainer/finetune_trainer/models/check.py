"""Whether a model's folder fits the task, told before a GPU is held. Used by ``prepare``.

``load_tokenizer`` also serves the other steps, so that all of them pad and cut alike.
"""

import json
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from finetune_api.notdone import not_done
from finetune_trainer.errors import UsageError
from finetune_trainer.models.heads import Head

_FIELD = "model.uri"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_POSITIONS_START_AFTER_PADDING = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""RoBERTa and its kin number tokens from the padding id + 1 on, so that many positions are lost."""


def check_config(folder: Path, uri: str, head: Head) -> PretrainedConfig:
    """Read the model's configuration and hold it against the architecture × task table.

    Raises
    ------
    UsageError
        If the folder holds no model, its weights are not safetensors, or its architecture has no
        head for the task.
    """
    where = f"{_FIELD}: {uri}"
    if not folder.is_dir():
        raise UsageError(f"{where}: no such folder; it must hold what save_pretrained writes")
    if (folder / "model_index.json").is_file():
        raise UsageError(f"{where}: it is a diffusion pipeline: {not_done('diffusion')}")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{where}: not a model's folder: it has no config.json")
    config = _read_config(folder, where)
    _check_architecture(config, where, head)
    _check_weights(folder, where)
    return config


def _read_config(folder: Path, where: str) -> PretrainedConfig:
    try:
        stated = json.loads((folder / "config.json").read_bytes())
    except ValueError as error:
        raise UsageError(f"{where}: config.json is not valid JSON; save the model anew") from error
    kind = stated.get("model_type") if isinstance(stated, dict) else None
    if not kind:
        raise UsageError(
            f"{where}: not a transformers model: config.json names no model_type; save it with "
            "save_pretrained"
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)  # type: ignore[no-any-return]  # an Auto class gives whichever it finds
    except StrictDataclassError as error:
        raise UsageError(
            f"{where}: config.json does not fit model_type {kind!r}; save the model anew with "
            "save_pretrained"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{where}: model_type {kind!r} can't be read by the transformers library; code that "
            "comes with a model is never run"
        ) from error


def _check_architecture(config: PretrainedConfig, where: str, head: Head) -> None:
    if config.is_encoder_decoder:
        raise UsageError(
            f"{where}: {config.model_type} is an encoder-decoder: {not_done('encoder-decoder')}; "
            f"for {head.task.value} take {head.advice}"
        )
    if config.model_type not in head.architectures:
        raise UsageError(
            f"{where}: {config.model_type} is an architecture without a head for "
            f"{head.task.value}; take {head.advice}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(f"{where}: its weights are quantized: {not_done('quantization')}")


def _check_weights(folder: Path, where: str) -> None:
    if any((folder / name).is_file() for name in _WEIGHTS):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise UsageError(
            f"{where}: its weights are pickled (.bin), which can run code when read; load it once "
            "where that is safe and write it anew with save_pretrained, as model.safetensors"
        )
    if any(folder.glob("*.gguf")):
        raise UsageError(f"{where}: its weights are a GGUF file: {not_done('quantization')}")
    raise UsageError(f"{where}: it has no weights: model.safetensors is missing")


def load_tokenizer(folder: Path, uri: str, *, of_words: bool = False) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer, with a padding token: its own, or else its end-of-text token.

    Padding is masked out, so that either serves; a model's ``pad_token_id`` must
    be set to the same. With ``of_words`` it takes a word that is given alone as one within a text.

    Raises
    ------
    UsageError
        If there is none, only a slow one, neither token, or one that can't take words so.
    """
    where = f"{_FIELD}: {uri}"
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UsageError(
            f"{where}: it has no tokenizer (tokenizer.json); save the model's tokenizer into the "
            "folder with save_pretrained"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UsageError(
            f"{where}: its tokenizer can't be loaded ({type(error).__name__}); save it anew with "
            "save_pretrained, as tokenizer.json"
        ) from error
    if not tokenizer.is_fast:
        raise UsageError(f"{where}: its tokenizer has no fast form; add a tokenizer.json")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise UsageError(
                f"{where}: its tokenizer has neither a padding nor an end-of-text token; set "
                "pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return _of_words(tokenizer, folder, where) if of_words else tokenizer


def _of_words(
    tokenizer: PreTrainedTokenizerBase, folder: Path, where: str
) -> PreTrainedTokenizerBase:
    """Byte-level tokenizers write the space before a word into it, and lose it without a word."""
    if _takes_words(tokenizer):
        return tokenizer
    pad = tokenizer.pad_token
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, add_prefix_space=True)
    tokenizer.pad_token = pad
    splitting = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(splitting, ByteLevel):
        # The class of a tokenizer that is only a tokenizer.json does not pass it on.
        splitting.add_prefix_space = True
    if not _takes_words(tokenizer):
        raise UsageError(
            f"{where}: its tokenizer reads words that are given one by one otherwise than in a "
            "text; take a model with another one, such as bert or roberta"
        )
    return tokenizer


def _takes_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words become the tokens that they are in a text."""
    words = ["a", "1", "a"]
    alone = tokenizer(words, is_split_into_words=True, add_special_tokens=False)
    in_text = list(tokenizer(" ".join(words), add_special_tokens=False)["input_ids"])
    # The first word is not compared: what begins a text has no space before it.
    later = [
        token
        for token, word in zip(alone["input_ids"], alone.word_ids(), strict=True)
        if word is not None and word > 0
    ]
    return later == in_text[-len(later) :]


def check_lengths(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, uri: str, max_length: int
) -> None:
    """Hold the tokenizer's ids and the run's length against the model's tables.

    Raises
    ------
    UsageError
        If an id or a position would lie outside of them, which a GPU answers with a bare assert.
    """
    vocabulary = int(config.get_text_config().vocab_size)
    if len(tokenizer) > vocabulary:
        raise UsageError(
            f"{_FIELD}: {uri}: its tokenizer has {len(tokenizer)} tokens and the model only "
            f"{vocabulary}; they are not of one model"
        )
    positions = usable_positions(config)
    if positions is not None and max_length > positions:
        raise UsageError(
            f"training.maxLength: {max_length} tokens are more than the model's {positions} "
            f"positions; set it to {positions} or less"
        )


def usable_positions(config: PretrainedConfig) -> int | None:
    """The longest sequence, in tokens, that the model has positions for; unset if unlimited."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    if config.model_type in _POSITIONS_START_AFTER_PADDING:
        return positions - int(text.pad_token_id or 0) - 1
    return positions
