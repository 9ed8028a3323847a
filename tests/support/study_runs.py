"""Studies and runs: options, configurations, and results without a training."""

import numpy as np
from PIL import Image
from tfgn_study import config, options


def two_classes(root, count, size, dark, bright, endings=("png",)):
    """Writes two classes of images that a mean tells apart; returns the folder.

    Args:
        root: the folder of the class folders.
        count: images per class.
        size: height and width.
        dark: lowest and highest value, exclusive, of the pixels of one class.
        bright: the same of the other class.
        endings: of the files, in turn.
    """
    rng = np.random.default_rng(0)
    for name, (low, high) in (("dark", dark), ("bright", bright)):
        (root / name).mkdir()
        for i in range(count):
            pixels = rng.integers(low, high, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.{endings[i % len(endings)]}")
    return root


def study(**given):
    """The study of a user who gives these options."""
    return config.resolve(options.of(given))


def run_config(**changes):
    values = {"norm": "gn", "batch_size": 4, "seed": 0, "epochs": 1, "learning_rate": 0.1}
    values |= {"groups": 8, "group_size": None, "model": "resnet8", "data": "", "software": ""}
    return config.RunConfig(**(values | changes))


def fake_result(error=0.25, **changes):
    history = {key: [error] for key in ("loss", "train_error", "val_loss", "val_error")}
    result = {"history": history, "error": error, "diverged": False, "parameters": 1}
    result |= {"step_ms": 1.5, "seconds": 2.0, "baseline_mib": 100.0, "peak_mib": 130.0}
    return result | changes


def no_track(files, text):
    """A progress bar's interface, without a bar."""
    return files
