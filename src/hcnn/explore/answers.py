"""The three questions that one asks first of a study, each answered in plain words."""

from dataclasses import dataclass

from hcnn.explore.study import Study
from hcnn.explore.tables import CHANGE, Row
from hcnn.text import count_of


@dataclass(frozen=True)
class Answer:
    """A question with its answer.

    Attributes:
        question: the question.
        short: the answer in a word or two.
        reason: the numbers behind it, in one sentence or two.

    """

    question: str
    short: str
    reason: str


def answers(study: Study, classes: int) -> list[Answer]:
    """Answer whether the order of attributes matters, whether the class survives, and which property it is.

    Args:
        study: what was measured.
        classes: number of classes; 1 in so many is the rate of chance of a study that does not name it, as earlier
            versions did not.

    Returns:
        Three answers.

    """
    return [_order(study), _class(study, classes), _property(study)]


def _order(study: Study) -> Answer:
    """From the change of class scores along each attribute, all depths together, against shuffled orders."""
    question = "Does the order of an attribute's values matter?"
    together = {
        (row["network"], row["attribute"]): row
        for row in study.orders
        if row["statistic"] == CHANGE and row["depth"] is None
    }
    rows = [row for (network, _), row in together.items() if network == "trained"]
    if not rows or all(row["smallest"] * len(rows) > 0.05 for row in rows):
        return Answer(question, "Not known", "Too few different orders of its values were compared to tell.")
    best = min(rows, key=lambda row: row["p"])
    p = min(1.0, best["p"] * len(rows))  # Bonferroni
    depths = count_of(best["depths"], "depth")
    if p > 0.05:
        return Answer(
            question,
            "Not measurably",
            "Moving an array along an attribute changes the class scores as much as the same move through the values "
            f"in a random order, {depths} together (p = {p:.2g}).",
        )
    before = together["untrained", best["attribute"]]
    same = before["p"] <= 0.05 and before["deviation"] * best["deviation"] > 0
    return Answer(
        question,
        "Yes, before training too" if same else "Yes",
        f"Moving an array along {best['attribute']} changes the class scores "
        f"{'less' if best['deviation'] < 0 else 'more'} than the same move through the values in a random order, "
        f"{depths} together (p = {p:.2g})"
        + (", as in the untrained network: it is an effect of the architecture." if same else "."),
    )


def _class(study: Study, classes: int) -> Answer:
    """From class consistency at the deepest layer, along v_{j-1}."""
    rows = [row for row in study.rows if row["statistic"] == "class consistency" and _along_previous(row)]
    last = max(row["depth"] for row in rows)
    at = {
        order: [row for row in rows if (row["depth"], row["network"], row["order"]) == (last, "trained", order)]
        for order in ("own", "shuffled")
    }
    still = next(row["value"] for row in at["own"] if row["tau"] == 0)
    moved, shuffled = (_mean([row["value"] for row in at[order] if row["tau"]]) for order in ("own", "shuffled"))
    chance = study.info.get("chance", 1 / classes)
    kept = ((moved or 0) - chance) / (still - chance) if still > chance else 0.0
    short = "Mostly" if kept >= 0.75 else "Partly" if kept >= 0.25 else "Hardly"
    control = "" if shuffled is None else f"; in a random order, {shuffled:.0%}"
    return Answer(
        "Does the class survive a translation?",
        short,
        f"At depth {last}, the image found after a translation shows the query's class in {moved or 0:.0%} of the "
        f"cases (without a translation, {still:.0%}{control}; by chance, about {chance:.0%}).",
    )


def _property(study: Study) -> Answer:
    question = "Which property of images does an attribute stand for?"
    names = list(dict.fromkeys(row["property"] for row in study.properties))
    if not names:
        return Answer(
            question,
            "Not known",
            "None was changed: the images are not two-dimensional, or no attribute has 4 values or more.",
        )
    found = [row for row in study.properties if row["verdict"] == "found"]
    if not found:
        return Answer(
            question,
            "None of those tried",
            f"When images change in {', '.join(names[:-1])} or {names[-1]}, their arrays move along no attribute more "
            "than in every control.",
        )
    found = sorted(found, key=lambda row: -abs(row["value"]) * row["explained"])
    best = dict.fromkeys(row["property"] for row in found)
    first, few = found[0], sum(row["orders"] < 3 for row in found)
    rarely = (
        f" For {few} of them there are only two other orders of the 4 values to compare with, so that the true one is "
        "the best of three by chance once in three."
    )
    return Answer(
        question,
        ", ".join(best),
        f"The clearest case is {first['property']}, which moves arrays along {first['attribute']} at depth "
        f"{first['depth']} (correlation {first['value']:.2f}, {first['explained']:.0%} of the change); "
        f"of {len(study.properties)} combinations of attribute and property, {len(found)} went beyond every control."
        + (rarely if few else ""),
    )


def _along_previous(row: Row) -> bool:
    return row["attribute"] == f"v{row['depth'] - 1}"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
