"""One row of text with its label, and the form in which inputs are compared.

Every module of the prepare step speaks in these; nothing here reads or writes.
"""

import hashlib
import unicodedata
from dataclasses import dataclass

KEY_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as the data has it; ``label`` is empty where there is none.

    ``id`` names the row in reports, ``place`` in messages to whoever wrote the file.
    """

    id: str
    text: str
    label: str
    group: str | None
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRow:
    """A row that survived cleaning, with the ``key`` of its normalized input."""

    id: str
    text: str
    label: str
    group: str | None
    key: bytes

    @property
    def unit(self) -> bytes:
        """What gets a role as one: the row's group, or else every row with the same input."""
        if self.group is None:
            return b"input:" + self.key
        return b"group:" + self.group.encode()


def normalize(text: str) -> str:
    """The form in which two inputs count as the same: NFKC, case folded, white space collapsed."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def input_key(text: str) -> bytes:
    """A 16-byte digest of the normalized input."""
    return hashlib.blake2b(normalize(text).encode(), digest_size=KEY_BYTES).digest()
