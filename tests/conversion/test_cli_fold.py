"""`tfgn fold`."""

import keras
import numpy as np
import pytest
import small_resnet
import tensorflow_groupnorm as tfgn
import tfgn_cli
from export_models import built

# Keras reads its variables through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def saved(tmp_path):
    built(small_resnet.build).save(tmp_path / "in.keras")
    return tmp_path / "in.keras"


def test_folds_a_file(saved, tmp_path, capsys):
    out = tmp_path / "out.keras"
    assert tfgn_cli.main(["fold", str(saved), str(out)]) == 0
    assert f"saved {out}; it loads without `import tensorflow_groupnorm`" in capsys.readouterr().out
    model, folded = keras.saving.load_model(saved), keras.saving.load_model(out)
    assert {type(layer).__module__.partition(".")[0] for layer in folded.layers} == {"keras"}
    images = small_resnet.IMAGES
    np.testing.assert_allclose(folded(images), model(images), rtol=1e-4, atol=1e-4)
    assert tfgn_cli.main(["fold", str(saved), str(out), "--overwrite", "--norm", "none"]) == 0
    assert "it loads after `import tensorflow_groupnorm`" in capsys.readouterr().out
    kept = [type(layer) for layer in keras.saving.load_model(out).layers]
    assert kept.count(tfgn.layers.GroupNormalization) == 2


def test_what_cannot_be_folded_is_one_sentence(saved, tmp_path, capsys):
    out = tmp_path / "out.keras"
    assert tfgn_cli.main(["fold", str(saved), str(out), "--tolerance", "0"]) == 1
    error = capsys.readouterr().err
    assert "tfgn: The folded model differs from the model" in error and error.count("\n") == 1
    inputs = keras.Input((5, 4))
    masked = tfgn.layers.GroupNormalization(2, use_mask=True, name="masked")(inputs)
    keras.Model(inputs, masked).save(saved)
    assert tfgn_cli.main(["fold", str(saved), str(out)]) == 1
    assert "tfgn: 'masked' leaves masked positions out" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["missing.keras", "out.keras"], "argument IN: there is no file missing.keras"),
        (["{file}", "out.h5"], "argument OUT.keras: expected a name that ends in .keras"),
        (["{file}", "{file}"], "exists already; --overwrite replaces it"),
        (["{file}", "out.keras", "--tolerance", "-1"], "expected a number >= 0, received -1.0"),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, tmp_path, capsys):
    file = tmp_path / "model.keras"
    file.touch()
    with pytest.raises(SystemExit) as exit_:
        tfgn_cli.main(["fold", *(option.format(file=file) for option in options)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("tfgn fold: error: ") and sentence in error and error.count("\n") == 1
