"""Which runs a comparison plans."""

from dataclasses import replace
from pathlib import Path

import pytest

from tsic.compare.plan import ABLATIONS, ALONE, ablations, jobs, methods
from tsic.config import RunConfig, TeacherConfig
from tsic.config_rules import run_rules
from tsic.errors import ConfigError
from tsic.options import RIVALS, Objective
from tsic.recipes import RECIPES

BASE = RunConfig(
    seed=5,
    max_steps=7,
    teacher=TeacherConfig(name="tiny-sam", lora_rank=2, warmup_steps=3, channels=16),
)


def test_the_student_alone_is_always_there_and_first() -> None:
    assert [one.name for one in methods(BASE, ["cycle"], None)] == [ALONE, "cycle"]
    assert [one.name for one in methods(BASE, ["cycle", ALONE, "cycle"], None)] == [ALONE, "cycle"]


def test_every_method_shares_student_data_and_schedule() -> None:
    variants = methods(BASE, [*RIVALS, *RECIPES], Path("offline"))
    for one in variants:
        config = one.config
        assert (config.student, config.data, config.optim) == (BASE.student, BASE.data, BASE.optim)
        assert config.max_steps == 7
        has_teacher = one.name in RECIPES
        assert (config.teacher.name == "none") is not has_teacher
        assert (config.distill.method == one.name) is (one.name in RIVALS)
    by_name = {one.name: one.config for one in variants}
    assert by_name["mutual"].distill.teacher is None
    assert by_name["kd"].distill.teacher == "offline"
    assert by_name["cycle"] == BASE


def test_other_recipes_take_their_presets_but_keep_the_schedule_and_the_model() -> None:
    paper = {one.name: one.config for one in methods(BASE, ["paper", "release"], None)}
    for name in ("paper", "release"):
        config = paper[name]
        assert config.recipe == name
        assert config.teacher.prompt == "index"
        assert config.teacher.name == "tiny-sam"
        assert config.teacher.warmup_steps == 3
        assert config.objective.temperature == 5.0
    assert paper["paper"].objective.detach_teacher
    assert not paper["release"].objective.detach_teacher


@pytest.mark.parametrize(
    ("base", "names", "said"),
    [
        (BASE, ["cwwd"], "did you mean 'cwd'"),
        (BASE, ["kd"], "--offline"),
        (replace(BASE, teacher=TeacherConfig()), ["cycle"], "teacher.name"),
        (replace(BASE, recipe="paper"), ["cycle"], "configuration of recipe cycle"),
    ],
)
def test_mistakes_are_told(base: RunConfig, names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        methods(base, names, None)


def test_who_stands_in_for_hints_alone_has_none() -> None:
    teacher = replace(BASE.teacher, hints_only=True, hint_cache="hints")
    objective = replace(BASE.objective, feature_loss="hint", feature_weight=3.0)
    base = replace(BASE, teacher=teacher, objective=objective)
    for variant in methods(base, ["kd", "release"], Path("offline")):
        broken = [said for holds, said in run_rules(variant.config) if not holds]
        assert broken == [], variant.name


def test_ablations_vary_one_switch_at_a_time() -> None:
    variants = ablations(BASE, list(ABLATIONS))
    names = [one.name for one in variants]
    assert names[:2] == [ALONE, "cycle"]
    assert "teacher.prompt none" in names
    assert "teacher.prompt class" not in names, "that is the cycle itself"
    assert "objective.ensemble_weight 0.0" not in names, "it is off already"
    assert "objective.kl_weight 0.0" in names
    assert {one.config.teacher.lora_rank for one in variants} == {0, 2, 4, 16}
    assert len({str(one.config) for one in variants}) == len(variants)


def test_an_ablation_named_twice_is_one() -> None:
    names = [one.name for one in ablations(BASE, ["ramp", "teacher.ramp=0.5,1"])]
    assert names == [ALONE, "cycle", "teacher.ramp 0.5", "teacher.ramp 1"]


def test_ablations_take_any_key() -> None:
    by_name = {one.name: one.config for one in ablations(BASE, ["optim.lr=1e-4,2e-3"])}
    assert by_name["optim.lr 1e-4"].optim.lr == 1e-4
    assert by_name["optim.lr 2e-3"].optim.lr == 2e-3
    with pytest.raises(ConfigError, match="unknown key"):
        ablations(BASE, ["optim.lrr=1"])
    with pytest.raises(ConfigError, match="did you mean 'prompt'"):
        ablations(BASE, ["promt"])
    with pytest.raises(ConfigError, match=r"teacher\.prompt"):
        ablations(BASE, ["teacher.prompt=boxes"])


def test_feature_losses_of_no_weight_are_not_compared() -> None:
    off = replace(BASE, objective=Objective(feature_weight=0))
    with pytest.raises(ConfigError, match=r"features: .*feature_weight 0 all .* same run"):
        ablations(off, ["prompt", "features"])
    assert "objective.feature_loss hint" in [one.name for one in ablations(BASE, ["features"])]


def test_jobs_pair_all_variants_by_seed() -> None:
    planned = jobs(methods(BASE, ["cycle"], None), 2)
    assert [(job.name, job.config.seed) for job in planned] == [
        ("alone-seed0", 5),
        ("cycle-seed0", 5),
        ("alone-seed1", 6),
        ("cycle-seed1", 6),
    ]
