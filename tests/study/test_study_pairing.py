"""What the norms of a study share, so that their errors can be compared seed by seed."""

import keras
import numpy as np
import pytest
from study_runs import run_config
from tfgn_study import mistakes
from tfgn_study.norms import NORMS
from tfgn_study.train import images, network, worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Images without a rule, so that many are wrong, and not the same ones in each epoch."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (36, 8, 8, 1), np.uint8)
    y = rng.integers(0, 3, 36)
    path = tmp_path_factory.mktemp("arrays") / "data.npz"
    np.savez(path, x_train=x[:16], y_train=y[:16], x_val=x[16:], y_val=y[16:])
    return path


def errors(texts):
    return [mistakes.WRONG_IMAGES.decode(text, 20).mean() for text in texts]


@pytest.mark.parametrize("options", [{"norm": "gn"}, {"norm": "bn+precise", "ema": 0.9}], ids=str)
def test_run_names_the_images_that_its_final_epochs_got_wrong(arrays, options):
    result = worker.train(run_config(epochs=6, **options), arrays, lambda message: None)
    for scores in (result, result.get("running_statistics", result)):
        assert errors(scores["wrong"]) == pytest.approx(scores["history"]["val_error"][1:])
    if "running_statistics" in result:
        assert result["wrong"] != result["running_statistics"]["wrong"]


def test_initial_weights_of_a_seed_are_those_of_every_norm():
    def kernels(norm):
        keras.utils.set_random_seed(3)
        groups = 4 if NORMS[norm].takes_groups else NORMS[norm].groups
        model = network.build(run_config(norm=norm, groups=groups), (8, 8, 1), 3)
        return {w.path: w.numpy() for w in model.weights if w.path.endswith("/kernel")}

    expected = kernels("bn")
    assert len(expected) == 10
    for norm in ("ln", "gn+ws", "gn+pn", "frn", "nf"):
        of_norm = kernels(norm)
        assert of_norm.keys() == expected.keys()
        for path, kernel in expected.items():
            np.testing.assert_array_equal(of_norm[path], kernel, f"{norm}, {path}")


@pytest.mark.parametrize("augment", [False, True])
def test_order_of_the_images_of_a_seed_is_that_of_every_norm_and_batch_size(augment):
    x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)

    def epochs(norm, batch_size):
        run = run_config(norm=norm, batch_size=batch_size, seed=3, augment=augment)
        keras.utils.set_random_seed(run.seed)
        dataset = images.training_set(x, np.arange(16), run)
        return [np.concatenate([batch[part] for batch in dataset]) for part in (0, 1, 0, 1)]

    expected = epochs("bn", 4)
    assert not np.array_equal(expected[1], expected[3])
    for other in (epochs("gn+ws", 4), epochs("bn", 2)):
        for mine, theirs in zip(other, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
