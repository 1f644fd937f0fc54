"""Errors a user can act on: one line that names what was wrong, where, and what to do."""

from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError


class O2NError(Exception):
    """Base of every error that O2N raises on purpose; its text is one line fit for a user."""

    code = "error"

    def __init__(self, message: str) -> None:
        # A file's name may be no text, and then no terminal, log or JSON could be told of it.
        told = message.encode(errors="backslashreplace").decode()
        super().__init__(" ".join(told.split()))


def cause_of(error: BaseException) -> str:
    """What somebody else's exception says, in one line of at most 200 characters; of pydantic's `first_mistake`."""
    if isinstance(error, ValidationError):
        first = first_mistake(error)
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))[:200]
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def first_mistake(error: ValidationError) -> ErrorDetails:
    """The mistake to mend first: a name that is misspelt is missing too, but that is not what is wrong."""
    return min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")


def in_words(words: str) -> WrapValidator:
    """Annotates a pydantic field: what that refuses is refused in `words`, instead of with a regular expression."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("in_words", "{words}", {"words": words}) from None

    return WrapValidator(check)


class PictureError(O2NError):
    """A picture that cannot be decoded or is refused."""

    code = "bad_picture"


class CategoryError(O2NError):
    """A category name or a set of references that cannot be used."""

    code = "bad_category"


class DataSetError(O2NError):
    """A data set whose files do not lie as published, or that has too few pictures for what is asked of it."""

    code = "data_set"


class NotFoundError(O2NError):
    """A category, a version or a blob that the store does not hold."""

    code = "not_found"


class ConflictError(O2NError):
    """Somebody else changed the same object first."""

    code = "conflict"


class IntegrityError(O2NError):
    """Stored bytes that are not what their manifest says they are."""

    code = "integrity"


class StoreError(O2NError):
    """A store that is missing, full, read-only, refusing or unreachable."""

    code = "store"


class FoundationError(O2NError):
    """A profile or its models that cannot be loaded, or do not fit the version they are used with."""

    code = "foundation"


class OverloadedError(O2NError):
    """More work than can be answered in time; the same request is welcome after `retry_after` seconds."""

    code = "overloaded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(O2NError):
    """A request that could not be answered by its deadline."""

    code = "deadline"


class UnavailableError(O2NError):
    """A part of the service is gone for the moment; the same request is welcome after `retry_after` seconds."""

    code = "unavailable"

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestError(O2NError):
    """A request that says something else than the API understands."""

    code = "invalid_request"


class UnauthorizedError(O2NError):
    """No token, or one that is not known."""

    code = "unauthorized"


class ForbiddenError(O2NError):
    """A token that does not allow what was asked for."""

    code = "forbidden"

    def __init__(self, message: str, scope: str = "") -> None:
        super().__init__(message)
        self.scope = scope


class TooLargeError(O2NError):
    """A request over the limits of size."""

    code = "too_large"


class TooSlowError(O2NError):
    """A request whose body arrives slower than anybody waits for."""

    code = "too_slow"
