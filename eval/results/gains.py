"""What a recipe brought against the plain ranking of the same embeddings, as tables."""

from __future__ import annotations

from eval.results.facts import IntervalsRecord
from eval.results.result import RetrievalResult
from eval.tables.metric_tables import percent, text_table


def gain_table(result: RetrievalResult, *, per_class: bool = False) -> str:
    """One row a metric: plain, with the recipe, paired difference in points with interval and p; or also by class.

    Args:
        result: With `facts.recipe` and `plain`.
        per_class: Also the difference of each class, the greatest loss first.
    """
    recipe, plain = result.facts.recipe, result.plain
    if recipe is None or plain is None:
        return ""
    rows = [["in %, micro averages", "plain", recipe.form, "difference [95 %]", "p"]]
    for name, gain in recipe.gains.items():
        averages = [f"{100 * each.averages[name].micro:.2f}" for each in (plain, result)]
        rows.append([name, *averages, percent(gain.difference, gain.ci95, "+.2f"), f"{gain.p:.2g}"])
    near = [each.facts.near_duplicates for each in (plain, result)]
    if all(each is not None and each.queries for each in near):
        shown = [f"{100 * each.metrics['map'].micro:.2f}" for each in near if each is not None]
        rows.append(["map without near-duplicates", *shown, "", ""])
    better = sum(each.differences["map"] > 0 for each in recipe.gains_per_class)
    lines = [
        f"{recipe.name} against the plain ranking of the same embeddings",
        text_table(rows, rules=(0,)),
        f"intervals and p {IntervalsRecord(population=recipe.population).meaning}",
        f"map rises in {better} of {len(recipe.gains_per_class)} classes",
    ]
    if per_class:
        columns = list(recipe.gains)
        classes = sorted(recipe.gains_per_class, key=lambda each: each.differences["map"])
        table = [["class, points", "queries", *columns]]
        table += [[c.name, str(c.queries), *(f"{100 * c.differences[name]:+.2f}" for name in columns)] for c in classes]
        lines.append(text_table(table, rules=(0,)))
    return "\n".join(lines)
