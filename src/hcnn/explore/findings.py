"""The results of a study in sentences: effect sizes with intervals, or "nothing" where that is the answer."""

from hcnn.explore.sources import array_name
from hcnn.explore.study import Study
from hcnn.explore.tables import CHANGE, CONSISTENCY, ROUGHNESS, Row
from hcnn.text import count_of


def findings(study: Study) -> list[str]:
    """State the results of a study, one sentence or two each.

    Args:
        study: the results.

    Returns:
        The sentences; numbers have 95 % intervals over query images, and p-values are those of `order_test`, each for
        itself.

    """
    said = []
    if not study.info.get("held_out", True):
        said.append("No held-out images are known: the network was trained on the queries and may have memorized them.")
    if study.info["boundary"] != "circular":
        said.append("The network is not periodic, so translations, which wrap around, are an approximation.")
    said += _consistency(study) + _smoothness(study) + _flatness(study) + _properties(study)
    return said


def _interval(row: Row) -> str:
    return f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _consistency(study: Study) -> list[str]:
    said = []
    for row in study.contrasts:
        if row["against"].startswith("depth ") and (row["network"] == "trained" or row["order"] == "own"):
            word = {"above": "higher", "below": "lower", "no difference": "no different"}[row["verdict"]]
            who = row["network"] if row["order"] == "own" else f"{row['network']}, shuffled order"
            what = row["statistic"][0].upper() + row["statistic"][1:]
            said.append(f"{what} ({who}): {word} at depth {row['depth']} than at {row['against']}: {_interval(row)}.")
    controls = dict.fromkeys(
        row["against"]
        for row in study.contrasts
        if row["statistic"] == CONSISTENCY and not row["against"].startswith("depth ")
    )
    for against in controls:
        rows = [row for row in study.contrasts if row["statistic"] == CONSISTENCY and row["against"] == against]
        said.append(f"Class consistency after a translation along v(j-1), against {against}: {_depths(rows)}.")
    said += _against_orders(study, CONSISTENCY, "Class consistency after a translation", "higher", "lower")
    near = [
        row
        for row in study.rows
        if (row["statistic"], row["network"], row["order"]) == ("near enough", "trained", "own")
        and row["tau"]
        and row["attribute"] == f"v{row['depth'] - 1}"
    ]
    shares = {j: [row["value"] for row in near if row["depth"] == j] for j in sorted({row["depth"] for row in near})}
    means = ", ".join(f"{sum(values) / len(values):.0%} at depth {j}" for j, values in shares.items())
    said.append(f"Share of neighbours found after a translation along v(j-1) that are near enough: {means}.")
    return said


def _depths(rows: list[Row]) -> str:
    """Which depths are above, below, or no different, with the largest differences."""
    parts = []
    for verdict in ("above", "below", "no difference"):
        mine = [row for row in rows if row["verdict"] == verdict]
        if mine:
            most = max(mine, key=lambda row: abs(row["value"]))
            names = ", ".join(dict.fromkeys(str(row["depth"]) for row in mine))
            extreme = "" if verdict == "no difference" else f" (most at depth {most['depth']}: {_interval(most)})"
            parts.append(f"{verdict} at depth {names}{extreme}")
    return "; ".join(parts)


def _against_orders(study: Study, statistic: str, what: str, more: str, less: str) -> list[str]:
    """How the own order of attributes compares with shuffled ones, all depths together, in each network."""
    said = []
    for row in study.orders:
        if row["statistic"] == statistic and row["depth"] is None:
            word = "no different from" if row["p"] > 0.05 else f"{more if row['deviation'] > 0 else less} than in"
            who = "" if row["network"] == "trained" else f" ({row['network']})"
            said.append(
                f"{what} along {row['attribute']}{who}: {word} shuffled orders, "
                f"{count_of(row['depths'], 'depth')} together "
                f"(p = {row['p']:.2g}; {row['deviation']:+.2f} standard deviations of the orders)."
            )
    return said


def _smoothness(study: Study) -> list[str]:
    return _against_orders(study, ROUGHNESS, "Roughness, which is 1 on average over all orders,", "higher", "lower")


def _flatness(study: Study) -> list[str]:
    said = []
    by_control: dict[tuple[str, int], list[Row]] = {}
    for row in study.contrasts:
        if row["statistic"] == CHANGE:
            by_control.setdefault((row["against"], row["depth"] - int(row["attribute"][1:])), []).append(row)
    for (against, back), rows in sorted(by_control.items()):
        name = f"v(j-{back})" if back else "v(j)"
        said.append(f"Change of class scores when x_j is translated along {name}, against {against}: {_depths(rows)}.")
    return _against_orders(study, CHANGE, "Change of class scores when x_j is translated", "larger", "smaller") + said


def _properties(study: Study) -> list[str]:
    if not study.properties:
        return ["No properties were changed: the images are not two-dimensional, or no attribute has 4 values or more."]
    said = []
    for name in dict.fromkeys(row["property"] for row in study.properties):
        rows = [row for row in study.properties if row["property"] == name]
        found = sorted((r for r in rows if r["verdict"] == "found"), key=lambda r: -abs(r["value"]) * r["explained"])
        if found:
            parts = [
                f"{array_name(r['attribute'], r['depth'])} along {r['attribute']} (r = {_interval(r)}, "
                f"{r['explained']:.0%} of the change)"
                for r in found[:4]
            ]
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            said.append(f"{name.capitalize()}: found in {'; '.join(parts)}{more}.")
        else:
            same = sum(row["verdict"] == "as a control" for row in rows)
            rest = f" ({same} of {len(rows)} correlate, but no more than a control does)" if same else ""
            said.append(f"{name.capitalize()}: nothing{rest}.")
    return said
