"""The contract between people, operator and trainer: frozen types, no I/O.

Both source roots import it and it imports neither. What a person writes is in ``job`` and
``ratecard``; what the operator writes is in ``status`` and ``usage``; what passes between operator
and trainer is in ``run`` (down) and ``report`` (up); what may follow what is in ``phases``.
"""

from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "finetune.dev/v1alpha1"
"""Written out, so that types can name it as a literal."""
