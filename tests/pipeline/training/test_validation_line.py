"""The line that a validation prints: a few languages one by one, many as their mean."""

from __future__ import annotations

from pipeline.training.validate import NAMES_SHOWN, describe


def figures(pairs: int) -> dict[str, float | list[float]]:
    values: dict[str, float | list[float]] = {"mlm_loss/en": 2.0}
    for number in range(pairs):
        name = f"en-{number}"
        values |= {f"aer/{name}": 0.1 * number, f"aer_best/{name}": 0.05, f"aer_best_layer/{name}": 7}
        values[f"aer_by_layer/{name}"] = [0.5, 0.1 * number]
    return values


def test_few_pairs_stand_one_by_one_with_their_best_layer() -> None:
    assert describe(figures(2)) == (
        "mlm_loss/en 2.000  aer/en-0 0.000 (best 0.050, layer 7)  aer/en-1 0.100 (best 0.050, layer 7)"
    )


def test_of_many_pairs_the_line_has_the_mean_and_the_extremes() -> None:
    assert NAMES_SHOWN < 5
    assert describe(figures(5)) == "mlm_loss/en 2.000  aer 0.200, mean of 5 (0.000 en-0 to 0.400 en-4)"
