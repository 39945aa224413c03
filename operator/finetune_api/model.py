"""The model that a job tunes: the block `model` of its spec."""

from typing import Annotated

from pydantic import Field

from finetune_api.lora import Lora, Method
from finetune_api.markers import Cel, Contract, Uri, rules
from finetune_api.uris import CLAIM_URI, HUB_MODEL_URI


@rules(
    Cel(
        f"!self.uri.contains('://') || self.uri.matches('^({CLAIM_URI}|{HUB_MODEL_URI}$)')",
        "model.uri must be pvc://CLAIM/PATH or hf://OWNER/NAME@COMMIT (a commit's 40 digits), or "
        "in a local run a path relative to the manifest",
    ),
    Cel(
        "!has(self.lora) || self.method == 'lora'",
        "model.lora goes with model.method lora: set it, or take model.lora out",
    ),
)
class ModelSource(Contract):
    """The model that is tuned: a folder as `save_pretrained` writes it, weights in safetensors."""

    uri: Annotated[
        Uri,
        Field(
            description="pvc://CLAIM/PATH of the model's folder, or hf://OWNER/NAME@COMMIT of the "
            "Hugging Face Hub, which the prepare step brings into the workspace. In a local run "
            "also a path relative to the manifest; pvc://CLAIM/PATH is then claims/CLAIM/PATH in "
            "the workspace."
        ),
    ]
    method: Annotated[
        Method,
        Field(
            description="full: every weight of the model is trained. lora: small matrices beside "
            "its linear layers, and the head (of causal-lm the matrices alone)."
        ),
    ] = Method.FULL
    lora: Annotated[Lora | None, Field(description="How method lora does it.")] = None

    @property
    def adaptation(self) -> Lora | None:
        """How method lora does it, defaults filled in; None with method full."""
        return (self.lora or Lora()) if self.method is Method.LORA else None
