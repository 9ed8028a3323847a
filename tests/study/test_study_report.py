"""The report of a study: the verdict, tables, plots, the page."""

import json

import numpy as np
import pytest
import tfgn_cli
from study_runs import fake_result, study
from tfgn_study import mistakes
from tfgn_study.data import dataset as data
from tfgn_study.norms import NORMS
from tfgn_study.report import names, page, plots, report, tables, verdict
from tfgn_study.train import pool


def summary_of(errors, **changes):
    """Returns a summary with the errors given by (norm, batch size), a list over seeds."""
    planned = study(
        norms=tuple(dict.fromkeys(norm for norm, _ in errors)),
        batch_sizes=tuple(size for _, size in errors),
        seeds=tuple(range(max(map(len, errors.values())))),
    )
    dataset = data.Dataset("squares", planned.out / "data.npz", "digest", 2, 100, 100)
    results = [
        {
            "config": run.as_dict(),
            **fake_result(errors[run.norm, run.batch_size][run.seed], **changes),
        }
        for run in planned.runs("", "")
        if run.seed < len(errors.get((run.norm, run.batch_size), ()))
    ]
    return report.summarize(planned, dataset, {"fused": True}, results)


ERRORS = {("bn", 1): [0.8, 0.9], ("bn", 64): [0.02], ("gn", 1): [0.03], ("gn", 64): [0.03]}

#: Three seeds: GN helps at 1, nothing is clear at 4 and 16, GN hurts at 64.
VERDICTS = {
    **{("bn", 1): [0.20, 0.21, 0.22], ("gn", 1): [0.02, 0.03, 0.04]},
    **{("bn", 4): [0.02, 0.03, 0.04], ("gn", 4): [0.03, 0.02, 0.04]},
    **{("bn", 16): [0.03, 0.02, 0.03], ("gn", 16): [0.02, 0.03, 0.03]},
    **{("bn", 64): [0.02, 0.02, 0.03], ("gn", 64): [0.12, 0.13, 0.13]},
}


def test_report_has_means_and_ranges():
    text = report.markdown(summary_of(ERRORS))
    assert "| BN | 85.0 (80.0-90.0) | 2.0 |" in text
    assert "| GN | 3.0 | 3.0 |" in text
    assert "| BN | 1.5 | 1.5 |" in text
    assert "| BN | 130 (+30) | 130 (+30) |" in text
    assert "- **GN** (`gn`): group normalization\n" in text and "`ws`" not in text
    assert "at a time" not in text
    assert "Up to 3 runs trained at a time" in report.markdown(summary_of(ERRORS, workers=3))
    assert "diverged |" in report.markdown(summary_of(ERRORS, diverged=True))


def test_cells_have_differences_to_bn_with_intervals():
    summary = summary_of(VERDICTS)
    cells = {(c["norm"], c["batch_size"]): c for c in summary["cells"]}
    assert summary["reference"] == "bn" and cells["bn", 1]["difference"] is None
    difference = cells["gn", 1]["difference"]
    assert (difference["value"], difference["low"], difference["high"]) == pytest.approx(
        (-0.18, -0.18, -0.18)
    )
    # t of two degrees of freedom, times the standard deviation 0.01, over the root of 3
    half = 4.3027 * np.std([0.01, -0.01, 0], ddof=1) / np.sqrt(3)
    assert cells["gn", 4]["difference"]["high"] == pytest.approx(half, rel=1e-3)
    low, high = cells["bn", 64]["interval"]
    assert low < 0.02 < cells["bn", 64]["error"] < 0.03 < high
    assert summary_of({("gn", 1): [0.1], ("ln", 1): [0.2]})["reference"] == "gn"


def test_verdict_names_what_is_clear_for_neighboring_batch_sizes():
    assert verdict.sentences(summary_of(VERDICTS)) == [
        ("Batch 1", "GN (3.0%) makes fewer errors than BN (21.0%), beyond chance."),
        (
            "Batch 4 and 16",
            "no clear difference between BN (2.7 to 3.0%) and GN (2.7 to 3.0%); one of more than "
            "2.5 points is unlikely.",
        ),
        ("Batch 64", "GN (12.7%) makes more errors than BN (2.3%), beyond chance."),
    ]
    text = report.markdown(summary_of(VERDICTS))
    assert text.index("- **Batch 1:** GN") < text.index("![") < text.index("| BN |")
    assert "| GN | **-18.0 (-18.0 to -18.0)** | +0.0 (-2.5 to +2.5) |" in text
    assert text.count("**-") + text.count("**+") == 2  # Bold are the clear differences alone.
    assert "Each of the 4 differences is judged on its own" in text


def test_verdict_of_one_run_each_is_that_chance_cannot_be_told():
    summary = summary_of({("bn", 4): [0.1], ("gn", 4): [0.2]})
    ((what, text),) = verdict.sentences(summary)
    assert what == "Batch 4" and text.endswith("from one run each, chance cannot be told.")
    assert "chance cannot be told. Train with more seeds" in report.markdown(summary)
    assert summary["cells"][0]["interval"] is None
    assert verdict.sentences(summary_of({("gn", 4): [0.1, 0.2]})) == []


def test_verdict_of_one_seed_rests_on_the_images():
    flags = np.arange(100) < 30
    errors = {("bn", 4): [0.3], ("gn", 4): [0.3]}
    summary = summary_of(errors, wrong=[mistakes.WRONG_IMAGES.encode(flags)])
    assert "chance cannot" not in verdict.sentences(summary)[0][1]
    assert "With one seed they cover the choice of the validation images alone" in report.markdown(
        summary
    )


def test_verdict_counts_the_runs_that_diverged():
    (_, text), *_ = verdict.sentences(summary_of(VERDICTS, diverged=True))
    assert "BN (21.0%, 3 runs diverged)" in text


def test_verdict_says_how_much_of_the_error_is_evaluation_statistics():
    errors = {
        **{("bn", 1): [0.20, 0.21, 0.22], ("bn", 64): [0.02, 0.03, 0.04]},
        **{("bn+precise", 1): [0.08, 0.09, 0.10], ("bn+precise", 64): [0.03, 0.02, 0.04]},
        **{("gn", 1): [0.04, 0.05, 0.06], ("gn", 64): [0.02, 0.03, 0.04]},
    }
    what, text = verdict.sentences(summary_of(errors))[-1]
    assert what == "Evaluation statistics"
    assert text == (
        "measured anew over the training images, they lower the error of BN by 12.0 points at "
        "batch 1 (12.0 to 12.0; 75% of the 16.0 points that lie between BN and GN); no gain seen "
        "at batch 64."
    )
    same = {key: [0.1, 0.1] for key in errors}
    assert "at no batch size beyond chance" in verdict.sentences(summary_of(same))[-1][1]


@pytest.mark.parametrize(
    ("epochs", "text"), [(1, "the only epoch"), (3, "the last 3 epochs"), (8, "the last 5 epochs")]
)
def test_final_epochs_are_at_most_those_of_the_study(epochs, text):
    answer = summary_of(ERRORS)
    answer["options"]["epochs"] = epochs
    (line,) = (x for x in report.markdown(answer).splitlines() if "Validation error: " in x)
    assert text in line


def test_preset_on_the_digits_says_that_they_are_too_easy():
    summary = summary_of(VERDICTS)
    assert "too easy" not in report.markdown(summary)
    summary["options"]["preset"] = "gn-fig1"
    assert "too easy a task to show" in report.markdown(summary)
    summary["options"]["dataset"] = "folder"
    assert "too easy" not in report.markdown(summary)


def test_grid_of_learning_rates_is_a_table():
    summary = summary_of({("gn", 4): [0.1], ("gn", 16): [0.1]})
    assert "Learning rates tried" not in report.markdown(summary)
    trials = [
        {"learning_rate": 0.05, "error": 0.3, "loss": 1.0, "diverged": False},
        {"learning_rate": 0.2, "error": 0.9, "loss": None, "diverged": True},
    ]
    cell = {"model": "resnet8", "norm": "gn", "learning_rate": 0.05, "trials": trials}
    summary["tuning"] = [
        cell | {"batch_size": 4, "edge": True},
        cell | {"batch_size": 16, "edge": False},
    ]
    text = report.markdown(summary)
    assert "| norm | batch | 0.05 | 0.2 |" in text
    assert "| GN | 4 | **30.0** | diverged |" in text
    assert "the highest one tried for GN at batch 4: a rate beyond" in text


def test_every_norm_has_a_name_and_looks_of_its_own():
    assert set(names.LABELS) == set(plots.STYLES) == set(NORMS)
    assert len(set(names.LABELS.values())) == len(set(plots.STYLES.values())) == len(NORMS)
    assert names.label("gn:groups=4") == "GN with 4 groups"
    assert names.label("gn:size=1") == "GN with 1 channel per group"


def test_configuration_is_json_with_a_line_for_each_entry():
    summary = summary_of(ERRORS)
    text = report.markdown(summary).partition("```json\n")[2].partition("\n```")[0]
    parts = {name: summary[name] for name in ("options", "environment")}
    assert json.loads(text) == parts
    assert text.count("\n") == sum(map(len, parts.values())) + 2 * len(parts) + 1


def points(axes):
    """The positions, the values and whether the marker is filled, by the bars of a panel."""
    lines = [bars.lines[0] for bars in axes.containers]
    return [
        (round(x), y, line.get_markerfacecolor() != "white")
        for line in lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_plot_has_errors_and_differences_in_the_order_of_the_table():
    errors, differences = plots.plot_error(summary_of(VERDICTS)).axes
    for axes in (errors, differences):
        left, right = axes.get_xlim()
        assert left < right
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4", "16", "64"]
    assert [(x, round(y, 1)) for x, y, _ in points(errors)] == [
        *((0, 21.0), (1, 3.0), (2, 2.7), (3, 2.3)),
        *((0, 3.0), (1, 3.0), (2, 2.7), (3, 12.7)),
    ]
    # Filled is what is clear.
    expected = [(0, -18.0, True), (1, 0.0, False), (2, 0.0, False), (3, 10.3, True)]
    assert [(x, round(y, 1) + 0.0, filled) for x, y, filled in points(differences)] == expected
    assert errors.get_yscale() == "log" and "log scale" in errors.get_ylabel()
    assert errors.get_ylim()[0] < 2 and errors.get_ylim()[1] >= 21
    assert differences.get_ylabel() == "difference to BN\nin points"
    (segments,) = differences.containers[1].lines[2]
    (low, high) = segments.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((-2.48, 2.48), abs=0.01)


def test_plot_of_few_large_differences_shows_the_small_ones():
    errors = {("bn", size): [0.02, 0.03] for size in (2, 4, 8)} | {("bn", 1): [0.9, 0.91]}
    errors |= {("gn", size): [0.021, 0.029] for size in (1, 2, 4, 8)}
    _, differences = plots.plot_error(summary_of(errors)).axes
    assert differences.get_yscale() == "symlog" and "log scale" in differences.get_ylabel()


def test_plot_of_similar_or_no_errors_is_linear():
    for error in (0.02, 0.0):
        (axes,) = plots.plot_error(summary_of({("bn", 1): [0.03], ("bn", 2): [error]})).axes
        assert axes.get_yscale() == "linear" and axes.get_ylabel() == "validation error in %"


def test_curves_have_a_panel_per_batch_size():
    errors = {("gn", size): [0.1] for size in (1, 2, 4, 8)}
    panels = plots.plot_curves(summary_of(errors)).axes
    assert [axes.get_title() for axes in panels if axes.get_visible()] == [
        f"batch {size}" for size in (1, 2, 4, 8)
    ]


def test_step_time_of_one_step_per_epoch_is_unknown():
    assert "| GN | - |" in report.markdown(summary_of({("gn", 64): [0.1]}, step_ms=None))


@pytest.fixture
def untrained(monkeypatch):
    """Replaces the training: every run ends with an error of a quarter."""

    def fake_train(configs, path, folder, workers, arguments):
        for run in configs:
            yield run, {"result": fake_result()}

    monkeypatch.setattr(pool, "train", fake_train)


@pytest.mark.usefixtures("untrained")
def test_page_needs_no_other_file(tmp_path):
    assert tfgn_cli.main(["study", "--batch-sizes", "1,4", "--out", str(tmp_path)]) == 0
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 2 and "<img" not in html and "report.css" not in html
    assert "<p><figure" not in html and "error_vs_batch.png" not in html
    assert "<td>BN</td>" in html and "@media print" in html
    identifiers = [part.partition('"')[0] for part in html.split('clipPath id="')[1:]]
    assert len(identifiers) == len(set(identifiers)) > 2
    answer = json.loads((tmp_path / "results.json").read_text())
    assert tables.runs(answer).count("\n") == 1 + len(answer["runs"]) == 1 + 3 * 2 * 3
    assert report.markdown(answer) == (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("untrained")
def test_each_figure_is_drawn_once(tmp_path, monkeypatch):
    made = []
    figure = plots.Figure
    monkeypatch.setattr(plots, "Figure", lambda **size: made.append(figure(**size)) or made[-1])
    argv = ["study", "--norms", "gn:groups=2,gn:groups=4", "--batch-sizes", "4,8"]
    assert tfgn_cli.main([*argv, "--out", str(tmp_path)]) == 0
    names = ["curves", "error_vs_batch", "error_vs_groups"]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == names
    assert (tmp_path / "report.html").read_text().count("<svg") == len(made) == len(names)


def test_page_draws_plots_and_leaves_other_images_out():
    markdown = "# Title\n\n![a < b](plot.png)\n\nText ![spy](http://example.com/spy.png).\n"
    html = page.render(markdown, {"plot": "<svg>1</svg>"})
    assert '\n<figure role="img" aria-label="a &lt; b"><svg>1</svg></figure>\n' in html
    assert "<p>Text spy.</p>" in html and "example.com" not in html
