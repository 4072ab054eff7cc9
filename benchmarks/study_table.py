"""The study's table: accuracies over seeds, and paired differences to one arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from scipy.stats import t as student

Values = dict[str, dict[str, dict[int, float]]]  # row, arm, seed -> accuracy in %
NOT_RUN = "not run"


def interval(differences: Sequence[float]) -> float | None:
    """Half-width of the mean's 95 % interval: t(0.975, n - 1) s / √n; None if n < 2."""
    count = len(differences)
    if count < 2:
        return None
    error = statistics.stdev(differences) / math.sqrt(count)
    return float(student.ppf(0.975, count - 1)) * error


def paired(row: dict[str, dict[int, float]], arm: str, reference: str) -> list[float]:
    """arm - reference, of the seeds that both have."""
    values, other = row.get(arm, {}), row.get(reference, {})
    return [values[seed] - other[seed] for seed in values if seed in other]


def differences(
    values: Values, reference: str
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """By row and arm: mean paired difference, its interval's half-width, seeds."""
    return {
        name: {
            arm: {
                "mean": statistics.fmean(pairs),
                "interval": interval(pairs),
                "seeds": len(pairs),
            }
            for arm in row
            if arm != reference and (pairs := paired(row, arm, reference))
        }
        for name, row in values.items()
    }


def table(
    values: Values, arms: Sequence[str], seeds: Sequence[int], reference: str
) -> str:
    """Markdown: accuracies by row and arm, then differences to the reference arm."""

    def grid(columns: Sequence[str], cell: Callable[[str, str], str]) -> list[str]:
        lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name in values:
            cells = " | ".join(cell(name, arm) for arm in columns)
            lines.append(f"| {name} | {cells} |")
        return lines

    def accuracy(name: str, arm: str) -> str:
        scores = [*values[name].get(arm, {}).values()]
        if not scores:
            return NOT_RUN
        spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        return f"{statistics.fmean(scores):.2f}{spread}{_few(len(scores), len(seeds))}"

    def difference(name: str, arm: str) -> str:
        pairs = paired(values[name], arm, reference)
        if not pairs:
            return NOT_RUN
        half = interval(pairs)
        spread = "" if half is None else f" ± {half:.2f}"
        return f"{statistics.fmean(pairs):+.2f}{spread}{_few(len(pairs), len(seeds))}"

    others = [arm for arm in arms if arm != reference]
    return "\n".join(
        [
            "Test accuracy in %, mean ± sample deviation over seeds "
            f"{', '.join(map(str, seeds))}:",
            "",
            *grid(arms, accuracy),
            "",
            f"Difference to {reference} of the same seed: mean ± half-width of its "
            "95 % interval (t distribution):",
            "",
            *grid(others, difference),
        ]
    )


def _few(count: int, seeds: int) -> str:
    return "" if count == seeds else f" ({count} seed{'s' * (count != 1)})"
