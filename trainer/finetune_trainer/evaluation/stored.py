"""How the prepare step keeps what baselines learned, and the evaluate step reads it.

Arrays lie in safetensors, in which nothing can run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from finetune_trainer.errors import DataError, StorageError


def save_arrays(
    arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write arrays by their names.

    Raises
    ------
    OSError
        If the disk fails.
    """
    # The format's writer takes the bytes as they lie, whatever order the array reads them in.
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(whole, path, metadata=metadata)


@contextmanager
def reading_baselines(folder: Path) -> Iterator[None]:
    """Say of a file that is missing or can't be read whose it is, and what to do.

    Raises
    ------
    DataError
        If a file is missing.
    StorageError
        If one can't be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{folder}: a baseline is missing ({error}); prepare again") from error
    except OSError as error:
        raise StorageError(f"{folder}: can't read the baselines ({error})") from error
