"""Every task's form. ``prepare``, ``train`` and ``evaluate`` look theirs up here, once."""

from collections.abc import Mapping

from finetune_api.tasks import Task
from finetune_trainer.tasks.causal_lm import CAUSAL_LM
from finetune_trainer.tasks.form import TaskForm
from finetune_trainer.tasks.image_classification import IMAGE_CLASSIFICATION
from finetune_trainer.tasks.multi_label_classification import MULTI_LABEL_CLASSIFICATION
from finetune_trainer.tasks.text_classification import TEXT_CLASSIFICATION
from finetune_trainer.tasks.text_regression import TEXT_REGRESSION
from finetune_trainer.tasks.token_classification import TOKEN_CLASSIFICATION

FORMS: Mapping[Task, TaskForm] = {
    Task.TEXT_CLASSIFICATION: TEXT_CLASSIFICATION,
    Task.MULTI_LABEL_CLASSIFICATION: MULTI_LABEL_CLASSIFICATION,
    Task.TEXT_REGRESSION: TEXT_REGRESSION,
    Task.TOKEN_CLASSIFICATION: TOKEN_CLASSIFICATION,
    Task.CAUSAL_LM: CAUSAL_LM,
    Task.IMAGE_CLASSIFICATION: IMAGE_CLASSIFICATION,
}
