"""What is done with embeddings before and while they are ranked, as one object that travels whole."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_gam.core import DataError, OutputError
from timm_gam.embed import power_of
from timm_gam.rerank.methods.database_augmentation import DatabaseAugmentation
from timm_gam.rerank.methods.diffusion import Diffusion
from timm_gam.rerank.methods.k_reciprocal import KReciprocal
from timm_gam.rerank.methods.query_expansion import QueryExpansion
from timm_gam.rerank.reranker import Reranker
from timm_gam.rerank.unit_vectors import Vectors, tensor_of
from timm_gam.rerank.whitening import Whitening, fit_whitening

METHODS: Final[dict[str, type[Reranker]]] = {
    method.called: method for method in (QueryExpansion, DatabaseAugmentation, Diffusion, KReciprocal)
}
"""Ways to re-rank, by the names of the command line."""


_RANGES: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "qe": {"neighbours": (1, 10_000), "alpha": (0, 100)},
    "dba": {"neighbours": (1, 10_000), "alpha": (0, 100)},
    "diffusion": {
        "neighbours": (1, 10_000),
        "gamma": (0, 100),
        "alpha": (0, 0.9999),
        "steps": (1, 10_000),
        "mix": (0, 1),
    },
    "k-reciprocal": {"neighbours": (1, 1_000), "local": (1, 1_000), "mix": (0, 1)},
}
_BLOCK_BYTES = 2**23


@dataclass(frozen=True)
class Recipe:
    """Power, whitening and re-ranking of embeddings, in this order; by default none of them.

    Attributes:
        power: Every component x becomes sign(x) |x|^power (Perronnin, Sanchez, Mensink, "Improving the Fisher Kernel",
            ECCV 2010, section 3.2); 0.5 takes the root.
        whitening: Fitted on training images, or how many dimensions to fit it to; None: no whitening.
        method: A name of METHODS, or None for the plain cosine.
        options: Of the method, such as {"neighbours": 20}; what is not named has its default.
        transductive: See `Reranker`.

    Raises:
        DataError: no such method or option, or a value outside its range.

    >>> Recipe(power=0.5, method="dba", options={"neighbours": 10}).name
    'power 0.5 + dba:neighbours=10'
    """

    power: float = 1.0
    whitening: Whitening | int | None = None
    method: str | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    transductive: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.power <= 1:
            raise DataError(f"power is {self.power}; it must lie above 0 and not above 1")
        if self.method is None:
            if self.options or self.transductive:
                raise DataError(f"options of a re-ranking came without one; name one of {', '.join(METHODS)}")
            return
        if self.method not in METHODS:
            raise DataError(f"no way to re-rank is called '{self.method}'; legal: {', '.join(METHODS)}")
        legal, usual = _RANGES[self.method], _defaults(self.method)
        for name, value in self.options.items():
            if name not in legal:
                raise DataError(f"{self.method} has no option '{name}'; legal: {', '.join(legal)}")
            (low, high), whole = legal[name], isinstance(usual[name], int)
            if not low <= value <= high or (whole and value != int(value)):
                what = "a whole number" if whole else "a number"
                raise DataError(f"{name} of {self.method} is {value:g}; {what} from {low:g} to {high:g} is legal")

    @property
    def name(self) -> str:
        """In short, for tables; empty for the plain ranking."""
        parts = [] if self.power == 1 else [f"power {self.power:g}"]
        if self.whitening is not None:
            parts.append(f"whitening {self.dimensions}")
        if self.method is not None:
            options = ",".join(f"{name}={value:g}" for name, value in self.options.items())
            form = " (transductive)" if self.transductive else ""
            parts.append(f"{self.method}{':' if options else ''}{options}{form}")
        return " + ".join(parts)

    @property
    def unchanged(self) -> bool:
        """Whether vectors are ranked as they came."""
        return self.power == 1 and self.whitening is None

    @property
    def dimensions(self) -> int | None:
        """What is whitened to."""
        return len(self.whitening.projection) if isinstance(self.whitening, Whitening) else self.whitening

    @property
    def all_options(self) -> dict[str, float]:
        """Those of the method, by default and as they are named."""
        if self.method is None:
            return {}
        return {name: type(usual)(self.options.get(name, usual)) for name, usual in _defaults(self.method).items()}

    def check(self, images: int, *, within: bool) -> None:
        """Refuse, before anything is computed, what a gallery of so many images is too small for.

        Args:
            images: Of the gallery.
            within: Whether queries are in it.

        Raises:
            DataError: the message says how many neighbours can be had.
        """
        if self.method is not None:
            METHODS[self.method].check(self.all_options, images, within=within, transductive=self.transductive)

    def fitted(self, training: Vectors) -> Recipe:
        """The recipe with its whitening fitted on (N, D) floats, the vectors of training images.

        Raises:
            DataError: they span fewer dimensions.
        """
        if not isinstance(self.whitening, int):
            return self
        return replace(self, whitening=fit_whitening(training, self.whitening, power=self.power))

    def prepare(
        self,
        vectors: Vectors,
        *,
        rows: NDArray[np.int64] | None = None,
        device: torch.device | str = "cpu",
        memory: int = 128 * 2**20,
    ) -> Tensor:
        """Chosen rows of (N, D) vectors as they are ranked, see `transform`: by blocks, and not in memory if large.

        Args:
            vectors: Floats: tensor, array or memory map.
            rows: Which; None for all.
            device: Where they are wanted.
            memory: Bytes that may be held on the CPU; what is larger lies in a temporary file that is mapped.

        Raises:
            DataError: the whitening is not fitted yet, or for other vectors.
            OutputError: the folder for temporary files has no room.
        """
        source, place = tensor_of(vectors), torch.device(device)
        if self.unchanged and rows is None:
            return source.to(place)
        count, width = len(source) if rows is None else len(rows), self.dimensions or source.shape[1]
        made = _room(count, width, source.dtype, place, memory)
        step = max(1, _BLOCK_BYTES // (8 * source.shape[1]))
        for start in range(0, count, step):
            some = slice(start, min(start + step, count))
            block = source[some] if rows is None else source[torch.from_numpy(rows[some])]
            made[some] = self.transform(block.to(place))
        return made

    def transform(self, vectors: Tensor) -> Tensor:
        """(N, D) vectors as they are ranked, (N, D or W).

        Raises:
            DataError: the whitening is not fitted yet, or for other vectors.
        """
        if isinstance(self.whitening, int):
            raise DataError("the whitening is not fitted: Recipe.fitted takes vectors of training images")
        powered = power_of(vectors, self.power)
        return powered if self.whitening is None else self.whitening(powered)

    def reranker(
        self, queries: Vectors, gallery: Vectors, *, own: Tensor | None = None, memory: int = 512 * 2**20
    ) -> Reranker:
        """The method over transformed vectors.

        Raises:
            DataError: the recipe has none, or the gallery has too few rows.
        """
        if self.method is None:
            raise DataError(f"the recipe has no re-ranking; name one of {', '.join(METHODS)}")
        method, transductive = METHODS[self.method], self.transductive
        return method(queries, gallery, own=own, transductive=transductive, memory=memory, **self.all_options)


def _defaults(method: str) -> dict[str, float]:
    """Of a method's options, by its signature; counts are int."""
    usual = inspect.signature(METHODS[method].__init__).parameters
    return {name: usual[name].default for name in _RANGES[method]}


def _room(count: int, width: int, dtype: torch.dtype, device: torch.device, memory: int) -> Tensor:
    size = count * width * dtype.itemsize
    if device.type != "cpu" or size <= memory:
        return torch.empty(count, width, dtype=dtype, device=device)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a signal later
            kind = np.dtype(str(dtype).removeprefix("torch."))
            return torch.from_numpy(np.memmap(file, dtype=kind, mode="r+", shape=(count, width)))
    except OSError as error:
        raise OutputError(
            f"no room for {size / 2**20:.0f} MB of vectors in '{tempfile.gettempdir()}': {error.strerror}; name "
            "another folder in TMPDIR, or raise --memory-budget"
        ) from error


def read_method(text: str) -> tuple[str, dict[str, float]]:
    """A method and its options as the command line writes them.

    Raises:
        DataError: written otherwise.

    >>> read_method("diffusion:neighbours=30,alpha=0.9")
    ('diffusion', {'neighbours': 30.0, 'alpha': 0.9})
    """
    name, _, rest = text.partition(":")
    options: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        option, _, value = part.partition("=")
        try:
            options[option.strip()] = float(value)
        except ValueError:
            raise DataError(f"'{part}' of '{text}' is no OPTION=NUMBER, as in diffusion:neighbours=30") from None
    return name, options
