"""What is particular to models of images: how their rows are varied, and their batch norms."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.markers import Contract


class BatchNorm(StrEnum):
    """What becomes of the statistics that batch normalization normalizes by."""

    FROZEN = "frozen"
    TRAIN = "train"


class Augmentation(Contract):
    """How training images are varied, each anew in every epoch; nothing is done unasked.

    In the order of the fields. What is drawn depends on the seed, the epoch and the row alone: the
    same global batch holds the same pixels on any number of ranks, and after a resume.
    """

    horizontal_flip: Annotated[
        bool,
        Field(description="Mirror half of them, left to right. Not where sides mean something."),
    ] = False
    vertical_flip: Annotated[
        bool, Field(description="Turn half of them upside down, as a mirror does.")
    ] = False
    min_crop_percent: Annotated[
        int | None,
        Field(
            ge=10,
            le=99,
            description="Cut a piece out at random, of at least so much of the area, and enlarge "
            "it.",
        ),
    ] = None
    shift_percent: Annotated[
        int | None,
        Field(ge=1, le=50, description="Move by up to so much of the width and of the height."),
    ] = None
    rotation_degrees: Annotated[
        int | None, Field(ge=1, le=180, description="Turn by up to so many degrees either way.")
    ] = None
    brightness_percent: Annotated[
        int | None, Field(ge=1, le=90, description="Brighten or darken by up to so much.")
    ] = None
    contrast_percent: Annotated[
        int | None, Field(ge=1, le=90, description="Raise or lower the contrast by up to so much.")
    ] = None
