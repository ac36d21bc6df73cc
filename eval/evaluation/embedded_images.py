"""A model and images -> embeddings of the images that a protocol ranks, and what a record says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.caveats.training import training_images, training_warnings
from eval.evaluation.ranked_result import Ranking
from eval.results.certificate import certify
from eval.results.facts import Data, Facts, HeadRecord, Model, PreprocessingRecord, Timings, Unreadable, Weights
from eval.results.result import Settings
from timm_gam.core import ProgressBar, World
from timm_gam.data import ImageSet, Protocol, class_warnings
from timm_gam.embed import Embedder, Embeddings, FileStore, collect_embeddings
from timm_gam.images import data_fingerprint
from timm_gam.models import weights_digest


@dataclass(frozen=True)
class EmbeddedImages:
    """Embeddings of a protocol's images.

    Attributes:
        embedder: What made them.
        images: The image set.
        embeddings: Of the readable images.
        protocol: Without those that cannot be read; its rows are those of the image set.
        settings: Of the run.
        made: How many of the embeddings were made now.
        world: The processes that share the work.
    """

    embedder: Embedder
    images: ImageSet
    embeddings: Embeddings
    protocol: Protocol
    settings: Settings
    made: int
    world: World

    @property
    def ranking(self) -> Ranking:
        """What is ranked for what."""
        rows, protocol = self.embeddings.rows, self.protocol
        return Ranking(
            self.embeddings.vectors,
            tuple(self.images.ids[row] for row in rows.tolist()),
            self.images.labels[rows],
            self.images.class_names,
            replace(
                protocol,
                query=np.searchsorted(rows, protocol.query),
                gallery=np.searchsorted(rows, protocol.gallery),
            ),
            self.settings.embed.device,
            self.embeddings.signatures,
            _split_codes(self.images, rows),
        )

    def facts(self, common: dict[str, Any]) -> Facts:
        """What a record says beside what all have in `common`."""
        settings = self.settings
        embed, info, head = self.embedder.settings, self.embedder.loaded.info, self.embedder.head
        timings: Timings = common.pop("timings")
        of_head = None
        if head is not None:
            of_head = HeadRecord(
                sha256=weights_digest(head.state_dict()),
                loss=head.facts.loss,
                trained_on=head.facts.trained_on,
                power=head.facts.power,
                layers=head.layers,
            )
        seen = training_images(self.embedder.loaded, self.embeddings.digests)
        return Facts(
            model=Model(
                name=info.name,
                architecture=info.architecture,
                model_args=info.model_args,
                parameters=info.num_params,
                embedding_layer=embed.layer,
                embedding_dim=self.embeddings.vectors.shape[1],
                views=embed.views,
                head=of_head,
            ),
            weights=Weights(kind=info.weights.kind, reference=info.weights.reference, sha256=info.weights.sha256),
            data=_data_facts(self.images, self.embeddings, self.protocol),
            preprocessing=PreprocessingRecord(**self.embedder.preprocessing.as_dict()),
            training_images=seen,
            warnings=training_warnings(self.embedder.loaded, self.embedder.preprocessing, seen),
            certificate=certify(self.embedder.preprocessing, embed, settings.distance),
            precision=str(embed.amp_dtype or "float32").removeprefix("torch."),
            timings=timings.model_copy(
                update={
                    "embedding_seconds": round(self.embeddings.seconds, 3),
                    "embedding_from_cache": self.made == 0,
                    "images_embedded": self.made,
                    "processes": self.world.size,
                    "optimizations": self.embedder.optimizations,
                    "batch_size": embed.batch_size,
                    "workers": embed.workers,
                    "device": embed.device,
                }
            ),
            **common,
        )


def embed_for(
    embedder: Embedder,
    images: ImageSet,
    protocol: Protocol,
    settings: Settings,
    progress: ProgressBar,
    world: World,
) -> EmbeddedImages:
    """Embed the images that a protocol ranks.

    Raises:
        TimmGamError: an image cannot be read, an embedding cannot be used, or a file cannot be written.
    """
    embeddings, made = embed_rows(embedder, images, protocol.images, settings, progress, world)
    scored = protocol.restricted_to(embeddings.rows) if len(embeddings.rows) < len(protocol.images) else protocol
    return EmbeddedImages(embedder, images, embeddings, scored, settings, made, world)


def embed_rows(
    embedder: Embedder,
    images: ImageSet,
    rows: NDArray[np.int64],
    settings: Settings,
    progress: ProgressBar,
    world: World,
) -> tuple[Embeddings, int]:
    """The embeddings of ascending rows of an image set, and how many were made now.

    Raises:
        TimmGamError: as `embed_for`.
    """
    compiled = settings.embed.optimize or settings.embed.compile_backend is not None
    compiling = " (compiles first, up to a minute)" if compiled else ""
    listing = [(images.ids[row], images.class_names[images.labels[row]]) for row in rows.tolist()]
    world.agree("the images", json.dumps(listing))
    world.agree("weights, options or package versions", json.dumps(embedder.key, sort_keys=True))
    return collect_embeddings(
        images,
        rows,
        embedder,
        store=FileStore(settings.cache_folder, embedder.key) if settings.cache_folder is not None else None,
        world=world,
        progress=lambda count: progress(embedder.loaded.info.name + compiling, "img", count),
    )


def _data_facts(images: ImageSet, embeddings: Embeddings, protocol: Protocol) -> Data:
    return Data(
        name=images.name,
        fingerprint=data_fingerprint(images, embeddings.rows, embeddings.digests),
        images=len(protocol.images),
        classes=len(np.unique(images.labels[protocol.images])),
        queries_with_duplicate=_queries_with_duplicate(embeddings, protocol),
        unreadable=[Unreadable(id=name, reason=reason) for name, reason in sorted(embeddings.unreadable.items())],
        left_out=dict(images.left_out),
        warnings=[*images.notes, *warnings_of_classes(images.labels, images.class_names, protocol)],
    )


def warnings_of_classes(labels: NDArray[np.int64], class_names: tuple[str, ...], protocol: Protocol) -> list[str]:
    """What of the classes makes the numbers say less than they seem to."""
    query, gallery = np.unique(labels[protocol.query]), np.unique(labels[protocol.gallery])
    warnings = class_warnings(labels[protocol.images], class_names)
    if len(lost := np.setdiff1d(query, gallery)):
        warnings.append(
            f"{len(lost)} of {len(query)} classes of the queries have no image in the gallery "
            f"('{class_names[int(lost[0])]}', ...); their queries are left out"
        )
    return warnings


def _split_codes(images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """(N,) the split of each row as a number, None where images have no splits or one."""
    if images.splits is None:
        return None
    codes = np.unique([images.splits[row] for row in rows.tolist()], return_inverse=True)[1].astype(np.int64)
    return codes if codes.any() else None


def _queries_with_duplicate(embeddings: Embeddings, protocol: Protocol) -> int:
    content = embeddings.digests.groups()
    gallery, query = (content[np.searchsorted(embeddings.rows, rows)] for rows in (protocol.gallery, protocol.query))
    copies = np.bincount(gallery, minlength=len(content))
    return int((copies[query] > np.isin(protocol.query, protocol.gallery)).sum())
