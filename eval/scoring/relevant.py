"""The relevant images of each query, and their scores: the targets that all other scores are counted against."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timm_gam.core import DataError, World
from timm_gam.search import Scorer, slices

NO_TARGET = float("inf")
"""Fills up rows of targets: no score is above it or equal to it."""

_JOINED = {"cpu": 64}  # images by label whose classes are scored together: small blocks take long to start


class Relevant:
    """Gallery images of each query's label.

    Attributes:
        counts: (Q,) int64, how many each query has, itself included where it is in the gallery.
        query_code, gallery_code: (Q,) and (N,) int32, equal where an image is relevant to a query.

    Raises:
        DataError: a query's own row has another label than the query.
    """

    def __init__(
        self, query_labels: NDArray[np.int64], gallery_labels: NDArray[np.int64], self_index: NDArray[np.int64] | None
    ) -> None:
        self.by_label = np.argsort(gallery_labels, kind="stable")
        ordered = gallery_labels[self.by_label]
        self.first = np.searchsorted(ordered, query_labels, side="left")
        self.counts = np.searchsorted(ordered, query_labels, side="right") - self.first
        # A label as a small number: the place of its first image, -1 where the gallery has none.
        self.query_code = np.where(self.counts > 0, self.first, -1).astype(np.int32)
        self.gallery_code = np.searchsorted(ordered, gallery_labels, side="left").astype(np.int32)
        self.self_index = np.full(len(query_labels), -1) if self_index is None else self_index
        found = np.flatnonzero(self.self_index >= 0)
        wrong = found[gallery_labels[self.self_index[found]] != query_labels[found]]
        if len(wrong):
            raise DataError(f"query {wrong[0]} has another label than gallery row {self.self_index[wrong[0]]}, itself")
        self.place = np.argsort(self.by_label)  # of each gallery image in that order

    def targets(self, scorer: Scorer, group: slice, rows: int, columns: int, world: World) -> tuple[Tensor, Tensor]:
        """Scores of the relevant images of a group of queries, in blocks of at most `rows` x `columns`.

        Returns:
            (Q, W) float64 targets, ascending, `NO_TARGET` where a query has fewer than W others, and
            (Q, 1) float64 score of each query's own image, -inf where the gallery lacks it.
        """
        device, counts, first = scorer.device, self.counts[group], self.first[group]
        targets = torch.zeros(len(counts), max(1, counts.max(initial=0)), dtype=torch.float64, device=device)
        place = torch.arange(targets.shape[1], device=device)
        start, count = (torch.from_numpy(each).to(device)[:, None] for each in (first, counts))
        members = np.flatnonzero(counts)[np.argsort(first[counts > 0], kind="stable")]
        of_classes = np.split(members, np.flatnonzero(np.diff(first[members] // _JOINED.get(device.type, columns))) + 1)
        blocks = (
            (some[part], images)
            for some in of_classes
            for part in slices(0, len(some), rows)
            for images in slices(int(first[some[0]]), int(first[some[-1]] + counts[some[-1]]), columns)
        )
        for number, (some, images) in enumerate(blocks):
            if number % world.size == world.rank:
                scores = scorer.block(group.start + some, self.by_label[images])
                mine = torch.from_numpy(some).to(device)
                found = start[mine] + place - images.start
                here = (place < count[mine]) & (found >= 0) & (found < scores.shape[1])
                targets[mine] += torch.where(here, scores.gather(1, found.clamp_(0, scores.shape[1] - 1)), 0.0)
        world.sum(targets)  # each is 0 in all processes but one
        targets.masked_fill_(place >= count, NO_TARGET)
        there = np.flatnonzero(self.self_index[group] >= 0)
        own_place = self.place[self.self_index[group][there]] - first[there]  # among the images of its label
        itself = tuple(torch.from_numpy(each).to(device) for each in (there, own_place))
        own = torch.full((len(counts), 1), -torch.inf, dtype=torch.float64, device=device)
        own[itself[0], 0] = targets[itself]
        targets[itself] = NO_TARGET
        if device.type != "cpu":
            return targets.sort(dim=1).values, own
        targets.numpy().sort(axis=1)  # many times as fast as torch
        return targets, own
