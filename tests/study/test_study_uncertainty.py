"""How often the intervals of a study hold the truth, which simulated runs have by design."""

import numpy as np
import pytest
from scipy.special import ndtr
from tfgn_study import mistakes
from tfgn_study.report import uncertainty

IMAGES = 400
STUDIES = 300


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 200)


def result(wrong, seed):
    """The result of a run that got these images wrong, `[epochs, images]` bool."""
    errors = list(wrong.mean(axis=1))
    texts = [mistakes.WRONG_IMAGES.encode(flags) for flags in wrong[-uncertainty.FINAL_EPOCHS :]]
    error = float(np.median(errors[-uncertainty.FINAL_EPOCHS :]))
    run = {"config": {"seed": seed}, "history": {"val_error": errors}}
    return run | {"error": error, "wrong": texts}


def errors_of(runs, images=IMAGES):
    """The errors of several lists of runs, on the same resamples."""
    resampled = iter(uncertainty.resampled_errors([run for part in runs for run in part], images))
    return [uncertainty.Errors.of(part, [next(resampled) for _ in part], images) for part in runs]


def simulated(rng, seeds, of_seed, thresholds):
    """Runs of two norms: a latent score above a threshold is a wrong image.

    The score is the difficulty of the image, most of which the norms share, plus the luck of the
    seed and of the single decision; its variance is 2.25 + of_seed^2.
    """
    spread = np.sqrt(2.25 + of_seed**2)
    hard = rng.normal(size=IMAGES)
    norms = []
    for threshold in thresholds:
        score = hard + 0.5 * rng.normal(size=IMAGES) + rng.normal(size=(seeds, IMAGES))
        score += of_seed * rng.normal(size=(seeds, 1))
        wrong = score > threshold * spread
        norms.append([result(wrong[seed][None], seed) for seed in range(seeds)])
    return norms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "of_seed"), [(1, 0.0), (3, 0.0), (3, 0.3), (3, 1.0), (5, 0.3)], ids=str
)
def test_intervals_hold_the_truth_in_95_of_100_studies(seeds, of_seed):
    """From no to nearly all of the chance in the seeds; 300 studies tell 95% to 2.5%.

    An interval may hold it more often, where two estimates of the same chance are added. That of
    an error, unlike that of a difference, holds it less often where the seeds differ a lot.
    """
    rng = np.random.default_rng(0)
    thresholds = (1.3, 1.6)
    truths = [ndtr(-threshold) for threshold in thresholds]
    held = {"difference": 0, "error": 0}
    for _ in range(STUDIES):
        first, second = errors_of(simulated(rng, seeds, of_seed, thresholds))
        for name, estimate, truth in (
            ("difference", first.minus(second), truths[0] - truths[1]),
            ("error", first.mean(), truths[0]),
        ):
            held[name] += estimate.low <= truth <= estimate.high
    assert 0.92 <= held["difference"] / STUDIES <= 0.995
    assert 0.92 - 0.12 * of_seed <= held["error"] / STUDIES <= 0.995


def test_pairs_of_images_make_the_interval_narrow():
    rng = np.random.default_rng(0)
    hard = rng.random(1000) < 0.3
    better = hard & (rng.random(1000) < 0.9)
    runs = [[result(wrong[None], 0)] for wrong in (hard, better, rng.permutation(better))]
    first, second, unpaired = errors_of(runs, 1000)
    difference, of_others = first.minus(second), first.minus(unpaired)
    assert difference.value == pytest.approx(of_others.value) and difference.clear
    assert of_others.high - of_others.low > 2 * (difference.high - difference.low)
    # McNemar: of the images on which they disagree, all are in favor of one.
    count = int((hard & ~better).sum())
    half = 1.96 * np.sqrt(count + 1 - count**2 / 1000) / 1000
    assert difference.high - difference.value == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(("images", "clear"), [(0, False), (1, False), (4, False), (6, True)])
def test_few_images_are_as_clear_as_the_exact_test_says(images, clear):
    """The sign test of 4 of 4 gives p = 0.125, that of 6 of 6 gives 0.03."""
    wrong = np.zeros((2, 1, 500), bool)
    wrong[0, 0, :images] = True
    first, second = errors_of([[result(w, 0)] for w in wrong], 500)
    assert first.minus(second).clear == clear


def test_seeds_alone_give_the_interval_of_students_t():
    estimate = uncertainty.interval([0.01, 0.02, 0.06], None, 100)
    half = 4.302653 * np.std([0.01, 0.02, 0.06], ddof=1) / np.sqrt(3)
    assert (estimate.value, estimate.high - estimate.low) == pytest.approx((0.03, 2 * half))
    assert not estimate.clear
    alone = uncertainty.interval([0.01], None, 100)
    assert (alone.low, alone.high, alone.clear) == (None, None, False)


def test_error_is_the_median_over_the_final_epochs_also_of_a_resample():
    wrong = np.zeros((7, 40), bool)
    wrong[:2] = True  # Before the final epochs.
    wrong[2:4, :4] = True
    wrong[4, :10] = True
    wrong[5:, :20] = True
    run = result(wrong, 0)
    assert run["error"] == 0.25 and len(run["wrong"]) == 5
    (resampled,) = uncertainty.resampled_errors([run], 40)
    assert resampled.shape == (uncertainty.RESAMPLES,)
    # The images of the median epoch are in every worse one, and those of a better one in it.
    assert resampled.mean() == pytest.approx(0.25, abs=0.02)
    assert resampled.var() == pytest.approx(0.25 * 0.75 / 40, rel=0.3)


def test_run_that_does_not_name_all_its_images_leaves_the_seeds():
    wrong = np.zeros((1, 40), bool)
    wrong[0, :4] = True
    known, unknown = result(wrong, 0), result(wrong, 1)
    del unknown["wrong"]
    assert uncertainty.resampled_errors([unknown], 40) == [None]
    (errors,) = errors_of([[known, unknown]], 40)
    assert errors.resampled is None
    assert errors.mean().low == errors.mean().high == 0.1


def test_images_are_packed_without_loss():
    wrong = np.random.default_rng(0).random(1001) < 0.5
    text = mistakes.WRONG_IMAGES.encode(wrong)
    np.testing.assert_array_equal(mistakes.WRONG_IMAGES.decode(text, 1001)[:, 0], wrong)
