"""The JSON document of results as typed records; its schema (`results.schema.json`) is made from them."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from eval.results.facts import Count, Facts, Interval, Means, Record, Share

SCHEMA: Final = "timm-gam/retrieval/2"


class AverageRecord(Means):
    micro_ci95: Interval | None = None
    macro_ci95: Interval | None = None


class ClassRecord(Record):
    name: str = Field(alias="class")
    queries: Count
    metrics: dict[str, Share]


class Entry(Facts):
    """One model on one image set under one protocol; complete in itself."""

    metrics: dict[str, AverageRecord] = Field(
        description="Metric name -> averages over queries; definitions are in 'definitions'."
    )
    per_class: list[ClassRecord]


class Hardware(Record):
    machine: str
    processor: str
    cores: Count
    torch_threads: Count
    accelerators: list[str]


class Document(Record):
    """Results of python -m eval.retrieval. Every metric is a share in [0, 1]."""

    schema_: Literal["timm-gam/retrieval/2"] = Field(default=SCHEMA, alias="schema")
    created: str = Field(description="UTC, ISO 8601.")
    notes: list[str] = Field(description="What a reader must know, such as why the embedded default ran.")
    seed: Count = Field(description="Of random weights; 0 where there are none.")
    definitions: dict[str, str]
    versions: dict[str, str | None]
    hardware: Hardware
    results: list[Entry] = Field(min_length=1)
