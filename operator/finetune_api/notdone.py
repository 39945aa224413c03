"""What people ask of a fine-tuner and this one does not do, with what there is instead.

Whoever refuses a manifest, a model or rows says so by name: a list of allowed words leaves open
whether the word was misspelled or the thing is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NotDone:
    """A way of tuning that is missing: in words, what stands in for it, and how it is asked for.

    ``names`` are words of the field, and names of fields elsewhere.
    """

    what: str
    instead: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        """That it is not done, and what is."""
        return f"{self.what} is not done; instead, {self.instead}"


_ALL: tuple[NotDone, ...] = (
    NotDone(
        "tuning of encoder-decoders (sequence to sequence)",
        "task causal-lm with dataset.columns.prompt and completion teaches a decoder such pairs",
        (
            *("seq2seq", "seq2seq-lm", "sequence-to-sequence", "text2text-generation"),
            *("encoder-decoder", "summarization", "translation"),
        ),
    ),
    NotDone(
        "learning from preferences",
        "task causal-lm on the preferred answers is supervised fine-tuning",
        (
            *("dpo", "ipo", "kto", "orpo", "simpo", "cpo", "preference", "preferences"),
            *("preference-tuning", "chosen", "rejected"),
        ),
    ),
    NotDone(
        "reinforcement learning (and reward models for it)",
        "task causal-lm on good answers is supervised fine-tuning, and task text-regression tells "
        "a score",
        (
            *("rlhf", "rlaif", "rlvr", "ppo", "grpo", "rloo", "reward", "reward-model"),
            *("reward-modeling", "reinforcement-learning"),
        ),
    ),
    NotDone(
        "tuning on quantized weights (QLoRA)",
        "model.method lora keeps the base model's weights as they are, and deepspeed.zeroStage 3 "
        "with offload spreads them",
        (
            *("qlora", "gptq", "awq", "bnb", "bitsandbytes", "4bit", "8bit", "int4", "int8", "nf4"),
            *("quantization", "quantization-config", "load-in-4bit", "load-in-8bit", "fp8"),
        ),
    ),
    NotDone(
        "tuning with other adapters than LoRA's",
        "model.method lora",
        (
            *("dora", "use-dora", "adalora", "ia3", "loha", "lokr", "vera", "oft", "prefix-tuning"),
            *("prompt-tuning", "p-tuning", "adapter", "peft"),
        ),
    ),
    NotDone(
        "tuning of diffusion models",
        "of images, task image-classification",
        ("diffusion", "text-to-image", "stable-diffusion", "dreambooth", "image-generation"),
    ),
    NotDone(
        "tuning of embeddings and rerankers",
        "task text-classification learns classes, and task text-regression scores",
        (
            *("embedding", "embeddings", "sentence-similarity", "feature-extraction", "rerank"),
            *("reranker", "contrastive", "sentence-transformers"),
        ),
    ),
    NotDone(
        "finding and outlining in images",
        "task image-classification gives an image one class",
        ("object-detection", "image-segmentation", "semantic-segmentation"),
    ),
    NotDone(
        "tuning of models of speech, and of images with text",
        "tasks are of texts, of words in them, and of images alone",
        (
            *("automatic-speech-recognition", "audio-classification", "text-to-speech"),
            *("image-text-to-text", "image-to-text", "visual-question-answering", "vlm"),
        ),
    ),
    NotDone(
        "filling in masked words (or marking answers in a text)",
        "task causal-lm learns from plain text, and task token-classification marks spans",
        ("fill-mask", "masked-lm", "mlm", "question-answering"),
    ),
)


def _heard(word: str) -> str:
    """A word as it is heard: loadIn4bit, load_in_4bit and load-in-4bit are one."""
    return "".join(letter for letter in word.lower() if letter.isalnum())


_BY_NAME: Mapping[str, NotDone] = {_heard(name): one for one in _ALL for name in one.names}


def not_done(word: str) -> NotDone | None:
    """What a word of a manifest asks for, if it is known and missing."""
    return _BY_NAME.get(_heard(word))
