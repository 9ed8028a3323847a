"""The report of a study: means, plots, the page."""

import json

import numpy as np
import pytest
import tfgn_cli
from study_runs import fake_result, study
from tfgn_study.data import dataset as data
from tfgn_study.report import page, plots, report, tables
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


def test_report_has_means_spreads_and_the_best():
    text = report.markdown(summary_of(ERRORS))
    assert "| bn | 85.0 (80.0-90.0) | **2.0** |" in text
    assert "| gn | **3.0** | 3.0 |" in text
    assert "| bn | 1.5 | 1.5 |" in text
    assert "| bn | 130 (+30) | 130 (+30) |" in text
    # sqrt(0.03 * 0.97 / 100), of the median cell
    assert "An error of 3.0% on 100\nimages has a standard error of 1.7 points" in text
    assert "`gn`: group normalization" in text and "`ws`" not in text
    assert "at a time" not in text
    assert "Up to 3 runs trained at a time" in report.markdown(summary_of(ERRORS, workers=3))
    assert "diverged |" in report.markdown(summary_of(ERRORS, diverged=True))


def test_configuration_is_json_with_a_line_for_each_entry():
    summary = summary_of(ERRORS)
    text = report.markdown(summary).partition("```json\n")[2].partition("\n```")[0]
    parts = {name: summary[name] for name in ("options", "environment")}
    assert json.loads(text) == parts
    assert text.count("\n") == sum(map(len, parts.values())) + 2 * len(parts) + 1


def test_plot_is_in_the_manner_of_the_paper():
    (axes,) = plots.plot_error(summary_of(ERRORS)).axes
    left, right = axes.get_xlim()
    assert left > right and axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "64"]
    lines = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert list(lines["bn"].get_xdata()) == [1, 64]
    np.testing.assert_allclose(lines["bn"].get_ydata(orig=False), [85, 2])
    np.testing.assert_allclose(lines["gn"].get_ydata(orig=False), [3, 3])
    assert axes.get_yscale() == "log"
    bottom, top = axes.get_ylim()
    assert bottom < 2 and top >= 85


def test_plot_of_similar_or_no_errors_is_linear():
    for error in (0.02, 0.0):
        (axes,) = plots.plot_error(summary_of({("bn", 1): [0.03], ("bn", 2): [error]})).axes
        assert axes.get_yscale() == "linear"


def test_curves_have_a_panel_per_batch_size():
    errors = {("gn", size): [0.1] for size in (1, 2, 4, 8)}
    panels = plots.plot_curves(summary_of(errors)).axes
    assert [axes.get_title() for axes in panels if axes.get_visible()] == [
        f"batch {size}" for size in (8, 4, 2, 1)
    ]


def test_step_time_of_one_step_per_epoch_is_unknown():
    assert "| gn | - |" in report.markdown(summary_of({("gn", 64): [0.1]}, step_ms=None))


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
    assert "<td>bn</td>" in html and "@media print" in html
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
