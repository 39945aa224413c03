"""One row with its input and target, and the form in which inputs are compared.

Every module of the prepare step speaks in these; nothing here reads or writes. What input and
target are, a task's ``RowForm`` says: a text and its class, say.
"""

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Generic, TypeVar

KEY_BYTES = 16

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Generic[I, T]):
    """A row as the data has it; ``target`` is None where there is none.

    ``id`` names the row in reports, ``place`` in messages to whoever wrote the file. ``groups`` are
    its values in the columns of ``evaluation.groups``.
    """

    id: str
    input: I
    target: T | None
    group: str | None
    place: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRow(Generic[I, T]):
    """A row that survived cleaning.

    ``key`` is of its normalized input, ``classes`` are those that it is counted in. ``words``
    are the codes of its words, by which near copies of texts are known, ``language`` is the code of
    its language; both are empty where it is no text.
    """

    id: str
    input: I
    target: T
    classes: tuple[str, ...]
    group: str | None
    key: bytes
    groups: tuple[str, ...] = ()
    words: bytes = b""
    language: str = ""

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
