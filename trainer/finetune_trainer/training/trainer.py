"""Hugging Face's Trainer with its DeepSpeed integration, exact on any number of ranks.

Ours are: which rows a step learns from, how they are weighted, how the select rows are scored, and
what a checkpoint holds. All else (precision, sharding, optimizer, schedule) is the library's.
``boundary`` decides between steps; ``session`` puts it together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from finetune_api.run import RunTraining
from finetune_api.training import Precision, Scheduler
from finetune_trainer.errors import UsageError
from finetune_trainer.models.lora import save_adapter
from finetune_trainer.tasks.form import RowLoss
from finetune_trainer.training.batch_norm import Norms
from finetune_trainer.training.deepspeed_config import deepspeed_config
from finetune_trainer.training.gang import Gang
from finetune_trainer.training.language_rows import PackedStream
from finetune_trainer.training.reshard import take_up
from finetune_trainer.training.rows import (
    Batch,
    PreparedRows,
    StepStream,
    model_inputs,
    scoring_batches,
)
from finetune_trainer.training.signs import SignsOfWork
from finetune_trainer.training.stop import StopRequest

_BATCHES_BETWEEN_LOOKS = 8


@dataclass
class StepSums:
    """What this rank computed since the last boundary.

    ``loss`` is its part of the global batch's mean: the parts of all ranks add up to it.
    """

    loss: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def none(cls, device: torch.device) -> "StepSums":
        """Nothing yet. Kept on the device: reading a sum for each micro-batch would wait for it."""
        return cls(
            loss=torch.zeros((), dtype=torch.float64, device=device),
            tokens=torch.zeros((), dtype=torch.int64, device=device),
        )


class FineTuneTrainer(Trainer):
    """One rank's training.

    The loss of a step is Σ weight·loss over its global batch divided by Σ weight, on any number of
    workers, ranks and micro-batches, the last and smaller batch of an epoch included. What is
    weighed, rows or tokens, is the task's: ``row_loss`` gives each row's Σ weight·loss. The model
    is called with a batch and ``call``.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel | PeftModel,
        arguments: TrainingArguments,
        stream: StepStream | PackedStream,
        row_loss: RowLoss,
        call: Mapping[str, Any],  # keywords of a model's call, of their many types
        gang: Gang,
        norms: Norms,
        resized: bool = False,
    ) -> None:
        """``resized``: what it resumes was written by another number of ranks."""
        # The model's own loss is a mean per micro-batch, whatever else its forward accepts.
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        base.accepts_loss_kwargs = False  # type: ignore[assignment]
        super().__init__(model=model, args=arguments)
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True
        self._stream = stream
        self._row_loss = row_loss
        self._call = call
        self._gang = gang
        self._norms = norms
        self._resized = resized
        self._kind = torch.float32
        if arguments.bf16 or arguments.fp16:
            self._kind = torch.bfloat16 if arguments.bf16 else torch.float16
            norms.keep_wide()
        self._sums = StepSums.none(gang.device)

    def get_train_dataloader(self) -> Any:  # it wants a DataLoader, and uses it as an iterable
        """The rank's own stream: it is sharded already, and starts where the attempt does."""
        return self._stream

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:  # the base class's model and data loader
        """Make the engine and load the checkpoint, cut anew for this number of ranks if need be."""
        # The base class has no types.
        prepare: Any = super()._prepare_for_training
        if not self._resized or resume_from_checkpoint is None:
            prepared = prepare(max_steps, train_dataloader, resume_from_checkpoint)
            self._leave_out_averages_of_one()
            return prepared
        prepared = prepare(max_steps, train_dataloader, None)
        self._leave_out_averages_of_one()
        folder = Path(resume_from_checkpoint)
        whole = not isinstance(self.model, PeftModel)
        take_up(self.model_wrapped, folder, rank=self._gang.place.rank, strict=whole)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _leave_out_averages_of_one(self) -> None:
        """A lone rank's gradients are their own average: DeepSpeed would copy all of them twice.

        Its optimizers for ZeRO and for half precision do more there, and keep it.
        """
        engine: Any = self.model_wrapped
        if self._gang.place.world_size == 1 and isinstance(engine.optimizer, torch.optim.AdamW):
            engine.enable_backward_allreduce = False

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Take up this rank's random numbers; those of a resized gang were seeded anew."""
        if not self._resized:
            super()._load_rng_state(checkpoint)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,  # noqa: FBT001, FBT002
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002
    ) -> Any:  # as the base class has it: a loss, or a loss with outputs
        """Compute this micro-batch's part of the step's mean, as DeepSpeed wants it.

        DeepSpeed averages gradients over ranks and (as the Trainer calls it) sums them over
        micro-batches; times the number of ranks, the average is the sum.
        """
        self._norms.before_forward()
        losses, outputs = self._row_losses(model, inputs)
        part = (losses * inputs["real"]).sum() / inputs["batch_weight"]
        self._sums.loss += part.detach().double()
        self._sums.tokens += inputs["tokens"]
        loss = part * self._gang.place.world_size
        return (loss, outputs) if return_outputs else loss

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """Move a batch to the device as it is.

        The base class also rounds it to the model's precision, so weights and targets with it.
        """
        return {name: values.to(self.args.device) for name, values in inputs.items()}

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Not counted here: the base class walks over every weight for each micro-batch."""
        return 0

    @property
    def learning_rate(self) -> float:
        """The rate that the schedule says for the step at hand."""
        assert self.lr_scheduler is not None
        return float(self.lr_scheduler.get_last_lr()[0])

    @property
    def gradient_norm(self) -> float | None:
        """The norm of the last step's gradients before clipping, the same on every rank.

        Infinite where the step was left out, None where DeepSpeed keeps none (ZeRO 0 in fp32).
        """
        engine: Any = self.model_wrapped
        norm = engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def fingerprint(self) -> tuple[float, ...]:
        """What this rank holds of each trained weight, in two sums: equal as long as none moves."""
        assert self.model is not None
        held = (
            getattr(weight, "ds_tensor", weight).detach().double()
            for weight in self.model.parameters()
            if weight.requires_grad
        )
        return tuple(float(part) for one in held for part in (one.sum(), one.abs().sum()))

    def settle_statistics(self) -> None:
        """Make what no gradient moves equal on all ranks. Called by every rank, after each step."""
        self._norms.after_step()

    def take_sums(self) -> StepSums:
        """What was computed since this was last asked."""
        taken = self._sums
        self._sums = StepSums.none(self._gang.device)
        return taken

    def select_loss(
        self, rows: PreparedRows, stop: StopRequest, signs: SignsOfWork
    ) -> float | None:
        """Σ weight·loss / Σ weight over all ``rows``; None if a stop was agreed meanwhile.

        Each row is counted once.

        Draws no random numbers, so that training goes on as if it had not been called.
        """
        engine = self.model_wrapped
        engine.eval()
        total = torch.zeros((), dtype=torch.float64, device=self._gang.device)
        place = self._gang.place
        batches = scoring_batches(
            rows,
            batch_size=self.args.per_device_train_batch_size,
            rank=place.rank,
            world_size=place.world_size,
        )
        try:
            with torch.no_grad():
                for number, (batch, real) in enumerate(batches):
                    if number % _BATCHES_BETWEEN_LOOKS == 0:
                        if self._gang.any(stop.requested):
                            return None
                        signs.give()
                    losses, _ = self._row_losses(engine, self._prepare_inputs(batch))
                    total += losses[:real].double().sum()
        finally:
            engine.train()
        return self._gang.sums(float(total))[0] / float(rows.weights.sum())

    def _row_losses(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, Any]:
        """Σ weight·loss of each row, ``[rows]`` in fp32, and the model's outputs."""
        # Pixels: what the model reads is of its weights' kind, and nothing else of the batch is.
        inputs = {
            name: values.to(self._kind) if values.is_floating_point() else values
            for name, values in model_inputs(batch).items()
        }
        outputs = model(**inputs, **self._call)
        return self._row_loss(outputs, batch), outputs

    def write_checkpoint(self, folder: Path) -> None:
        """Write everything that training needs to go on, and the model. Called by every rank."""
        self.save_model(str(folder), _internal_call=True)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        if self._gang.place.is_first:
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None
    ) -> None:
        """The model alone, or its adapter: the base class adds its arguments, pickled."""
        if not self._gang.place.is_first or output_dir is None:
            return
        if isinstance(self.model, PeftModel):
            save_adapter(self.model, Path(output_dir), state_dict)
        else:
            assert isinstance(self.model, PreTrainedModel)
            if state_dict is not None:
                # DeepSpeed's are copies, in which the library can't see what is one and the same.
                tied = self.model.all_tied_weights_keys
                state_dict = {name: one for name, one in state_dict.items() if name not in tied}
            self.model.save_pretrained(output_dir, state_dict=state_dict)


def training_arguments(
    training: RunTraining,
    *,
    output: Path,
    total_steps: int,
    device: torch.device,
    trainable_parameters: int,
) -> TrainingArguments:
    """The Trainer's settings. Made before the model is loaded, for ZeRO 3 scatters it on the way.

    Its own logging, evaluation and saving are off: ``boundary`` does them.

    Raises
    ------
    UsageError
        As ``precision_of`` does.
    """
    warmup_steps = -int(-total_steps * training.warmup_ratio // 1)
    scheduler = training.scheduler.value
    if training.scheduler is Scheduler.CONSTANT:
        scheduler = "constant_with_warmup"
    precision = precision_of(training, device)
    return TrainingArguments(
        output_dir=str(output),
        max_steps=total_steps,
        per_device_train_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=training.accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=scheduler,
        warmup_steps=warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        bf16=precision is Precision.BF16,
        fp16=precision is Precision.FP16,
        activation_checkpointing=training.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=training.compile,
        use_cpu=device.type == "cpu",
        deepspeed=deepspeed_config(
            training,
            precision=precision,
            device=device,
            trainable_parameters=trainable_parameters,
        ),
        ignore_data_skip=True,
        logging_nan_inf_filter=False,
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


def precision_of(training: RunTraining, device: torch.device) -> Precision:
    """The arithmetic of forward and backward pass; ``auto`` takes bf16 on a GPU that has it.

    Raises
    ------
    UsageError
        If the device can't compute in it.
    """
    on_gpu = device.type == "cuda"
    if training.precision is Precision.AUTO:
        return Precision.BF16 if on_gpu and torch.cuda.is_bf16_supported() else Precision.FP32
    if training.precision is Precision.FP16 and not on_gpu:
        raise UsageError(
            "training.precision: fp16 needs a GPU, and these ranks run on CPUs; set it to bf16 or "
            "fp32"
        )
    return training.precision
