"""The options of a study: each is described once, for the command line, the checks, the report."""

import dataclasses

import pytest
import tfgn_cli
from study_runs import fake_result, run_config, study
from tfgn_study import config, description, options
from tfgn_study.data import dataset as data
from tfgn_study.errors import StudyError
from tfgn_study.norms import NORMS
from tfgn_study.report import report

DESCRIBED = description.describe(options.Options)
#: A value other than the default, for each option that the report describes.
USED = {
    "augment": True,
    "ema": 0.75,
    "clip_norm": 1.5,
    "agc": 0.0625,
    "mixed_precision": "bfloat16",
    "jit": True,
    "save_memory": True,
}


def test_every_field_is_described():
    assert [option.field for option in DESCRIBED] == [
        field.name for field in dataclasses.fields(options.Options)
    ]
    assert all(option.help for option in DESCRIBED)


def test_help_has_every_option_in_its_section(capsys):
    with pytest.raises(SystemExit):
        tfgn_cli.main(["study", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    places = [text.index(f" {section}: ") for section in options.SECTIONS]
    assert places == sorted(places)
    for option in DESCRIBED:
        shown = option.help
        if option.default_text is not None:
            shown += f" (default: {option.default_text})"
        assert f" {option.flag} " in text or f" [{option.flag} " in text
        # The help breaks lines at hyphens, too.
        assert "".join(shown.split()) in "".join(text.split())


@pytest.mark.parametrize("field", USED)
def test_used_option_is_in_the_runs_and_in_the_report(field):
    value = USED[field]
    plain, changed = (study(norms=("gn",), batch_sizes=(4,), **o) for o in ({}, {field: value}))
    run = changed.runs("", "")[0]
    assert getattr(run, field) == value and run.as_dict()[field] == value
    assert field not in plain.runs("", "")[0].as_dict()
    (sentence,) = (option.sentence for option in DESCRIBED if option.field == field)
    texts = []
    for planned in (plain, changed):
        dataset = data.Dataset("squares", planned.out / "data.npz", "digest", 2, 100, 100)
        results = [{"config": r.as_dict(), **fake_result()} for r in planned.runs("", "")]
        texts.append(report.markdown(report.summarize(planned, dataset, {}, results)))
    assert sentence.format(value) not in texts[0]
    assert sentence.format(value) in texts[1]


def test_sentences_are_of_options_that_change_a_run():
    fields = {option.field for option in DESCRIBED if option.sentence is not None}
    assert fields == {*USED, "bit_checkpoint", "tune_learning_rate"}
    assert set(USED) < {field.name for field in dataclasses.fields(options.Training)}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gn-batch4-seed0-dc42684daa06", {}),
        ("gn-batch4-seed0-850813c09da3", {"agc": 0.1}),
        ("gn-batch4-seed0-592bc0379087", {"jit": False}),
        ("gn-batch4-seed0-61b67f57caab", {"jit": True, "ema": 0.9, "augment": True}),
        ("gn-batch4-seed0-4e26b72585a5", {"mixed_precision": "float16", "clip_norm": 1.0}),
        ("gn-batch4-seed0-762778259a3f", {"epochs": 8, "bit_checkpoint": "x"}),
        ("gn-batch4-seed0-5c840e65e795", {"group_size": 4, "groups": None}),
    ],
)
def test_names_of_runs_are_those_of_earlier_versions(name, changes):
    """A study finds its finished runs by these names."""
    assert run_config(**changes).name == name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("digits", 8, 0.5, (0, 1, 2), 2)),
        ({"data": "images"}, ("folder", 64, 0.2, (0,), 1)),
        ({"dataset": "pets"}, ("pets", 128, None, (0,), 1)),
        ({"seeds": (7, 7), "workers": 4, "image_size": 9}, ("digits", 9, 0.5, (7,), 4)),
    ],
)
def test_resolving_fills_in_the_defaults_of_the_data(given, expected):
    asked = options.of(given)
    planned = config.resolve(asked)
    fields = ("dataset", "image_size", "validation_split", "seeds", "workers")
    assert tuple(getattr(planned, field) for field in fields) == expected
    assert asked == options.of(given)
    assert config.resolve(planned) == planned


def test_group_size_replaces_the_groups():
    assert (study(group_size=4).groups, study(group_size=4).group_size) == (None, 4)
    with pytest.raises(StudyError, match="exactly one of --groups and --group-size"):
        study(group_size=4, groups=4)


def test_save_memory_is_for_runs_with_group_norm():
    norms = tuple(NORMS)
    plain, saving = (study(norms=norms, save_memory=given).runs("", "") for given in (False, True))
    changed = {b.norm for a, b in zip(plain, saving, strict=True) if a.name != b.name}
    assert changed == {"ln", "in", "gn", "gn+ws"}
    sentence = "--save-memory must be no, unless one of the norms is ln, in, gn or gn\\+ws"
    with pytest.raises(StudyError, match=sentence):
        study(norms=("bn", "frn", "gn+pn"), save_memory=True)


def test_norms_say_which_options_they_refuse():
    with pytest.raises(StudyError, match="received 'frn:groups=4'"):
        study(norms=("frn:groups=4",))
    for norm in ("gn+pn", "evonorm-s0", "bcn+ws"):
        assert study(norms=(f"{norm}:size=4",)).runs("", "")[0].group_size == 4
        with pytest.raises(StudyError, match="--groups must be a divisor"):
            study(norms=(f"{norm}:groups=5",))
    with pytest.raises(StudyError, match="--epochs must be at least 5 for bn\\+frozen; received 4"):
        study(norms=("bn+frozen",), epochs=4)
    with pytest.raises(StudyError, match="--agc must be left out: bn\\+accumulate"):
        study(norms=("bn+accumulate",), agc=0.1)


def test_a_new_option_needs_one_description():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More(options.Options):
        dropout: float | None = description.option(
            None, range=description.BETWEEN_0_AND_1, sentence="Dropout of {}."
        )

    new = description.describe(More)[-1]
    assert (new.field, new.flag, new.type, new.several) == ("dropout", "--dropout", float, False)
    new.check(None)
    with pytest.raises(StudyError, match="--dropout must be between 0 and 1; received 1"):
        new.check(1)
