"""The layer that validation measures as the best is what is recorded with the model."""

from __future__ import annotations

from pipeline.training.validate import best_of


def test_the_best_layer_is_that_of_the_mean_over_all_gold_folders() -> None:
    found = best_of(
        {
            "aer/de-en": 0.3,
            "aer_by_layer/de-en": [0.5, 0.1, 0.3],
            "aer_by_layer/fr-en": [0.5, 0.6, 0.2],
            "retrieval_by_layer/de-en": [0.0, 0.0, 0.0],
        },
        7,
    )
    assert found == (2, "the lowest mean AER, 25.0 %, of the validation at step 7 (de-en, fr-en)")


def test_of_equal_layers_the_lowest_is_taken_and_without_gold_none() -> None:
    assert best_of({"aer_by_layer/de-en": [0.5, 0.25, 0.25]}, 1) == (
        1,
        "the lowest mean AER, 25.0 %, of the validation at step 1 (de-en)",
    )
    assert best_of({"retrieval_by_layer/de-en": [0.5]}, 1) is None
