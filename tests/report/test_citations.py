"""References: every key has an entry, every entry is well formed, and what a run used is found."""

import importlib.util
import re

import pytest

from workbench.report import citations


def test_every_entry_is_well_formed():
    entries = citations.entries()
    for key, entry in entries.items():
        assert re.match(rf"@[a-z]+\{{{key},\n", entry) and entry.endswith("\n}")
        assert entry.count("{") == entry.count("}")
        assert "title" in entry and "author" in entry
    assert len(entries) == citations.FILE.read_text(encoding="utf-8").count("\n@") + 1


def test_every_key_has_an_entry_and_every_entry_a_use():
    keys = {key for table in (citations.CLASSES, citations.SETTINGS) for found in table.values() for key in found}
    keys |= {*citations.SCORING, *citations.PACKAGES}
    assert keys == set(citations.entries())


def test_every_cited_class_exists():
    for path in citations.CLASSES:
        module, _, name = path.rpartition(".")
        origin = importlib.util.find_spec(module).origin
        with open(origin) as file:
            assert re.search(rf"\b{name}\b", file.read())


@pytest.mark.parametrize("path", ["FNO", "workbench.models.FNO", "workbench.models.fno.FNO"])
def test_a_class_is_found_by_any_of_its_names(path):
    config = {"model": {"class_path": "ForecastTask", "init_args": {"network": {"class_path": path}}}}
    found = citations.used(config, scored=False)
    assert found[:2] == ["loshchilov2019decoupled", "li2021fourier"] and "kunsch1989jackknife" not in found


def test_another_class_of_that_name_is_not_cited():
    assert "li2021fourier" not in citations.used({"model": {"class_path": "other.FNO"}}, scored=True)


def test_settings_and_scores_bring_their_papers():
    config = {"model": {"init_args": {"unroll": "pushforward"}}, "data": {"unroll": "pushforward"}}
    found = citations.used(config, scored=True)
    assert found[:3] == ["brandstetter2022message", "kunsch1989jackknife", "politis1992circular"]
    assert "brandstetter2022message" not in citations.used({"model": {"unroll": "full"}}, scored=True)


def test_data_entry():
    assert citations.data_entry("@misc{x,\n title={T}\n}\n", "", "") == "@misc{x,\n title={T}\n}"
    entry = citations.data_entry("Kalnay (1996)", "NCEP}", "")
    assert entry == "@misc{data,\n  title = {NCEP)},\n  note = {Kalnay (1996)}\n}"
    assert citations.data_entry("", "", "") == ""
