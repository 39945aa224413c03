"""In which language a text is. Used by ``cleaning``.

The identifier is py3langid, naive Bayes over runs of bytes (Lui and Baldwin, "langid.py", ACL
2012), whose model comes with it. Where it is unsure, as it is of a few words, nothing is said.
"""

from functools import cache
from typing import Any

UNDECIDED = "und"
NO_LANGUAGE = "zxx"
"""Numbers, markup, identifiers. Both are codes of ISO 639."""

LEAST_CONFIDENCE = 0.9
READ_CHARACTERS = 1_000
"""The beginning of a long text tells its language."""


def language_of(text: str) -> str:
    """The ISO 639 code of a text's language, or ``UNDECIDED``."""
    code, _ = _identifier().classify(text[:READ_CHARACTERS])
    return str(code)


@cache
def _identifier() -> Any:
    """The identifier, which is not typed; it takes a third of a second to load."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True, min_confidence=LEAST_CONFIDENCE
    )
