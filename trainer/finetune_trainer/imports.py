"""How a process imports the heavy libraries. Used at the edges: by ``__main__`` and by a rank."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import with the garbage collector at rest, and keep it away from what was imported.

    Libraries define a million objects and drop few of them, and the collector goes through all of
    them time and again as they grow: a fifth of the seconds that the imports take. What is there at
    the end is never looked at again (``gc.freeze``), so that collections between steps are short.
    Only for imports: tensors that hang in a cycle would stay for good. A process that ends gives
    all of it back first, or libraries (triton, by nanobind) write pages on what they call leaks.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)
        gc.enable()
