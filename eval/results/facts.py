"""What a result says of itself: which model, images, protocol and machine made its numbers, as typed records.

They are the sections of the JSON document (`eval.results.document`). A document from elsewhere is read by them too:
what has another shape is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eval.results.certificate import Certificate
from timm_gam.search import Distance


def _unrounded(value: object) -> object:
    """A mean of ones may come out one rounding above 1."""
    return 1.0 if isinstance(value, float) and 1 < value < 1 + 1e-9 else value


Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_unrounded)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Interval = tuple[float, float]


class Record(BaseModel):
    # protected_namespaces: `model_args` is timm's name
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class HeadRecord(Record):
    sha256: Sha256 = Field(description="Over name, dtype, shape and bytes of its tensors, in order of name.")
    loss: str = Field(description="What it was trained by; 'whitening' needs no labels.")
    trained_on: str
    power: float
    layers: list[Count] = Field(description="Dimensions that come in, of each layer, and that come out.")


class Model(Record):
    name: str = Field(description="As it was asked for.")
    architecture: str = Field(description="Registered timm model name.")
    model_args: dict[str, Any] = Field(
        default={}, description="What its config.json builds it with beside the architecture."
    )
    parameters: Count = Field(description="Of the network as loaded, its classifier included where it has one.")
    embedding_layer: Literal["pooled", "pre_logits"]
    embedding_dim: Count
    views: dict[str, Any] = Field(
        default={},
        description="How embeddings are made where not as the model does: pool, stages, flip, scales; see --help.",
    )
    head: HeadRecord | None = Field(default=None, description="Of timm-gam head, the last layer of the embedding.")


class Weights(Record):
    kind: Literal["pretrained", "checkpoint", "random", "module"] = Field(
        description="By the model's name, a file, none, or a module that was handed over."
    )
    reference: str = Field(description="owner/name@commit, a file's or folder's name, or 'seed N'.")
    sha256: Sha256 = Field(description="Over name, dtype, shape and bytes of every tensor, in order of name.")


class Unreadable(Record):
    id: str
    reason: str


class Data(Record):
    name: str
    fingerprint: Sha256 | None = Field(
        description="Over (id, class name, SHA-256 of the encoded bytes) of every image scored, sorted by id; null "
        "where vectors were scored."
    )
    images: Count
    classes: Count
    queries_with_duplicate: Count = Field(
        default=0, description="Queries whose gallery holds another image with the very same bytes."
    )
    unreadable: list[Unreadable] = []
    left_out: dict[str, Count] = Field(
        default={},
        description="What lay beside the images and was not read: a file ending or another kind -> how many.",
    )
    warnings: list[str] = Field(default=[], description="What makes these numbers say less than they seem to.")


class ProtocolRecord(Record):
    name: Literal["leave-one-out", "query-gallery", "class-disjoint"]
    description: str
    split_rule: str
    splits: list[str] = Field(default=[], description="The split that is scored, or those of queries and gallery.")
    queries: Count
    queries_scored: Count = Field(description="Queries with at least one relevant image; all averages are over these.")
    queries_without_relevant: Count
    gallery: Count = Field(description="Gallery images; a query among them is left out of its own ranking by identity.")
    distance: Distance
    ties: str = "expectation over all orders of equal scores"


class PreprocessingRecord(Record):
    input_size: tuple[Count, Count, Count]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shrink_on_load: bool = Field(
        default=False, description="Whether the JPEG decoder reduced photos much larger than the input."
    )


class Gain(Record):
    difference: float = Field(description="Mean over queries of this ranking's metric less the plain one's.")
    ci95: Interval | None = Field(description="Of that difference, for other ... of the population; null: too few.")
    p: Share = Field(
        description="Two-sided: for queries of a paired permutation test, for images and classes of Student's t."
    )


class ClassGain(Record):
    name: str = Field(alias="class")
    queries: Count
    differences: dict[str, float] = Field(description="Metric name -> mean difference over the queries of the class.")


class WhiteningRecord(Record):
    dimensions: Count
    fitted_on: str = Field(description="In words.")
    sha256: Sha256 = Field(description="Over name, dtype, shape and bytes of its tensors, in order of name.")


class RecipeRecord(Record):
    """What was done with the embeddings before and while they were ranked, and what that brought."""

    name: str
    power: float = 1.0
    whitening: WhiteningRecord | None = None
    method: str | None = Field(default=None, description="See --rerank of python -m eval.retrieval; null: cosine.")
    options: dict[str, float] = {}
    form: Literal["strict", "transductive"] = Field(
        description="strict: a query's ranking is what it would be if the gallery did not hold its own image."
    )
    gains: dict[str, Gain] = Field(description="Metric name -> against the plain ranking of the same embeddings.")
    gains_per_class: list[ClassGain]
    population: Literal["queries", "images", "classes"] = Field(
        default="queries", description="What intervals and p of the gains are for; a re-ranking has queries only."
    )


class Means(Record):
    micro: Share = Field(description="Mean over queries.")
    macro: Share = Field(description="Mean over classes of class means.")


class NearPair(Record):
    query: str
    match: str
    likeness: float = Field(ge=-1, le=1)
    across_splits: bool = False


class NearDuplicates(Record):
    """Near-duplicates of queries in their gallery, and every metric without them: neither right nor wrong."""

    likeness: float = Field(description="From this correlation of gradients on two pictures are near-duplicates.")
    queries: Count = Field(description="Queries whose gallery holds a near-duplicate of them, itself not counted.")
    pairs: Count = Field(description="Queries and their near-duplicates.")
    across_splits: Count | None = Field(
        default=None, description="Queries with a near-duplicate of another split; null where images have no splits."
    )
    queries_scored: Count = Field(description="Queries with a relevant image that is no near-duplicate.")
    metrics: dict[str, Means] = Field(default={}, description="Every metric without near-duplicates of the query.")
    examples: list[NearPair] = Field(default=[], description="Those most alike, across splits first.")


class IntervalsRecord(Record):
    population: Literal["queries", "images", "classes", "none"] = Field(
        description="Other ... of the same kind, for which the intervals are; images and classes change the gallery."
    )
    confidence: float = 0.95
    method: str = "infinitesimal jackknife; Wilson's interval with Student's t"

    @model_validator(mode="before")
    @classmethod
    def _from_bootstrap(cls, value: Any) -> Any:
        """Records had bootstrap intervals over queries."""
        if not isinstance(value, dict) or "replicates" not in value:
            return value
        method = f"{value['replicates']} bootstrap replicates, {value.get('method')}"
        return {"population": "queries" if value["replicates"] else "none", "method": method}

    @property
    def meaning(self) -> str:
        """What the intervals are for, in words."""
        return {
            "queries": "for other queries of the same classes; the gallery stays",
            "images": "for other images of the same classes, those of the gallery too",
            "classes": "for other classes",
            "none": "none",
        }[self.population]


class Timings(Record):
    embedding_seconds: float = 0.0
    embedding_from_cache: bool = False
    images_embedded: Count = Field(
        default=0, description="Embedded in this run, the others were kept from earlier ones."
    )
    processes: int = Field(default=1, ge=1, description="That shared the work.")
    optimizations: list[str] = []
    scoring_seconds: float
    scoring_products: str = Field(
        default="", description="What scores were computed with, such as float64; all ways give the same digits."
    )
    batch_size: Count = 0
    workers: int | None = None
    device: str = "cpu"


class TrainingImages(Record):
    """Scored images that the weights have seen before, by 8 bytes of the SHA-256 of their encoded bytes."""

    trained: Count = Field(description="Among those that they were trained on.")
    validated: Count = Field(description="Among those by which their epoch was chosen, and not trained on.")
    images: Count = Field(description="Scored.")


class Facts(Record):
    """All but the numbers.

    Attributes:
        model: None where vectors were scored, as are `weights` and `preprocessing`.
    """

    model: Model | None = None
    weights: Weights | None = None
    data: Data
    protocol: ProtocolRecord
    preprocessing: PreprocessingRecord | None = None
    near_duplicates: NearDuplicates | None = Field(
        default=None, description="None where vectors were scored, whose pictures are not known."
    )
    training_images: TrainingImages | None = Field(
        default=None, description="null: the weights do not say what they were trained on."
    )
    warnings: list[str] = Field(default=[], description="What makes this model's numbers say other than they seem to.")
    certificate: Certificate | None = Field(default=None, description="Enough to make the same pixels again.")
    precision: str = Field(default="float32", description="float32, or the dtype of mixed precision.")
    recipe: RecipeRecord | None = Field(default=None, description="null: the plain ranking.")
    intervals: IntervalsRecord = Field(validation_alias=AliasChoices("intervals", "bootstrap"))
    timings: Timings

    @property
    def name(self) -> str:
        """What tables call the result: the model's name, or the data's where vectors were scored, and the recipe's."""
        name = self.model.name if self.model is not None else self.data.name
        return name if self.recipe is None else f"{name} + {self.recipe.name}"
