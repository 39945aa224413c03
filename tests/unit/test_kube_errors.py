"""What each refusal of an API server means, and what only looks like one."""

from __future__ import annotations

import pytest

from finetune_operator.engine import EngineError
from finetune_operator.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Refusal,
    TooManyRequestsError,
    UnauthenticatedError,
    UnreachableError,
    error_of,
)


@pytest.mark.parametrize(
    ("status", "reason", "meaning"),
    [
        (400, "BadRequest", ApiError),
        (401, "Unauthorized", UnauthenticatedError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", ExpiredError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", TooManyRequestsError),
        # The API server's outermost filter answers in bare text.
        (429, "", TooManyRequestsError),
        (500, "InternalError", UnreachableError),
        (503, "ServiceUnavailable", UnreachableError),
        (504, "Timeout", UnreachableError),
        (None, "", UnreachableError),
        # Said by something on the way, or by a server that isn't ready: nothing is known by it.
        (403, "", UnreachableError),
        (404, "", UnreachableError),
        (409, "", UnreachableError),
    ],
)
def test_a_refusal_has_the_type_of_its_meaning(
    status: int | None, reason: str, meaning: type[ApiError]
) -> None:
    assert type(error_of("get pods a/b", Refusal(status=status, reason=reason))) is meaning


def test_an_error_says_what_was_asked_and_what_was_answered_and_is_tried_again() -> None:
    refusal = Refusal(status=409, reason="Conflict", message="it changed", retry_after=2.0)
    error = error_of("update pods a/b", refusal)
    assert str(error) == "update pods a/b: it changed (409 Conflict)"
    assert isinstance(error, EngineError)
    assert error.retry_after == 2.0
