from pathlib import Path

import pytest

from gpt2spec.cli.train import assignments, merge
from gpt2spec.errors import ConfigError
from gpt2spec.optimizer import AdamW
from gpt2spec.training.recipes import RECIPES
from gpt2spec.training.settings import RunSettings, read_toml, settings_from, write_toml


def test_defaults_come_from_preset_and_recipe() -> None:
    settings = RunSettings(preset="gpt2", steps=100_000).resolved()
    assert (settings.context, settings.warmup, settings.dropout) == (1024, 2000, 0.1)
    assert settings.lr == pytest.approx(2.5e-4 * 1600 / 768)
    assert RunSettings(preset="gpt2-xl").resolved().lr == pytest.approx(2.5e-4)
    assert settings.adamw() == AdamW(0.9, 0.95, 1e-8, 0.01, "all", 0.0)


def test_warm_up_takes_at_most_a_tenth_of_a_run() -> None:
    assert RunSettings(steps=200).resolved().warmup == 20
    assert RunSettings(steps=200, warmup=150).resolved().warmup == 150


def test_explicit_settings_win_over_recipe_and_preset() -> None:
    settings = RunSettings(
        preset="gpt2",
        recipe="nanogpt",
        lr=1e-3,
        dropout=0.2,
        model={"n_layer": 3},
        optimizer={"clip": 0.5},
    ).resolved()
    assert settings.lr == 1e-3
    assert settings.model_config().dropout == 0.2
    assert settings.model_config().n_layer == 3
    assert settings.adamw() == AdamW(weight_decay=0.1, decay="matrices", clip=0.5)
    assert RunSettings(preset="gpt2", recipe="nanogpt").model_config().dropout == 0.0


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_every_size(name: str) -> None:
    settings = RunSettings(recipe=name, preset="gpt2-medium", steps=1000)
    schedule = settings.schedule()
    assert schedule(schedule.warmup) == pytest.approx(RECIPES[name].peak_lr * RECIPES[name].at_width / 1024)
    assert schedule(1000) == pytest.approx(schedule.peak * RECIPES[name].final_fraction)


def test_resolving_twice_changes_nothing() -> None:
    once = RunSettings(preset="micro", recipe="llmc").resolved()
    assert once.resolved() == once


def test_toml_round_trip(tmp_path: Path) -> None:
    settings = RunSettings(preset="micro", data="a\\b ü", optimizer={"clip": 1.0}).resolved()
    write_toml(tmp_path / "run.toml", settings)
    assert settings_from(read_toml(tmp_path / "run.toml"), "run.toml") == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "'step' (did you mean 'steps'?)"),
        ({"steps": 0}, "steps is at least 1, not 0"),
        ({"steps": 1.5}, "steps is a whole number, not 1.5"),
        ({"steps": True}, "steps is a whole number, not True"),
        ({"lr": "fast"}, "lr is a number, not 'fast'"),
        ({"keep": 1}, "keep is at least 2"),
        ({"seed": -1}, "seed is at least 0"),
        ({"preset": "nanno"}, "did you mean 'nano'?"),
        ({"recipe": "nanogtp"}, "did you mean 'nanogpt'?"),
        ({"model": {"n_layers": 2}}, "did you mean 'n_layer'?"),
        ({"optimizer": {"beta_1": 0.8}}, "did you mean 'beta1'?"),
        ({"optimizer": {"beta1": "abc"}}, "beta1 is a finite number, not 'abc'"),
        ({"optimizer": {"clip": float("inf")}}, "clip is a finite number, not inf"),
        ({"optimizer": 3}, "optimizer is a table, not 3"),
        ({"preset": 3}, "preset is a text, not 3"),
        ({"context": 129}, "n_ctx = 128, not 129"),
        ({"lr": 0.0}, "a learning rate is above 0"),
        ({"warmup": 500, "steps": 100}, "warm-up has from 0 to 100 updates"),
        ({"dropout": 1.0}, "dropout is a probability"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from(values, "run.toml").resolved().schedule()
    assert message in str(caught.value)


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("steps = 3\nlr = = 1\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_toml(tmp_path / "run.toml")
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "absent.toml")


def test_command_line_assignments() -> None:
    table = assignments(["model.n_layer=4", "optimizer.clip=1.0", "backend_options.mode=reference", "data='a b'"])
    assert table == {
        "model": {"n_layer": 4},
        "optimizer": {"clip": 1.0},
        "backend_options": {"mode": "reference"},
        "data": "a b",
    }
    assert assignments(["tensorboard=true", "verify_data=false"]) == {"tensorboard": True, "verify_data": False}
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        assignments(["steps"])
    for text in ("steps=a b", "a b=c", "steps="):
        with pytest.raises(ConfigError, match="neither TOML nor a word"):
            assignments([text])


def test_merging_keeps_what_is_not_overridden() -> None:
    assert merge({"a": 1, "m": {"x": 1, "y": 2}}, {"m": {"y": 3}}) == {"a": 1, "m": {"x": 1, "y": 3}}
