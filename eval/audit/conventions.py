"""The same ranking in the numbers that other libraries print: one name, several denominators.

Each entry says which library, the name it prints, what it divides by, and what becomes of ties and of the query itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eval.audit.judged import Judged, judge
from eval.audit.measures import per_query
from eval.audit.ranking import Ranking
from eval.scoring.qrels import Qrels
from eval.scoring.tie_groups import quotient


@dataclass(frozen=True)
class Convention:
    """One number as a library prints it.

    Attributes:
        library: Whose.
        name: The name it prints.
        definition: What it is, with its denominator.
        value: In [0, 1].
    """

    library: str
    name: str
    definition: str
    value: float


def conventions(ranking: Ranking, qrels: Qrels, k: int = 10) -> list[Convention]:
    """The numbers of a ranking under the rules of other libraries, those with a cutoff at k."""
    by_item = judge(ranking, qrels, leave_out=False, by_item=True)
    with_self = judge(ranking, qrels, leave_out=False)
    own = judge(ranking, qrels)
    trec = per_query(_ranked_only(by_item).untied(), [k])
    skipped = per_query(_ranked_only(with_self.take(with_self.place > 0)).untied(), [k])
    excluded = per_query(own.untied(), [k])
    trapezoids, to_last, by_found = _of_hits(own.untied(), k)
    keeps = "ties by item id, descending; the query itself stays; judged queries that are ranked"
    pml, revisited = "pytorch-metric-learning", "revisited Oxford and Paris"
    dropped = "whatever ranks first is dropped, be it the query or not"
    at_ends = "of the first 1000, precision at the end of each tie, divided by min(1000, R)"
    found_only = "divided by the relevant items that were found, not by R"
    rows = [
        ("trec_eval, ranx, MTEB", "map", f"(1/R) sum rel(i) P@i; {keeps}", trec["map"]),
        ("trec_eval, MTEB", f"map_cut_{k}", "the same of the first K, divided by R", trec[f"map@{k}"]),
        ("trec_eval, MTEB", f"P_{k}", "hits / K", trec[f"precision@{k}"]),
        ("trec_eval, MTEB", f"recall_{k}", "hits / R", trec[f"recall@{k}"]),
        ("trec_eval (success), MTEB (hit_rate)", f"success_{k}", "1 if any of the first K", trec[f"hit@{k}"]),
        ("trec_eval, MTEB", f"ndcg_cut_{k}", "graded DCG / ideal DCG, linear gains", trec[f"ndcg@{k}"]),
        ("trec_eval, MTEB (mrr)", "recip_rank", "1 / rank of the first relevant", trec["mrr"]),
        ("MTEB, skip_first_result", f"map_cut_{k}", dropped, skipped[f"map@{k}"]),
        ("ILIAS", "mAP@1000", at_ends, _ap_by_threshold(own, 1000)),
        (revisited, "mAP", "trapezoids of the PR curve, divided by R", trapezoids),
        (revisited, f"mP@{k}", "hits / min(K, rank of the last relevant)", to_last),
        (pml, "mean_average_precision_at_r", "(1/R) sum over the first R", excluded["map@r"]),
        (pml, "r_precision", "hits in the first R / R", excluded["r_precision"]),
        ("torchmetrics RetrievalMAP and others", "map", found_only, by_found),
    ]
    return [Convention(library, name, text, float(np.mean(np.asarray(values)))) for library, name, text, values in rows]


def _ranked_only(judged: Judged) -> Judged:
    """Without judged queries that are not ranked, which trec_eval leaves out of its averages."""
    kept = judged.ranked
    return replace(
        judged,
        query=(np.cumsum(kept) - 1)[judged.query],
        ideal=judged.ideal[kept],
        num_relevant=judged.num_relevant[kept],
        ranked=kept[kept],
    )


def _of_hits(judged: Judged, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each query, without ties, 0 where nothing was found.

    The area below precision over recall, joined by straight lines; hits over ranks, up to the last hit where it stands
    before k; and the mean precision at the hits.
    """
    hits = judged.groups()
    at = quotient(hits.relevant_before + 1, hits.start + 1)
    before = quotient(hits.relevant_before, hits.start).nan_to_num(1.0)  # nothing stands before the first rank
    last = torch.zeros_like(hits.num_relevant).scatter_reduce_(0, hits.row, hits.start + 1, "amax").clamp_(max=k)
    by_found = quotient(hits.total(at), hits.total(hits.relevant))
    to_last = quotient(hits.expected_relevant(last), last)
    return hits.per_relevant(hits.total((before + at) / 2)), to_last.nan_to_num(0.0), by_found.nan_to_num(0.0)


def _ap_by_threshold(judged: Judged, k: int) -> Tensor:
    """sum over relevant of precision at the last place of their tie (scikit-learn's average_precision_score)."""
    groups = judged.take(judged.place < k).groups()
    at_end = (groups.relevant_before + groups.relevant).double() / (groups.start + groups.size)
    return quotient(groups.total(groups.relevant * at_end), groups.num_relevant.clamp(max=k))
