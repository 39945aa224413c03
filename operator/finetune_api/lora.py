"""FineTuneJob.spec.model.lora: small matrices that are trained beside a model's frozen weights."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.markers import Contract


class Method(StrEnum):
    """Which weights are trained."""

    FULL = "full"
    LORA = "lora"


class LoraOutput(StrEnum):
    """What leaves the job."""

    MERGED = "merged"
    ADAPTER = "adapter"


class Lora(Contract):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[
        int, Field(ge=1, le=1024, description="Width of the two matrices beside each layer.")
    ] = 16
    alpha: Annotated[
        float,
        Field(gt=0, le=8192, description="Their product is scaled by alpha / rank."),
    ] = 32
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="Share of a layer's inputs hidden from them.")
    ] = 0.05
    targets: Annotated[
        tuple[
            Annotated[
                str,
                StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.-]+$"),
            ],
            ...,
        ],
        Field(
            max_length=64,
            description="Linear layers that get them, by the name's end (query, mlp.up_proj); by "
            "default all of the backbone. A head for classes or numbers is trained in full.",
        ),
    ] = ()
    output: Annotated[
        LoraOutput,
        Field(
            description="merged: a whole model. adapter: the small matrices and the head alone, to "
            "be loaded onto the base model by peft."
        ),
    ] = LoraOutput.MERGED
