"""Rankings and judgements in the files of the field, told apart by what is in them.

    TREC run        query Q0 item rank score tag                           text, one row a line
    MTEB            {"mteb_model_meta": ..., subset: {split: {query: {item: score}}}}      JSON
    similarities    {query: {item: score}}   (ILIAS; BEIR results)                         JSON
    neighbours      (Q, K) integers: row q holds gallery rows, best first                  .npy
    ranks           (G, Q) integers: column q holds gallery rows, best first (revisited Oxford and Paris)     .npy

    TREC qrels      query 0 item grade                                     text, one row a line
    BEIR qrels      query-id, corpus-id, score                             tab separated with a header
    judgements      {query: {item: grade}}                                                 JSON
    revisited       [{"easy": [...], "hard": [...], "junk": [...]}, ...] gallery rows of each query        JSON

A pickle is never read: it runs code.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from eval.audit.ranking import Ranking
from eval.results.result import RetrievalResult
from eval.scoring.qrels import Qrels
from timm_gam.core import DataError, first_fault, one_line

Setup = Literal["easy", "medium", "hard"]
SETUPS: dict[Setup, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Of the revisited sets: (relevant, ignored) parts of each setup (Radenovic et al. 2018, section 3.2)."""

_RUN = "a TREC run, MTEB predictions or {query: {item: score}} as JSON, or neighbours as .npy"
_QRELS = "TREC or BEIR qrels, {query: {item: grade}} or the revisited sets' lists as JSON"

_Grade = Annotated[int, Field(ge=-(2**31), le=2**31)]


class _Revisited(BaseModel):
    """Gallery rows of one query of the revisited sets."""

    easy: list[Any]
    hard: list[Any]
    junk: list[Any]


def read_ranking(
    path: Path, *, subset: str | None = None, split: str | None = None, ranks_by_column: bool = False
) -> Ranking:
    """Read a ranking.

    Args:
        path: The file; its content says which format it is.
        subset: Of MTEB predictions that hold several.
        split: Likewise.
        ranks_by_column: A .npy holds a query in each column, as the revisited sets have it.

    Raises:
        DataError: no such file, or none of the formats.

    >>> _ = Path("run.json").write_text('{"q1": {"a": 0.9, "b": 0.5}}')
    >>> read_ranking(Path("run.json")).items
    ('a', 'b')
    """
    if path.suffix == ".npy":
        return _neighbours(path, ranks_by_column)
    text = _text(path, _RUN)
    if text.lstrip()[:1] != "{":
        return _trec_run(path, text)
    content = _checked(path, text, dict[str, dict[str, Any]], _RUN)
    if content.pop("mteb_model_meta", None) is not None:
        content = _mteb(path, content, subset, split)
    return Ranking.from_mapping(path.name, _checked(path, content, dict[str, dict[str, float]], _RUN))


def read_result(path: Path) -> tuple[Ranking, Qrels]:
    """Read a result that `RetrievalResult.save` wrote: what it ranked, and its classes as judgements.

    Raises:
        DataError: no such file, or no result.
    """
    result = RetrievalResult.load(path)
    ids = np.array(result.ids, dtype=object)
    queries = np.repeat(ids[result.query], result.neighbours.shape[1])
    ranking = Ranking.from_rows(path.name, queries, ids[result.neighbours.ravel()], result.similarities.ravel())
    of_class = {
        label: dict.fromkeys(ids[result.gallery[result.labels[result.gallery] == label]], 1)
        for label in np.unique(result.query_labels).tolist()
    }
    labels = zip(result.query.tolist(), result.query_labels.tolist(), strict=True)
    grades = {ids[row]: {item: 1 for item in of_class[label] if item != ids[row]} for row, label in labels}
    return ranking, Qrels(grades)


def read_qrels(path: Path, *, setup: Setup = "medium", self_matches: bool = False) -> Qrels:
    """Read judgements.

    Args:
        path: The file; its content says which format it is.
        setup: Of the revisited sets.
        self_matches: See `Qrels`.

    Raises:
        DataError: no such file, none of the formats, or no relevant item.

    >>> _ = Path("qrels.json").write_text('{"q1": {"a": 1, "b": 0}}')
    >>> read_qrels(Path("qrels.json")).relevant("q1")
    {'a': 1}
    """
    text = _text(path, _QRELS)
    start = text.lstrip()[:1]
    if start == "[":
        return _revisited(_checked(path, text, list[_Revisited], _QRELS), setup)
    content = text if start == "{" else _trec_qrels(path, text)
    return Qrels(_checked(path, content, dict[str, dict[str, _Grade]], _QRELS), self_matches=self_matches)


def _trec_run(path: Path, text: str) -> Ranking:
    queries, items, ranks, scores = [], [], [], []
    for number, cells in _rows(path, text, (6,), "query Q0 item rank score tag"):
        try:
            ranks.append(int(cells[3]))
            scores.append(float(cells[4]))
        except ValueError as error:
            raise DataError(f"'{path}' line {number}: {error}; rank is a whole number and score a number") from error
        queries.append(cells[0])
        items.append(cells[2])
    return Ranking.from_rows(path.name, queries, items, np.array(scores), np.array(ranks, dtype=np.int64))


def _trec_qrels(path: Path, text: str) -> dict[str, dict[str, str]]:
    grades: dict[str, dict[str, str]] = {}
    for number, cells in _rows(path, text, (3, 4), "query 0 item grade, or query item grade"):
        if number == 1 and cells[0] == "query-id":
            continue
        judged, item, grade = grades.setdefault(cells[0], {}), cells[-2], cells[-1]
        if judged.setdefault(item, grade) != grade:
            raise DataError(f"'{path}' line {number} gives '{item}' another grade than before; keep one of them")
    return grades


def _rows(path: Path, text: str, widths: Sequence[int], legal: str) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not empty: its number from 1, and its fields."""
    for number, line in enumerate(text.splitlines(), 1):
        if cells := line.split():
            if len(cells) not in widths:
                raise DataError(f"'{path}' line {number} has {len(cells)} fields; legal: {legal}")
            yield number, cells


def _revisited(content: list[_Revisited], setup: Setup) -> Qrels:
    parts = [
        [frozenset(str(item) for part in kind for item in getattr(query, part)) for query in content]
        for kind in SETUPS[setup]
    ]
    grades, junk = ({str(number): items for number, items in enumerate(part)} for part in parts)
    # Rows of the gallery are no ids of queries: row 3 is not query 3.
    return Qrels({query: dict.fromkeys(items, 1) for query, items in grades.items()}, junk, self_matches=True)


def _neighbours(path: Path, by_column: bool) -> Ranking:
    data = io.BytesIO(_bytes(path, _RUN))
    try:
        rows = np.load(data, allow_pickle=False)
    except Exception as error:  # numpy refuses bad files in several ways
        raise DataError(f"'{path}' is no array: {one_line(error)}; legal: {_RUN}") from error
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise DataError(f"'{path}' holds {rows.shape} {rows.dtype}; neighbours are (Q, K) integers")
    rows = rows.T if by_column else rows
    query, place = np.nonzero(rows >= 0)  # -1 fills rows that have fewer
    items = rows[query, place]
    return Ranking.from_rows(path.name, query.astype(str).tolist(), items.astype(str).tolist(), None)


def _mteb(path: Path, content: dict[str, dict[str, Any]], subset: str | None, split: str | None) -> Any:
    found = {(name, part): results for name, parts in content.items() for part, results in parts.items()}
    wanted = {key: v for key, v in found.items() if subset in (None, key[0]) and split in (None, key[1])}
    if len(wanted) != 1:
        legal = ", ".join(f"--subset {name} --split {part}" for name, part in found)
        raise DataError(f"'{path}' holds {len(found)} rankings and {len(wanted)} of them are named; legal: {legal}")
    return next(iter(wanted.values()))


def _checked(path: Path, content: Any, kind: Any, legal: str) -> Any:
    """The content, or JSON text, as what it should be."""
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(content) if isinstance(content, str) else adapter.validate_python(content)
    except ValidationError as error:
        raise DataError(f"'{path}': {first_fault(error)}; legal: {legal}") from error


def _bytes(path: Path, legal: str) -> bytes:
    if path.suffix in (".pkl", ".pickle", ".pth", ".pt"):
        raise DataError(f"'{path}' is a pickle, which runs code when it is read; save it as JSON or .npy: {legal}")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"cannot read '{path}': {reason}; legal: {legal}") from error


def _text(path: Path, legal: str) -> str:
    try:
        return _bytes(path, legal).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no UTF-8 text; legal: {legal}") from error
