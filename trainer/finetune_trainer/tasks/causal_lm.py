"""Causal language models: texts, completions of prompts, and answers in chats."""

from finetune_trainer.data.language import ExampleRows, LanguageRendering, TokenEncoder
from finetune_trainer.models.heads import CAUSAL
from finetune_trainer.tasks.form import Evidence, TaskForm
from finetune_trainer.training.language_rows import WITHOUT_CACHE, LanguageBatches, token_loss


def _evidence() -> Evidence:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.language_evidence import LanguageEvidence

    return LanguageEvidence()


CAUSAL_LM = TaskForm(
    rows=lambda _dataset: ExampleRows(),
    rendering=LanguageRendering.of,
    encoder=lambda _tokenizer, _classes, _length: TokenEncoder(),
    head=CAUSAL,
    collation=LanguageBatches,
    loss=lambda _model, _prepared: token_loss,
    call=WITHOUT_CACHE,
    evidence=_evidence,
)
