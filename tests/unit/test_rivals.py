"""Published methods: values computed by hand, ignored pixels, and who gets a gradient."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsic.errors import ConfigError
from tsic.options import RIVALS
from tsic.rivals import Rival, Signals, Sizes, rival_class
from tsic.rivals.afdcd import MASKED, AfDcd, omni_contrast
from tsic.rivals.at import attention_transfer
from tsic.rivals.cirkd import PIXELS_PER_CLASS, Queue, cross_image, to_memory
from tsic.rivals.cwd import channel_wise
from tsic.rivals.dist import relations
from tsic.rivals.fitnet import hint
from tsic.rivals.ifvd import intra_class_variation
from tsic.rivals.skd import pair_wise

SIZES = Sizes(classes=3, student=4, teacher=5)
OFFLINE = [name for name in RIVALS if name != "mutual"]
LABELS = torch.tensor([[[0, 0, 1, 255], [2, 1, 1, 255]], [[255, 0, 2, 2], [1, 1, 0, 2]]])
FINE = LABELS.repeat_interleave(2, 1)  # the logits' grid is another than the features'
FINE[0, 0, 0] = 255
Vector = list[float]


@pytest.fixture
def signals() -> Signals:
    return Signals(
        student_logits=torch.randn(2, 3, 4, 4, requires_grad=True),
        teacher_logits=torch.randn(2, 3, 4, 4, requires_grad=True),
        labels=FINE,
        student_features=torch.randn(2, 4, 2, 4, requires_grad=True),
        teacher_features=torch.randn(2, 5, 2, 4, requires_grad=True),
        feature_labels=LABELS,
    )


def build(name: str, sizes: Sizes = SIZES) -> Rival:
    torch.manual_seed(3)
    return rival_class(name)(sizes)


def losses(rival: Rival, signals: Signals) -> dict[str, Tensor]:
    """A method's losses with the same draws each time."""
    torch.manual_seed(5)
    return rival(signals)


def test_every_file_is_a_method() -> None:
    methods = [
        "afdcd",
        "at",
        "cirkd",
        "cwd",
        "cwd_features",
        "dist",
        "fitnet",
        "ifvd",
        "kd",
        "mutual",
        "skd",
    ]
    assert list(RIVALS) == methods
    assert len({type(build(name)) for name in RIVALS}) == len(methods)
    with pytest.raises(ConfigError, match="'nothing' is no method"):
        rival_class("nothing")


def test_a_method_s_file_that_holds_two_of_them_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    second = type("Second", (Rival,), {"__module__": "tsic.rivals.kd"})
    monkeypatch.setattr("tsic.rivals.kd.Second", second, raising=False)
    with pytest.raises(ConfigError, match=r"rivals/kd.py must hold one class .* holds Kd, Second"):
        rival_class("kd")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("afdcd", {"afdcd_completion": 5 * 0.0162, "afdcd_contrast": 0.01}),
        ("at", {"at": 10_000 / (64 * 128)}),
        ("cwd", {"cwd": 3}),
        ("cwd_features", {"cwd_features": 50}),
        ("dist", {"dist_inter": 1, "dist_intra": 1}),
        ("fitnet", {"fitnet": 10}),
        ("ifvd", {"ifvd": 20}),
        ("skd", {"skd": 10}),
        ("cirkd", {"cirkd_batch": 1}),
    ],
)
def test_methods_weigh_their_losses(
    name: str, expected: dict[str, float], signals: Signals
) -> None:
    rival = build(name).eval()
    s, t, labels = signals.student_features, signals.teacher_features, signals.feature_labels
    logits = signals.student_logits, signals.teacher_logits, signals.labels
    project = getattr(rival, "project", nn.Identity())
    projected = project(s)
    completed = getattr(rival, "complete", nn.Identity())(projected * (labels != 255)[:, None])
    bare = {
        "afdcd_completion": lambda: hint(completed, t, labels),
        "afdcd_contrast": lambda: omni_contrast(completed, t, labels, groups=5),
        "at": lambda: attention_transfer(s, t, labels),
        "cwd": lambda: channel_wise(*logits, temperature=4),
        "cwd_features": lambda: channel_wise(projected, t, labels, temperature=4),
        "dist_inter": lambda: relations(*logits)[0],
        "dist_intra": lambda: relations(*logits)[1],
        "fitnet": lambda: hint(projected, t, labels),
        "ifvd": lambda: intra_class_variation(s, t, labels, 3),
        "skd": lambda: pair_wise(s, t, labels),
        "cirkd_batch": lambda: cross_image(s, t, labels),
    }
    found = losses(rival, signals)
    for one, weight in expected.items():
        torch.testing.assert_close(found.pop(one), weight * bare[one]())
    beside = {"dist": set(), "cirkd": {"kd", "cirkd_pixels", "cirkd_regions"}}.get(name, {"kd"})
    assert set(found) == beside


def test_kd_and_mutual_by_hand(signals: Signals) -> None:
    student, teacher = (
        one.detach().movedim(1, 3)[FINE != 255].double()
        for one in (signals.student_logits, signals.teacher_logits)
    )
    pairs = [
        (softmax(a), softmax(b)) for a, b in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    towards_teacher = np.mean([kl(there, here) for here, there in pairs])
    towards_student = np.mean([kl(here, there) for here, there in pairs])
    both = losses(build("mutual"), signals)
    assert both["mutual"].item() == pytest.approx(towards_teacher, rel=1e-5)
    assert both["mutual_peer"].item() == pytest.approx(towards_student, rel=1e-5)
    for name in set(OFFLINE) - {"dist"}:
        assert losses(build(name), signals)["kd"].item() == pytest.approx(towards_teacher, rel=1e-5)


@pytest.mark.parametrize("name", OFFLINE)
def test_mixed_precision_changes_little(name: str, signals: Signals) -> None:
    """Of networks that nearly agree, whose differences half precision would drown."""
    target = signals.teacher_features.detach()
    near = replace(signals, student_features=target + 0.005 * torch.randn_like(target))
    sizes = replace(SIZES, student=SIZES.teacher)
    expected = losses(build(name, sizes), near)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(build(name, sizes), near)
    assert all(one.dtype == torch.float32 for one in found.values())
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_ignored_pixels_do_not_count(name: str, signals: Signals) -> None:
    def spoilt(one: Tensor, labels: Tensor, value: float) -> Tensor:
        return one.detach().masked_fill((labels == 255)[:, None], value)

    other = replace(
        signals,
        student_logits=spoilt(signals.student_logits, FINE, 7.0),
        teacher_logits=spoilt(signals.teacher_logits, FINE, -5.0),
        student_features=spoilt(signals.student_features, LABELS, 7.0),
        teacher_features=spoilt(signals.teacher_features, LABELS, -5.0),
    )
    rival = build(name).eval()  # in training batch norm sees every cell
    if name == "cirkd":
        rival.train()
        losses(rival, signals)  # fills the memories
        rival.eval()
    torch.testing.assert_close(losses(rival, other), losses(rival, signals))


@pytest.mark.parametrize("name", OFFLINE)
def test_gradient_reaches_the_student_alone(name: str, signals: Signals) -> None:
    for loss in losses(build(name), signals).values():
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        loss.backward(retain_graph=True)
        seen = [signals.student_logits.grad, signals.student_features.grad]
        assert any(grad is not None and grad.any() for grad in seen)
        signals.student_logits.grad = signals.student_features.grad = None
    assert signals.teacher_logits.grad is None
    assert signals.teacher_features.grad is None


def test_mutual_learning_moves_each_by_its_own_term(signals: Signals) -> None:
    found = losses(build("mutual"), signals)
    found["mutual"].backward()
    assert signals.student_logits.grad is not None
    assert signals.teacher_logits.grad is None
    signals.student_logits.grad = None
    found["mutual_peer"].backward()
    assert signals.student_logits.grad is None
    assert signals.teacher_logits.grad is not None


@pytest.mark.parametrize("name", RIVALS)
def test_a_batch_without_labels_is_nothing_to_learn_from(name: str, signals: Signals) -> None:
    nothing = torch.full_like(LABELS, 255)
    bare = replace(signals, labels=torch.full_like(FINE, 255), feature_labels=nothing)
    total = torch.stack(list(losses(build(name), bare).values())).sum()
    assert total.item() == 0
    total.backward()
    for one in (signals.student_logits, signals.student_features):
        assert one.grad is None or not one.grad.any()


def test_images_without_labels_change_no_loss(signals: Signals) -> None:
    def all_losses(more: int) -> list[Tensor]:
        torch.manual_seed(5)
        here, there = (
            torch.cat([one.detach(), torch.randn(more, *one.shape[1:])])
            for one in (signals.student_features, signals.teacher_features)
        )
        labels = torch.cat([LABELS, torch.full((more, *LABELS.shape[1:]), 255)])
        return [
            attention_transfer(here, there, labels),
            hint(here, there[:, :4], labels),
            pair_wise(here, there, labels),
            intra_class_variation(here, there, labels, 3),
            channel_wise(here, there[:, :4], labels),
            *relations(here, there[:, :4], labels),
            cross_image(here, there, labels),
        ]

    torch.testing.assert_close(all_losses(3), all_losses(0))


def test_who_says_the_same_loses_nothing(signals: Signals) -> None:
    logits, features = signals.student_logits.detach(), signals.student_features.detach()
    same = [
        attention_transfer(features, features, LABELS),
        hint(features, features, LABELS),
        pair_wise(features, features, LABELS),
        intra_class_variation(features, features, LABELS, 3),
        channel_wise(logits, logits, FINE),
        *relations(logits, logits, FINE),
        cross_image(features, features, LABELS),
    ]
    torch.testing.assert_close(torch.stack(same), torch.zeros(len(same)))


# One row of pixels, two channels; the last pixel is ignored.
HERE = torch.tensor([[1.0, 0.0, 2.0, 9.0], [0.0, 1.0, 1.0, 9.0]])[None, :, None].double()
THERE = torch.tensor([[2.0, 1.0, 0.0, 5.0], [1.0, 0.0, 3.0, 5.0]])[None, :, None].double()
ROW = torch.tensor([[[0, 0, 1, 255]]])


def columns(maps: Tensor) -> list[Vector]:
    """The labelled pixels' channels."""
    return [maps[0, :, 0, i].tolist() for i in range(3)]


def cosine(one: Vector, other: Vector) -> float:
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def softmax(values: Vector) -> Vector:
    powers = [exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def kl(target: Vector, here: Vector) -> float:
    return sum(t * log(t / h) for t, h in zip(target, here, strict=True))


def test_attention_transfer_by_hand() -> None:
    # Mean squares: (0.5, 0.5, 2.5) and (2.5, 0.5, 4.5), each to unit length.
    here, there = (np.array(v) / sqrt(sum(x * x for x in v)) for v in ([1, 1, 5], [5, 1, 9]))
    found = attention_transfer(HERE, THERE, ROW).item()
    assert found == pytest.approx(((here - there) ** 2).sum())


def test_hint_by_hand() -> None:
    # Squared differences per pixel: 1 + 1, 1 + 1, 4 + 4; over three pixels of two channels.
    assert hint(HERE, THERE, ROW).item() == pytest.approx(12 / 6)


def test_omni_contrast_by_hand() -> None:
    # Patches of two cells along the row, so the third pixel's has no other; a channel is a group,
    # the third channel is left over.
    here, there = columns(HERE), columns(THERE)
    expected = 0.0
    for i, patch in ((0, (0, 1)), (1, (0, 1)), (2, (2,))):
        for c in range(2):
            others = [there[j][1 - c] for j in patch]
            scores = [-abs(here[i][c] - one) / 0.07 for one in (there[i][c], *others)]
            expected -= log(softmax(scores)[0])
    one, other = (torch.cat([maps, maps[:, :1]], 1) for maps in (HERE, THERE))
    found = omni_contrast(one, other, ROW, groups=2, patch=2)
    assert found.item() == pytest.approx(expected / 3)


def test_omni_contrast_asks_for_vectors_where_groups_have_several_channels() -> None:
    here, there = torch.rand(2, 1, 6, 4, 8).double()
    labels = torch.zeros(1, 4, 8, dtype=torch.int64)
    total = 0.0
    for y, x in np.ndindex(4, 8):
        for g in range(3):
            block = there[0, :, :, 4 * (x // 4) : 4 * (x // 4) + 4].reshape(3, 2, 16)
            mine = here[0].unflatten(0, (3, 2))[g, :, y, x]
            near = -(block - mine[:, None]).abs().sum(1) / 0.07
            found = near[g, 4 * y + x % 4]
            rest = torch.cat([near[o] for o in range(3) if o != g])
            total += float(torch.cat([found[None], rest]).logsumexp(0) - found)
    assert omni_contrast(here, there, labels, groups=3).item() == pytest.approx(total / 32)


def test_afdcd_masks_three_of_four_cells_in_training_alone() -> None:
    rival = build("afdcd")
    assert isinstance(rival, AfDcd)
    seen: list[Tensor] = []
    rival.complete.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    maps, logits = torch.ones(1, 4, 64, 64), torch.zeros(1, 3, 64, 64)
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    signals = Signals(logits, logits, labels, maps, torch.ones(1, 5, 64, 64), labels)
    losses(rival, signals)
    losses(rival.eval(), signals)
    blank = [(one == 0).all(1).double().mean().item() for one in seen]
    assert blank == pytest.approx([MASKED, 0], abs=0.03)


def test_pair_wise_by_hand() -> None:
    # Pools of two cells along the row: pixels 0 and 1, then pixel 2 alone as 3 is ignored.
    here, there = [[1.0, 1.0], [2.0, 1.0]], [[2.0, 1.0], [0.0, 3.0]]
    expected = sum(
        (cosine(here[i], here[j]) - cosine(there[i], there[j])) ** 2
        for i in range(2)
        for j in range(2)
    )
    assert pair_wise(HERE, THERE, ROW).item() == pytest.approx(expected / 4)


def test_intra_class_variation_by_hand() -> None:
    here, there = columns(HERE), columns(THERE)
    expected = 0.0
    for i, members in ((0, (0, 1)), (1, (0, 1)), (2, (2,))):
        sims = [
            cosine(maps[i], np.mean([maps[m] for m in members], axis=0).tolist())
            for maps in (here, there)
        ]
        expected += (sims[0] - sims[1]) ** 2
    assert intra_class_variation(HERE, THERE, ROW, 2).item() == pytest.approx(expected / 3)


def test_channel_wise_by_hand() -> None:
    expected = [
        kl(*(softmax((maps[0, c, 0, :3] / 4).tolist()) for maps in (THERE, HERE))) for c in range(2)
    ]
    assert channel_wise(HERE, THERE, ROW).item() == pytest.approx(16 * np.mean(expected))


def test_relations_by_hand() -> None:
    logits, target = (torch.cat([maps, maps[:, :1] * 0.3], 1) for maps in (HERE, THERE))
    here = np.array([softmax(column) for column in columns(logits)])
    there = np.array([softmax(column) for column in columns(target)])
    inter = np.mean([1 - np.corrcoef(here[i], there[i])[0, 1] for i in range(3)])
    intra = np.mean([1 - np.corrcoef(here[:, k], there[:, k])[0, 1] for k in range(3)])
    found = relations(logits, target, ROW)
    assert [one.item() for one in found] == pytest.approx([inter, intra], rel=1e-6)


def test_cross_image_by_hand() -> None:
    # Two images; of the second another pixel is ignored.
    maps = torch.cat([HERE, THERE]), torch.cat([THERE, HERE + 1])
    labels = torch.cat([ROW, ROW.roll(1, 2)])
    here, there = (
        [[one[b, :, 0, i].tolist() for i in range(4) if labels[b, 0, i] != 255] for b in range(2)]
        for one in maps
    )
    expected = [
        kl(
            softmax([cosine(there[a][i], other) / 0.1 for other in there[b]]),
            softmax([cosine(here[a][i], other) / 0.1 for other in here[b]]),
        )
        for a in range(2)
        for b in range(2)
        for i in range(3)
    ]
    assert cross_image(*maps, labels).item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_memory_by_hand() -> None:
    entries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]).double()
    here, there = torch.tensor([[0.8, 0.6]]).double(), torch.tensor([[0.0, 1.0]]).double()
    target, own = (softmax((one @ entries.T / 0.1)[0].tolist()) for one in (there, here))
    here, there, more = (
        torch.cat([one, torch.tensor([[0.28, 0.96]]).double()]) for one in (here, there, entries)
    )
    asks, is_any = torch.tensor([True, False]), torch.tensor([True, True, True, False])
    found = to_memory(here, there, asks, more, is_any).item()
    assert found == pytest.approx(kl(target, own), rel=1e-6)
    assert to_memory(here, there, ~asks, more, is_any).item() == 0, "that one agrees"
    assert to_memory(here, there, asks & ~asks, more, is_any).item() == 0
    assert to_memory(here, there, asks, more, is_any & ~is_any).item() == 0


def put(queue: Queue, *pairs: tuple[int, float], kept: Sequence[bool] | None = None) -> None:
    """Put values of classes in turn."""
    values, classes = torch.tensor([[float(v)] for _, v in pairs]), [k for k, _ in pairs]
    queue.put(values, torch.tensor(classes), torch.tensor(kept or [True] * len(pairs)))


def drawn(queue: Queue, count: int) -> Tensor:
    """What is drawn, without the blanks."""
    entries, is_any = queue.draw(count)
    return entries[is_any]


def test_queue_keeps_the_latest_and_draws_only_what_it_has() -> None:
    queue = Queue(num_classes=3, length=3, dim=1)
    assert drawn(queue, 5).shape == (0, 1)
    put(queue, (1, 1), (1, 2))
    assert sorted(drawn(queue, 5).flatten().tolist()) == [1, 2]
    put(queue, (1, 3), (255, 7), (0, 9), (2, 8), (1, 4), kept=[True, False, True, False, True])
    assert queue.entries[1, :3].flatten().tolist() == [4, 2, 3], "the oldest gives way"
    assert sorted(drawn(queue, 5).flatten().tolist()) == [2, 3, 4, 9]
    assert len(drawn(queue, 1)) == 2, "one of each class that has any"
    assert len({drawn(queue, 1)[1].item() for _ in range(30)}) == 3, "any of a class's"
    again = Queue(num_classes=3, length=3, dim=1)
    again.load_state_dict(queue.state_dict())
    put(again, (1, 5))
    assert again.entries[1, :3].flatten().tolist() == [4, 5, 3]
    put(again, *((1, v) for v in range(10, 15)))
    assert sorted(again.entries[1, :3].flatten().tolist()) == [12, 13, 14], "more than fit at once"


def test_cirkd_remembers_in_training_alone(signals: Signals) -> None:
    rival = build("cirkd").eval()
    before = {name: value.clone() for name, value in rival.state_dict().items()}
    assert losses(rival, signals)["cirkd_pixels"].item() == 0
    assert all(torch.equal(before[name], value) for name, value in rival.state_dict().items())
    found = losses(rival.train(), signals)
    assert found["cirkd_pixels"].item() > 0
    assert found["cirkd_regions"].item() > 0


def test_cirkd_s_memories_hold_so_many_of_each_class() -> None:
    rival = build("cirkd")
    for queue, length in ((rival.pixels, 2000), (rival.regions, 200)):
        assert isinstance(queue, Queue)
        assert queue.length == length
        assert queue.entries.shape == (3, length + 1, 5), "one place for what is not kept"


def test_cirkd_remembers_the_teachers_cells_and_class_means(signals: Signals) -> None:
    rival = build("cirkd")
    losses(rival, signals)
    pixels, regions = rival.pixels, rival.regions
    assert isinstance(pixels, Queue)
    assert isinstance(regions, Queue)
    cells = F.normalize(signals.teacher_features.detach(), dim=1).movedim(1, 3)
    for k in range(3):
        is_member = signals.feature_labels == k
        members = cells[is_member]
        assert pixels.put_so_far[k] == len(members)
        kept = pixels.entries[k, : len(members)]
        torch.testing.assert_close(kept[kept[:, 0].argsort()], members[members[:, 0].argsort()])
        means = [cells[b][is_member[b]].mean(0) for b in range(2)]
        means = [mean / mean.norm() for mean in means]
        assert regions.put_so_far[k] == 2
        torch.testing.assert_close(regions.entries[k, :2], torch.stack(means))


def test_cirkd_compares_projected_cells_with_both_memories(signals: Signals) -> None:
    rival = build("cirkd")
    losses(rival, signals)
    found = losses(rival.eval(), signals)
    project = rival.project
    assert isinstance(project, nn.Module)
    here, there = (
        F.normalize(one, dim=1).movedim(1, 3).flatten(0, 2)
        for one in (project(signals.student_features), signals.teacher_features)
    )
    for name, queue in (("cirkd_pixels", rival.pixels), ("cirkd_regions", rival.regions)):
        assert isinstance(queue, Queue)
        everything = queue.draw(10_000)
        expected = to_memory(here, there, (LABELS != 255).flatten(), *everything)
        torch.testing.assert_close(found[name], 0.1 * expected)


def test_cirkd_draws_as_many_entries_as_the_public_code(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    draw = Queue.draw

    def drawn(self: Queue, count: int) -> tuple[Tensor, Tensor]:
        asked.append(count)
        return draw(self, count)

    monkeypatch.setattr(Queue, "draw", drawn)
    losses(build("cirkd"), signals)
    assert asked == [4096 // 3 + 1, 1024 // 3 + 1]


def test_cirkd_keeps_a_few_random_cells_of_each_class_in_an_image() -> None:
    labels = torch.zeros(2, 6, 6, dtype=torch.int64)
    labels[1, 0, :4] = 2
    logits, features, target = (torch.randn(2, channels, 6, 6) for channels in (3, 4, 5))
    kept = []
    for seed in range(2):
        rival = build("cirkd")
        torch.manual_seed(seed)
        rival(Signals(logits, logits, labels, features, target, labels))
        pixels = rival.pixels
        assert isinstance(pixels, Queue)
        assert pixels.put_so_far.tolist() == [2 * PIXELS_PER_CLASS, 0, 4]
        kept.append(drawn(pixels, 100))
        assert len(kept[-1].unique(dim=0)) == 2 * PIXELS_PER_CLASS + 4
    assert len(torch.cat(kept).unique(dim=0)) > 2 * PIXELS_PER_CLASS + 4, "others each time"
