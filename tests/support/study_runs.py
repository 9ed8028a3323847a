"""Studies and runs: options, configurations, and results without a training."""

from tfgn_study import config, options


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
