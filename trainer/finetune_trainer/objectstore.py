"""Object stores: one way to open each, and what their refusals mean.

Used by ``data.sources`` for rows and by ``models.publish`` for finished models. Endpoint, region
and keys of S3 are found where every AWS client finds them: ``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, … or the pod's own identity. Google's are a service account's key as JSON in
``GOOGLE_CREDENTIALS``, or what Google's own clients find.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune_api.output import CREDENTIAL_VARIABLES
from finetune_api.run import Run
from finetune_trainer.errors import DataError, StorageError, UsageError

_UNAUTHORIZED = 401
_OF_THIS_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""A local disk's own words, which say more than that a file could not be fetched."""


def open_s3() -> Any:  # fsspec publishes no types
    """The file system of `s3://`, never one that an earlier call set up differently."""
    import fsspec

    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def open_gs() -> Any:  # fsspec publishes no types
    """The file system of `gs://`, likewise.

    Raises
    ------
    UsageError
        If ``GOOGLE_CREDENTIALS`` is there and no JSON.
    """
    # The plain one: what the package gives by default first asks by gRPC what kind a bucket is.
    from gcsfs.core import GCSFileSystem  # type: ignore[import-untyped]  # publishes no types

    key = os.environ.get("GOOGLE_CREDENTIALS")
    try:
        token = json.loads(key) if key else None
    except ValueError as error:
        raise UsageError(
            "GOOGLE_CREDENTIALS is no JSON: give the whole key file of a service account"
        ) from error
    return GCSFileSystem(token=token, skip_instance_cache=True, use_listings_cache=False)


@contextmanager
def told_plainly(where: str, doing: str) -> Iterator[None]:
    """Turn what a store answers into an error that says what to do.

    Parameters
    ----------
    where
        Field and address, without what may be secret in it.
    doing
        What could not be done, as in "can't be DOING".

    Raises
    ------
    DataError
        If the store refuses, or what was asked for isn't there: trying again doesn't help.
    StorageError
        If the store or the network fails; another attempt may help.
    """
    from botocore.exceptions import (  # type: ignore[import-untyped]  # publishes no types
        BotoCoreError,
        ClientError,
        NoCredentialsError,
    )

    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such file; check the address") from error
    except (PermissionError, NoCredentialsError) as error:
        raise DataError(
            f"{where}: access is refused; check the address and the credentials"
        ) from error
    except (BotoCoreError, ClientError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
            raise
        raise StorageError(f"{where}: can't be {doing} ({type(error).__name__})") from error


@contextmanager
def told_by_google(where: str) -> Iterator[None]:
    """Turn what Google's clients raise into what ``told_plainly`` knows.

    Raises
    ------
    PermissionError
        If access is refused, or nobody is there to ask as.
    StorageError
        If the store or the network fails.
    """
    from gcsfs.retry import HttpError  # type: ignore[import-untyped]  # publishes no types
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except HttpError as error:
        if error.code == _UNAUTHORIZED:
            raise PermissionError from error
        raise StorageError(f"{where}: the store answered {error.code}") from error
    except TransportError as error:
        raise StorageError(f"{where}: Google can't be asked who this is") from error
    except GoogleAuthError as error:
        raise PermissionError from error
    except OSError as error:
        if str(error).startswith("Forbidden"):
            raise PermissionError from error
        raise


def require_credentials(run: Run) -> None:
    """Check that the Secret that a run names has come to this pod.

    Raises
    ------
    UsageError
        If none of its keys is here: the Secret doesn't exist, or has other keys.
    """
    secret = run.credentials.secret_name
    if secret is not None and not any(os.environ.get(name) for name in CREDENTIAL_VARIABLES):
        raise UsageError(
            f"credentials.secretName: {secret}: none of its keys came to this pod; create the "
            f"Secret in the job's namespace with keys of {', '.join(CREDENTIAL_VARIABLES)}"
        )
