"""Which runs a comparison plans."""

from dataclasses import replace
from pathlib import Path

import pytest

from tsic.compare.plan import ABLATIONS, ALONE, ablations, as_read, jobs, methods, run_name
from tsic.config import DistillConfig, RunConfig, TeacherConfig
from tsic.config_rules import broken_in_run
from tsic.errors import ConfigError
from tsic.options import RIVALS, Objective
from tsic.recipes import RECIPES

BASE = RunConfig(
    seed=5,
    max_steps=7,
    teacher=TeacherConfig(name="tiny-sam", lora_rank=2, warmup_steps=3, channels=16),
)

INDEX = replace(BASE, teacher=replace(BASE.teacher, prompt="index"))
WITHOUT_KL = replace(BASE, objective=replace(BASE.objective, kl_weight=0.0))
UNPROMPTED = replace(BASE, teacher=replace(BASE.teacher, prompt="none", gradient="stop"))
HINTS = replace(
    BASE,
    teacher=replace(BASE.teacher, hints_only=True, hint_cache="hints"),
    objective=replace(BASE.objective, feature_loss="hint", feature_weight=3.0),
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


def test_who_has_no_prompted_teacher_does_not_depend_on_the_cycles_keys() -> None:
    """Else a change of the cycle's would ask to train the student alone and all rivals anew."""
    changed = replace(
        BASE,
        teacher=replace(BASE.teacher, lora_rank=8, ramp=0.5),
        objective=replace(BASE.objective, kl_weight=3.0, feature_loss="attention"),
        optim=replace(BASE.optim, teacher_lr=1e-4),
    )
    runs = [methods(base, [ALONE, "kd", "mutual"], Path("offline")) for base in (BASE, changed)]
    assert runs[0] == runs[1]
    shared = replace(BASE, objective=replace(BASE.objective, ohem=True))
    assert methods(shared, [ALONE], None)[0].config.objective.ohem


def test_the_student_alone_is_alone_whatever_method_a_configuration_names() -> None:
    taught = replace(BASE, teacher=TeacherConfig(), distill=DistillConfig("mutual", weight=2.0))
    assert methods(taught, [ALONE], None)[0].config.distill == DistillConfig()


def test_whoever_has_a_teacher_is_taught_on_images_without_labels() -> None:
    photos = replace(
        BASE,
        data=replace(BASE.data, unlabelled="photos", unlabelled_share=0.25),
        objective=replace(BASE.objective, kl_where="everywhere"),
    )
    variants = methods(photos, [ALONE, "kd", "mutual", "cycle"], Path("offline"))
    assert [one.config.data for one in variants] == [BASE.data, *[photos.data] * 3]


def test_a_method_may_be_trained_for_longer_and_is_validated_as_often() -> None:
    variants = methods(BASE, ["alone:3", "cycle:0.5"], None)
    assert [one.name for one in variants] == [ALONE, "alone:3", "cycle:0.5"]
    alone, longer, shorter = (one.config for one in variants)
    every = alone.trainer.val_every
    assert (longer.max_steps, longer.trainer.val_every) == (21, 3 * every)
    assert (shorter.max_steps, shorter.trainer.val_every) == (4, every // 2)
    assert replace(longer, max_steps=7, trainer=alone.trainer) == alone
    assert shorter.teacher == BASE.teacher
    assert run_name("alone:3", 0) == "alone_3-seed0"


def test_other_recipes_take_their_presets_but_keep_the_schedule_and_the_model() -> None:
    own = replace(
        BASE,
        teacher=replace(BASE.teacher, rounds=2, scale=2.0),
        objective=replace(BASE.objective, teacher_weight=0.5),
    )
    paper = {one.name: one.config for one in methods(own, ["paper", "release"], None)}
    for name in ("paper", "release"):
        config = paper[name]
        assert config.recipe == name
        assert config.teacher.prompt == "index"
        assert config.teacher.rounds == 1
        assert config.teacher.scale == 1.0
        assert config.teacher.name == "tiny-sam"
        assert config.teacher.warmup_steps == 3
        assert config.objective.temperature == 5.0
        assert config.objective.teacher_weight == 1.0
    assert paper["paper"].objective.detach_teacher
    assert not paper["release"].objective.detach_teacher


@pytest.mark.parametrize(
    ("base", "names", "said"),
    [
        (BASE, ["cwwd"], "did you mean 'cwd'"),
        (BASE, ["kd"], "--offline"),
        (BASE, ["cwwd:3"], "did you mean 'cwd'"),
        *(
            (BASE, [f"alone:{said}"], "a number above 0")
            for said in ("", "0", "-1", "x", "nan", "9" * 400)
        ),
        (replace(BASE, teacher=TeacherConfig()), ["cycle"], "teacher.name"),
        (replace(BASE, recipe="paper"), ["cycle"], "configuration of recipe cycle"),
        (
            replace(BASE, data=replace(BASE.data, batch_size=1)),
            ["release"],
            "method release: teacher.mapping uper-released normalises over the images",
        ),
    ],
)
def test_mistakes_are_told(base: RunConfig, names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        methods(base, names, None)


def test_who_stands_in_for_hints_alone_has_none() -> None:
    for variant in methods(HINTS, ["kd", "release"], Path("offline")):
        broken = list(broken_in_run(variant.config))
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


def test_shares_of_as_many_images_are_one_ablation() -> None:
    shares = ["data.unlabelled_share=0.25,0.45,0.5"]
    with pytest.raises(ConfigError, match="none of its values makes a run that differs"):
        ablations(BASE, shares)
    photos = replace(
        BASE,
        data=replace(BASE.data, unlabelled="photos", batch_size=6),
        objective=replace(BASE.objective, kl_where="everywhere"),
    )
    names = [one.name for one in ablations(photos, shares)]
    assert names == [ALONE, "cycle", "data.unlabelled_share 0.25"]


def test_ablations_take_any_key_of_the_cycles_own() -> None:
    by_name = {one.name: one.config for one in ablations(BASE, ["optim.teacher_lr=1e-4,2e-3"])}
    assert by_name["optim.teacher_lr 1e-4"].optim.teacher_lr == 1e-4
    assert by_name["optim.teacher_lr 2e-3"].optim.teacher_lr == 2e-3
    with pytest.raises(ConfigError, match="unknown key"):
        ablations(BASE, ["optim.lrr=1"])
    with pytest.raises(ConfigError, match="unknown key 'seeds'"):
        ablations(BASE, ["seeds=1"])
    with pytest.raises(ConfigError, match="did you mean 'prompt'"):
        ablations(BASE, ["promt"])
    with pytest.raises(ConfigError, match=r"--ablate teacher\.prompt=boxes: teacher\.prompt must"):
        ablations(BASE, ["teacher.prompt=boxes"])


@pytest.mark.parametrize(
    "key", ["optim.lr=1", "trainer.devices=2", "objective.ohem=true", "seed=3"]
)
def test_what_the_student_alone_reads_too_is_not_ablated(key: str) -> None:
    with pytest.raises(ConfigError, match="is none of the cycle's own"):
        ablations(BASE, [key])


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (
            replace(BASE, objective=Objective(feature_weight=0)),
            "objective.feature_loss=attention",
        ),
        (BASE, "teacher.channels=16"),
        (replace(BASE, teacher=replace(BASE.teacher, channels=None)), "teacher.channels=128"),
        (BASE, "optim.teacher_lr=1e-3"),
        (BASE, "objective.detach_ensemble=false"),
        (BASE, "teacher.hint_side=512"),
        *((UNPROMPTED, name) for name in ("rounds", "gradient", "teacher.max_classes=4")),
        *((UNPROMPTED, f"objective.mask_weight={weight}") for weight in (0, 3)),
        *((INDEX, name) for name in ("gradient", "teacher.max_classes=2")),
        *((WITHOUT_KL, name) for name in ("ramp", "objective.temperature=2")),
        *((HINTS, name) for name in ("prompt", "lora", "ramp", "hints", "objective.kl_weight=0")),
    ],
)
def test_a_switch_that_changes_nothing_is_refused(base: RunConfig, name: str) -> None:
    with pytest.raises(ConfigError, match=f"--ablate {name}: none of its values makes a run"):
        ablations(base, [name])


def test_a_value_that_is_the_default_anyway_is_no_row() -> None:
    base = replace(BASE, teacher=replace(BASE.teacher, channels=None))
    names = [one.name for one in ablations(base, ["size"])]
    assert names == [ALONE, "cycle", "teacher.channels 32", "teacher.channels 64"]
    assert "objective.feature_weight 1" in [
        one.name for one in ablations(HINTS, ["objective.feature_weight=1"])
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [("teacher.warmup_steps=7", "none of max_steps 7"), ("teacher.name=none", "needs a teacher")],
)
def test_every_row_has_a_teacher_that_acts(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--ablate .*{said}"):
        ablations(BASE, [name])


def test_jobs_pair_all_variants_by_seed() -> None:
    planned = jobs(methods(BASE, ["cycle"], None), 2)
    assert [(job.name, job.config.seed) for job in planned] == [
        ("alone-seed5", 5),
        ("cycle-seed5", 5),
        ("alone-seed6", 6),
        ("cycle-seed6", 6),
    ]


def test_a_run_is_a_folder_of_its_own_whatever_its_value() -> None:
    assert run_name("teacher.name ../a/sam.pth", 1) == "teacher.name_.._a_sam.pth-seed1"
    assert run_name("teacher.hints_only True, objective.feature_loss hint", 0) == (
        "teacher.hints_only_True_objective.feature_loss_hint-seed0"
    )


def test_keys_of_published_methods_make_no_other_run_of_the_cycle() -> None:
    base = RunConfig(teacher=TeacherConfig(name="tiny-sam"), max_steps=1000)
    names = ["mutual", "kd", "cycle", "paper"]
    before = methods(base, names, Path("offline"))
    for keyed, same in (
        (DistillConfig(weight=2.0), (True, False, False, True, True)),
        (DistillConfig(role="teacher"), (True, True, False, True, True)),
    ):
        after = methods(replace(base, distill=keyed), names, Path("offline"))
        pairs = zip(before, after, strict=True)
        assert tuple(as_read(one.config) == as_read(other.config) for one, other in pairs) == same


def test_a_method_of_ones_own_may_have_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsic.rivals.at import At

    monkeypatch.setattr(At, "teacher", "peer")
    (_, own) = methods(RunConfig(), ["at"], None)
    assert own.config.distill == DistillConfig(method="at")
