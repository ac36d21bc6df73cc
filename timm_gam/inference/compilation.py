"""torch.compile as an option: its failures are one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timm_gam.core import ModelError, one_line


@contextmanager
def compiler_errors(backend: str | None) -> Iterator[None]:
    """Within: what torch.compile raises with `backend` becomes a ModelError; None compiles nothing."""
    if backend is None:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ModelError(
            f"torch.compile with backend '{backend}' failed: {one_line(error)}; leave out --torchcompile"
        ) from error
