from __future__ import annotations

import pytest

from spatialboost.scenes.questions.scoring import LENGTH, VERDICT, LengthScoring, read_length, read_verdict


def test_the_last_length_counts():
    assert read_length("Answer: 1.895 meters, not 40.0 centimeters.") == pytest.approx(0.4)
    assert read_length("3 meters") == 3.0
    assert read_length("no number at all, or 3 feet") is None


def test_a_verdict_is_what_stands_after_the_reasons():
    assert read_verdict("The red box is left. Answer: No.") == "No"
    assert read_verdict(" The red box.\n") == "The red box."


def test_a_length_is_right_within_a_quarter():
    replies = {"2.0 meters": 0.2, "2.500 meters": 0.0, "5 meters": 1.0, "I see nothing": 1.0, "187.5 centimeters": 0.25}
    for reply, error in replies.items():
        assert LENGTH.error(reply, "The depth is 2.500 meters.") == pytest.approx(error)
        assert LENGTH.right(reply, "The depth is 2.500 meters.") == (error <= 0.25)
    assert LENGTH.error("1 meters", "no length in the truth") == 1.0
    assert not LengthScoring(tolerance=0.1).right("2.0 meters", "2.5 meters")


def test_the_best_guess_is_the_median_or_the_most_frequent_verdict():
    assert LENGTH.best_guess(["1.000 meters", "9.000 meters", "50.0 centimeters", "odd"]) == "1.000 meters"
    assert LENGTH.best_guess(["odd"]) == ""
    truths = ["a. Answer: No.", "b. Answer: Yes.", "c. Answer: Yes."]
    assert VERDICT.best_guess(truths) == "b. Answer: Yes."
    assert VERDICT.error("Answer: No.", "Answer: Yes.") is None
