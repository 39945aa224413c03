"""What an API server refuses, one type per meaning. Raised by ``client``.

All are ``EngineError``: whoever can't answer one gives its look up and tries again.
"""

from dataclasses import dataclass

from finetune_operator.engine import EngineError


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What came back instead of an object."""

    status: int | None
    """Of HTTP; None where there was no answer."""
    reason: str = ""
    """One CamelCase word of the API server, finer than the status; others give none."""
    message: str = ""
    retry_after: float | None = None
    """Seconds after which it asks to be asked again."""


class ApiError(EngineError):
    """A request was refused, or its answer can't be known.

    Parameters
    ----------
    asked
        What was asked: verb, resource, namespace and name, as an operator's log should show it.
    refusal
        What came back.
    """

    def __init__(self, asked: str, refusal: Refusal) -> None:
        kind = " ".join(str(part) for part in (refusal.status, refusal.reason) if part)
        super().__init__(f"{asked}: {refusal.message or 'refused'}{f' ({kind})' if kind else ''}")
        self.status = refusal.status
        self.reason = refusal.reason
        self.message = refusal.message
        self.retry_after = refusal.retry_after

    @property
    def is_refusal(self) -> bool:
        """Whether asking the same again is in vain until somebody changes something.

        A quota, a rule, or the word of an admission webhook, which names no reason.
        """
        return self.status in (400, 403, 422)


class UnauthenticatedError(ApiError):
    """The API server doesn't know who asks (401), also with credentials read anew."""


class ForbiddenError(ApiError):
    """Not allowed (403): a missing rule of RBAC, a quota, a namespace that ends."""


class NotFoundError(ApiError):
    """There is no such object (404)."""


class AlreadyExistsError(ApiError):
    """An object of that name is there (409 on a create)."""


class ConflictError(ApiError):
    """The object is no longer what it was (409): its resourceVersion or uid is another."""


class ExpiredError(ApiError):
    """The page of a list that was asked for is of a moment long past (410)."""


class InvalidError(ApiError):
    """Understood and refused by a rule (422): schema, CEL, or a JSON patch whose test failed."""


class TooManyRequestsError(ApiError):
    """Asked too often, or a disruption budget says not now (429); see ``retry_after``."""


class UnreachableError(ApiError):
    """No answer of a working API server: a write may or may not have happened.

    Silence, a server in trouble (5xx), something else on the way that answers in its place, or an
    API server that doesn't serve this kind of object now.
    """


_TYPES: dict[int, type[ApiError]] = {
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
    422: InvalidError,
}


def error_of(asked: str, refusal: Refusal) -> ApiError:
    """The error that a refusal means."""
    status = refusal.status
    if status == 429:
        return TooManyRequestsError(asked, refusal)
    # A bare 404 of a proxy, or of an API server that has not read its custom resources yet, must
    # never pass for the end of an object.
    if status is None or status >= 500 or not refusal.reason:
        return UnreachableError(asked, refusal)
    if refusal.reason == "AlreadyExists":
        return AlreadyExistsError(asked, refusal)
    return _TYPES.get(status, ApiError)(asked, refusal)
