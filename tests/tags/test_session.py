"""A session: views that follow lesions of every size, prompts of every kind, rounds, and what is remembered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Box, Click, Prompts
from benchmarks.weights.zoo import zoo_weights
from tags.grid_prompts import GridPrompts
from tags.method import tags_tiny
from tags.session import _about_the_deep, _Given
from tags.targets import anatomy_of_text
from tags.views import Answer, View

TARGET = Target("kidney-tumor", "kidney", "tumor", (1,), window=(-100.0, 200.0), mean=50.0, std=75.0)


def volume_of(shape, spacing=(4.0, 4.0, 4.0), seed=0):
    array = np.random.default_rng(seed).normal(50, 20, shape).astype(np.float32)
    return Volume(array, np.diag([*spacing, 1.0]))


def click(*position, positive=True):
    return Prompts(clicks=(Click(position, positive),))


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def ball(shape, spacing, diameter, centre=None):
    centre = [n // 2 for n in shape] if centre is None else centre
    axes = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= (diameter / 2) ** 2


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return tags_tiny.build()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_an_answer_beyond_the_range_of_float16_is_a_failure_and_no_empty_mask(kind, monkeypatch):
    """Weights of the zoo; autocast on the CPU stands in for a GPU without bfloat16, and for one with it."""
    weights = zoo_weights(tags_tiny, "kits21")
    trained = tags_tiny.build()
    trained.load(weights.folder / "checkpoint")
    assert not trained.recipe(TARGET).float16
    monkeypatch.setattr(trained, "autocast", lambda: torch.autocast("cpu", dtype=kind))
    session = trained.open(volume_of((24, 24, 24)), TARGET)
    if kind is torch.float16:
        with pytest.raises(ValueError, match="not finite"):
            session.segment(click(12, 12, 12))
    else:
        session.segment(click(12, 12, 12))


class Perfect:
    """Stands in for the network: in every view it answers what is there, and keeps what it was told."""

    def __init__(self, session, truth):
        self.session, self.truth = session, truth
        self.views, self.told = [], []
        session._probability = self.probability

    def probability(self, view, prompted, before, keep=True):
        self.views.append(view)
        self.told.append(None if before is None else before.seen_from(view))
        axes = [view.start[a] + view.step * np.arange(view.side) for a in range(3)]
        sizes = zip(self.session.prepared.native_shape, self.session.prepared.shape, strict=True)
        native = [(axis + 0.5) * (n / m) - 0.5 for axis, (n, m) in zip(axes, sizes, strict=True)]
        where = [np.rint(p).astype(int) for p in native]
        inside = [(w >= 0) & (w < n) for w, n in zip(where, self.truth.shape, strict=True)]
        x, y, z = (w.clip(0, n - 1) for w, n in zip(where, self.truth.shape, strict=True))
        seen = self.truth[np.ix_(x, y, z)]
        return (seen & inside[0][:, None, None] & inside[1][:, None] & inside[2]).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "anatomy"),
    [
        ("kidney tumor", ("kidney", "tumor")),
        ("Kidney  Tumor", ("kidney", "tumor")),
        ("liver metastasis", ("liver", "metastasis")),
        ("soft tissue sarcoma", ("soft tissue", "sarcoma")),
        ("liverwort", ("", "liverwort")),  # no organ
        ("bright spot", ("", "bright spot")),
    ],
)
def test_words_become_organ_and_lesion(text, anatomy):
    assert anatomy_of_text(text, TARGET) == anatomy


def test_a_text_prompt_takes_the_place_of_the_targets_words(segmenter):
    """The words of the target change nothing; others are encoded anew, and again when the text is gone."""
    volume = volume_of((24, 24, 24))
    session = segmenter.open(volume, TARGET)
    heard = []
    encode = segmenter.module.encode
    segmenter.module.encode = lambda image, anatomies, *rest: (
        heard.append(anatomies[0]) or encode(image, anatomies, *rest)
    )
    try:
        plain = session.segment(click(12, 12, 12))
        with_words = session.segment(replace(click(12, 12, 12), text="kidney tumor"))
        number = len(heard)
        session.segment(replace(click(12, 12, 12), text="liver cyst"))
        session.segment(click(12, 12, 12))
        fresh = segmenter.open(volume, TARGET).segment(click(12, 12, 12))
    finally:
        segmenter.module.encode = encode
    assert np.array_equal(plain, with_words)
    assert np.array_equal(plain, fresh)
    assert set(heard[:number]) == {("kidney", "tumor")}
    assert ("liver", "cyst") in heard


@pytest.mark.parametrize(
    ("diameter", "spacing", "shape", "least"),
    [
        (2.0, (0.4, 0.4, 0.4), (60, 60, 60), 0.9),
        (6.0, (0.7, 0.7, 1.0), (90, 90, 60), 0.9),
        (18.0, (0.8, 0.8, 1.5), (120, 120, 70), 0.9),
        (22.0, (0.8, 0.8, 1.5), (120, 120, 70), 0.85),
        (26.0, (0.8, 0.8, 2.5), (150, 150, 50), 0.85),
        (60.0, (1.0, 1.0, 3.0), (130, 130, 45), 0.9),
        (120.0, (2.0, 2.0, 3.0), (90, 90, 60), 0.95),
        (200.0, (2.0, 2.0, 2.0), (130, 130, 130), 0.97),
    ],
)
def test_one_click_finds_a_lesion_of_any_size(segmenter, diameter, spacing, shape, least):
    """From a first view of 128 mm in voxels of 4 mm, up and down as the lesion wants it."""
    truth = ball(shape, spacing, diameter)
    session = segmenter.open(volume_of(shape, spacing), TARGET)
    perfect = Perfect(session, truth)
    mask = session.segment(click(*(n // 2 for n in shape)))
    assert dice(mask, truth) > least
    steps = {round(view.step, 2) for view in perfect.views}
    assert (max(steps) > 1) == (diameter > 110), "wider only where the lesion reaches a face"
    assert (min(steps) < 1) == (diameter < 20), "nearer only where it measures less than five voxels"


def test_views_grow_about_one_centre_to_the_widest_and_see_what_all_saw(segmenter):
    shape = (140, 140, 140)
    session = segmenter.open(volume_of(shape), TARGET)
    perfect = Perfect(session, np.ones(shape, bool))
    session.segment(click(70, 70, 70))
    assert [round(v.step, 2) for v in perfect.views] == [1.0, 1.5, 2.25, 1.0, 1.5, 2.25]
    assert len({view.centre for view in perfect.views}) == 1
    assert all(told is None for told in perfect.told[:3])
    assert all(told.min() == 1 for told in perfect.told[3:]), "each is told the answer of all"


def test_the_first_view_is_about_the_click_on_the_models_grid(segmenter):
    session = segmenter.open(volume_of((60, 60, 60), (8.0, 4.0, 2.0)), TARGET)
    perfect = Perfect(session, np.zeros((60, 60, 60), bool))
    session.segment(click(20, 30, 40))
    # 8 mm → 4 mm: voxel 20 is centred at 40.5; 2 → 4: voxel 40 at 19.75
    assert perfect.views[0].start.tolist() == [40 - 16, 30 - 16, 20 - 16]


@pytest.mark.parametrize("sides", [(40, 20, 10), (70, 30, 12), (130, 60, 60)])
def test_a_box_fills_three_quarters_of_the_view(segmenter, sides):
    shape = (140, 80, 80)
    low = (2, 5, 6)
    high = tuple(a + n for a, n in zip(low, sides, strict=True))
    truth = np.zeros(shape, bool)
    truth[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    session = segmenter.open(volume_of(shape, (1.0, 1.0, 1.0)), TARGET)
    perfect = Perfect(session, truth)
    mask = session.segment(Prompts(box=Box(low, high)))
    assert len(perfect.views) == 1
    assert perfect.views[0].step == pytest.approx(max(sides) / (0.75 * 32 * 4))
    assert dice(mask, truth) > 0.8
    voxels = np.prod([n / 4 / perfect.views[0].step for n in sides])
    assert (perfect.told[0] > 0.5).sum() == pytest.approx(np.pi / 6 * voxels, rel=0.1), "the ellipsoid in the box"


def test_the_ellipsoid_in_a_box_decides_where_the_network_is_undecided(segmenter):
    """Half and half: who knows nothing answers the ellipsoid, who is sure answers what it sees."""
    shape, low, high = (64, 64, 64), (12, 16, 20), (52, 44, 40)
    ellipsoid = sum(
        ((np.arange(n) + 0.5 - (a + b) / 2) / ((b - a) / 2)).reshape(-1, *(1,) * (2 - axis)) ** 2
        for axis, (n, a, b) in enumerate(zip(shape, low, high, strict=True))
    )
    half = np.zeros(shape, bool)
    half[:32] = True

    def answered(probability, *clicks):
        session = segmenter.open(volume_of(shape), TARGET)
        perfect = Perfect(session, half)
        session._probability = lambda view, prompted, before: probability(perfect, view, prompted)
        return session.segment(Prompts(clicks=clicks, box=Box(low, high)))

    undecided = answered(lambda perfect, view, prompted: np.full((32,) * 3, 0.5, np.float32))
    assert dice(undecided, ellipsoid <= 1) > 0.97
    sure = answered(lambda perfect, view, prompted: perfect.probability(view, prompted, None))
    assert dice(sure[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], half[12:52, 16:44, 20:40]) > 0.97
    unsure = answered(lambda perfect, view, prompted: np.full((32,) * 3, 0.6, np.float32), Click((32, 30, 30)))
    assert dice(unsure, ellipsoid <= 1.21) > 0.97  # 0.3 and half of 0.4: e is 0.4 at 1.1 radii
    outside = answered(lambda perfect, view, prompted: np.full((32,) * 3, 0.6, np.float32), Click((32, 30, 42)))
    assert outside[32, 30, 42]
    assert outside.sum() > 3 * unsure.sum(), "a box that a click contradicts has no say"


def test_the_round_after_a_box_is_told_what_the_network_said(segmenter):
    shape = (64, 64, 64)
    session = segmenter.open(volume_of(shape), TARGET)
    perfect = Perfect(session, np.zeros(shape, bool))
    session.segment(Prompts(clicks=(Click((32, 32, 32)),), box=Box((20, 20, 20), (44, 44, 44))))
    assert perfect.told[0].max() > 0.9, "the ellipsoid"
    assert perfect.told[-1].max() == 0
    with pytest.raises(UserError, match=r"box_prior must lie between 0 and 0\.5, not at 0\.6"):
        tags_tiny.build({"box_prior": 0.6})


def test_a_given_box_reaches_the_network_where_it_lies(segmenter):
    session = segmenter.open(volume_of((64, 64, 64), (4.0, 4.0, 4.0)), TARGET)
    from tags.grid_prompts import GridPrompts
    from tags.views import View

    prompted = GridPrompts(Prompts(box=Box((20, 24, 28), (30, 33, 36))), session.prepared)
    view = View.about((26, 28, 32), 1.0, 32)
    tensors = prompted.in_view(view, torch.device("cpu"))
    assert (tensors.box[0] + torch.tensor(view.start)).tolist() == [[20, 24, 28], [29, 32, 35]]
    assert tensors.has_box.tolist() == [True]


def test_the_rounds_are_the_clicks_and_each_is_told_the_one_before(segmenter):
    shape = (64, 64, 64)
    truth = ball(shape, (4.0, 4.0, 4.0), 60)
    prompts = Prompts(clicks=(Click((32, 32, 32)), Click((36, 32, 32)), Click((50, 32, 32), positive=False)))
    session = segmenter.open(volume_of(shape), TARGET)
    perfect = Perfect(session, truth)
    session.segment(prompts)
    assert len(perfect.views) == 3
    assert perfect.told[0] is None
    for told, view in zip(perfect.told[1:], perfect.views[1:], strict=True):
        assert np.array_equal(told > 0.5, perfect.probability(view, None, None) > 0.5)


def noisy_session(segmenter):
    """On a grid of 4 mm whose voxels hold no whole number of the scan's; the window cuts one value in eight."""
    array = np.random.default_rng(0).normal(50, 120, (121, 98, 61)).astype(np.float32)
    return segmenter.open(Volume(array, np.diag([1.0, 1.0, 2.0, 1.0])), TARGET)


def scipys(session, array, view):
    """Linear samples of an array of the scan in the voxels of a view, and which of them lie beyond the scan."""
    mm = [(axis + 0.5) * spacing for axis, spacing in zip(view.axes, session.prepared.spacing, strict=True)]
    places = [at / spacing - 0.5 for at, spacing in zip(mm, session.volume.spacing, strict=True)]
    lengths = np.multiply(session.volume.shape, session.volume.spacing)
    beyond = [(at < 0) | (at > length) for at, length in zip(mm, lengths, strict=True)]
    x, y, z = np.meshgrid(*beyond, indexing="ij")
    mesh = np.meshgrid(*places, indexing="ij")
    return ndimage.map_coordinates(array.astype(float), mesh, order=1, mode="nearest"), x | y | z


@pytest.mark.parametrize("centre", [(14.5, 12.25, 14.5), (2.5, 12.25, 14.5), (14.5, 22.5, 29.0)])
def test_a_view_finer_than_the_grid_shows_the_scan_itself(segmenter, centre):
    """Cut to the window, then less the mean and over the deviation; the lowest value of the grid beyond the scan."""
    session = noisy_session(segmenter)
    view = View(centre, 0.25, 32)
    sampled, beyond = scipys(session, session.volume.array, view)
    expected = np.where(beyond, session.prepared.array.min(), (sampled.clip(-100, 200) - 50) / 75)
    assert beyond.any() == (centre != (14.5, 12.25, 14.5)), "or nothing would be filled"
    np.testing.assert_allclose(session._cut(view), expected, atol=2e-6)


def test_without_a_window_a_finer_view_cuts_nothing_off(segmenter):
    session = segmenter.open(noisy_session(segmenter).volume, replace(TARGET, window=None))
    view = View((14.5, 12.25, 14.5), 0.25, 32)
    expected = (scipys(session, session.volume.array, view)[0] - 50) / 75
    np.testing.assert_allclose(session._cut(view), expected, atol=2e-6)


def test_a_given_mask_in_a_finer_view_is_that_of_the_scan(segmenter):
    session = noisy_session(segmenter)
    mask = ball(session.volume.shape, session.volume.spacing, 20, (50, 45, 30))
    view = View((12.5, 11.25, 14.5), 0.25, 32)
    expected, _ = scipys(session, mask, view)
    assert ((expected > 0.01) & (expected < 0.99)).sum() > 100, "its border is in sight"
    np.testing.assert_allclose(_Given(session, mask).seen_from(view), expected, atol=2e-6)


def test_a_box_and_a_mask_reach_from_outer_face_to_outer_face(segmenter):
    """Voxels 20 to 43 of 1 mm are 20 to 44 mm; voxel i of a grid of 4 mm is centred at 4 i + 2 mm."""
    low, high = (20, 12, 8), (44, 26, 31)
    mask = np.zeros((80, 72, 64), bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    session = segmenter.open(volume_of(mask.shape, (1.0, 1.0, 1.0)), TARGET)
    faces = (np.array([low, high]) - 2) / 4
    np.testing.assert_allclose(GridPrompts(Prompts(box=Box(low, high)), session.prepared).box, faces)
    np.testing.assert_allclose(GridPrompts(Prompts(mask=mask), session.prepared).mask_box, faces)


def of_seed(**config):
    torch.manual_seed(0)
    return tags_tiny.build(config)


@pytest.mark.parametrize("previous", [False, True])
def test_the_look_in_the_mirror_is_a_look_at_the_mirrored_scan(previous):
    """Half of the answer is that to the scan laid on its other side, with the prompts there, laid back."""
    plain, both = of_seed(mirror=False, semantic=False), of_seed(mirror=True, semantic=False)
    scan = volume_of((40, 36, 36))
    other = Volume(scan.array[::-1].copy(), scan.affine)
    view = View((19.5, 17.5, 17.5), 1.0, 32)
    truth = np.zeros(scan.shape, np.float32)
    truth[10:20, 12:24, 15:20] = 1

    def probability(segmenter, volume, x, low, high, told):
        session = segmenter.open(volume, TARGET)
        prompts = Prompts(clicks=(Click((x, 17, 19)),), box=Box((low, 10, 12), (high, 20, 24)))
        before = Answer(((view, view.cut(replace(session.prepared, array=told), 0.0)),)) if previous else None
        with torch.inference_mode():
            return session._probability(view, GridPrompts(prompts, session.prepared), before)

    straight = probability(plain, scan, 14, 9, 21, truth)
    laid_back = probability(plain, other, 39 - 14, 40 - 21, 40 - 9, truth[::-1].copy())[::-1]
    assert np.abs(straight - laid_back).max() > 1e-3, "or the test could not fail"
    np.testing.assert_allclose(probability(both, scan, 14, 9, 21, truth), (straight + laid_back) / 2, atol=1e-5)


def test_clip_sees_no_mirrored_picture_and_organs_of_one_side_are_not_mirrored(monkeypatch):
    segmenter = of_seed(mirror=True)
    seen = []
    real = segmenter.module.see
    monkeypatch.setattr(segmenter.module, "see", lambda image, bounds: seen.append(image) or real(image, bounds))
    segmenter.open(volume_of((32, 32, 32)), TARGET).segment(click(16, 16, 16))
    assert torch.equal(seen[0], seen[1])
    as_anatomy_allows = of_seed(mirror=True, flips=None)
    liver = Target("liver-tumor", "liver", "tumor", (1,), window=(-100.0, 200.0), mean=50.0, std=75.0)
    assert as_anatomy_allows.open(volume_of((32, 32, 32)), TARGET).mirrors == (False, True)
    assert as_anatomy_allows.open(volume_of((32, 32, 32)), liver).mirrors == (False,)


def test_what_clip_saw_is_mirrored_with_the_scan(monkeypatch):
    segmenter = of_seed(mirror=True)
    handed, real = [], segmenter.module.encode
    monkeypatch.setattr(segmenter.module, "encode", lambda x, *rest: handed.append((x, rest[-1])) or real(x, *rest))
    segmenter.open(volume_of((32, 32, 32)), TARGET).segment(click(16, 16, 16))
    (image, straight), (mirrored_image, mirrored) = handed[:2]
    assert torch.equal(mirrored_image, image.flip(2))
    for mine, theirs in ((straight.patches, mirrored.patches), (straight.joint, mirrored.joint)):
        assert torch.equal(theirs, mine.flip(2))
        assert not torch.allclose(theirs, mine, atol=1e-3), "or the test could not fail"
    assert torch.equal(mirrored.pooled, straight.pooled)


def test_a_session_gives_what_a_fresh_one_gives_and_encodes_a_view_once(segmenter, monkeypatch):
    calls = []
    real = segmenter.module.encode
    monkeypatch.setattr(segmenter.module, "encode", lambda *a, **k: calls.append(1) or real(*a, **k))
    clicks = (Click((30, 30, 30)), Click((33, 31, 29), False), Click((28, 30, 32)), Click((12, 50, 50)))
    old = segmenter.open(volume_of((60, 60, 60)), TARGET)
    masks = [old.segment(Prompts(clicks=clicks[:number])) for number in (1, 2, 3, 4)]
    views = len(old._encodings)
    assert len(calls) == views, "no view was encoded twice"
    fresh = segmenter.open(volume_of((60, 60, 60)), TARGET)
    assert np.array_equal(fresh.segment(Prompts(clicks=clicks)), masks[3])
    assert np.array_equal(old.segment(Prompts(clicks=clicks[:2])), masks[1]), "a click taken back"
    assert not np.array_equal(masks[0], masks[1])


def test_of_more_views_than_are_kept_the_last_are_not_encoded_again(monkeypatch):
    """Four views, two kept: both looks of a round find two of theirs, the first look of a first round none."""
    segmenter = tags_tiny.build({"cached_views": 2})
    calls = []
    real = segmenter.module.encode
    monkeypatch.setattr(segmenter.module, "encode", lambda *a, **k: calls.append(1) or real(*a, **k))
    volume = volume_of((100, 100, 32))
    clicks = tuple(Click((x, y, 16)) for x in (20, 80) for y in (20, 80))
    prompts = Prompts(mask=ball(volume.shape, (4.0, 4.0, 4.0), 40, (20, 20, 16)), clicks=clicks)  # all in one round
    few = segmenter.open(volume, TARGET)
    monkeypatch.setattr(few, "_zoomed", lambda view, *told: [(view, few._probability(view, *told))])
    mask = few.segment(prompts)
    assert len(calls) == 4 + 2
    few.segment(prompts)
    assert len(calls) == 4 + 2 + 2 + 2
    monkeypatch.setattr(segmenter, "settings", replace(segmenter.settings, cached_views=8))
    many = segmenter.open(volume, TARGET)
    monkeypatch.setattr(many, "_zoomed", lambda view, *told: [(view, many._probability(view, *told))])
    assert np.array_equal(many.segment(prompts), mask)
    assert len(calls) == 4 + 2 + 2 + 2 + 4


def test_a_further_click_costs_one_round_however_long_the_dialogue(segmenter, monkeypatch):
    session = segmenter.open(volume_of((60, 60, 60)), TARGET)
    rounds = []
    real = session._follow
    monkeypatch.setattr(session, "_follow", lambda *a: rounds.append(1) or real(*a))
    clicks = tuple(Click((30 + number % 3, 30, 30)) for number in range(8))
    for number in range(1, 9):
        mask = session.segment(Prompts(clicks=clicks[:number]))
    assert len(rounds) == 8
    assert np.array_equal(segmenter.open(volume_of((60, 60, 60)), TARGET).segment(Prompts(clicks=clicks)), mask)


def test_a_given_mask_changes_only_where_the_network_disagrees(segmenter):
    """A perfect mask comes back voxel by voxel, although the network saw it in voxels of 4 mm; an error is mended."""
    shape, spacing = (120, 110, 50), (1.0, 1.0, 3.0)
    truth = ball(shape, spacing, 60)
    session = segmenter.open(volume_of(shape, spacing), TARGET)
    session._probability = lambda view, prompted, before, keep=True: before.seen_from(view)
    assert np.array_equal(session.segment(Prompts(mask=truth)), truth)
    Perfect(session, truth)
    bitten = truth.copy()
    bitten[60:] = False
    far = np.zeros(shape, bool)
    far[:3, :3, :3] = True  # beyond the view: nobody looked there
    mended = session.segment(Prompts(mask=bitten | far, clicks=(Click((60, 55, 25)),)))
    assert dice(mended & ~far, truth) > 0.95
    assert (mended & far).sum() == far.sum()


@pytest.mark.parametrize(("given", "found"), [(44, 16), (16, 44), (4, 40)])
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 1.0), (0.8, 0.8, 2.0)])
def test_a_given_mask_that_is_far_off_leaves_nothing_of_its_border(segmenter, given, found, spacing):
    """No shell outside where a lesion is smaller, no hole inside where it is larger, by three voxels of a view."""
    shape = (100, 100, 60)
    truth = ball(shape, spacing, found)
    session = segmenter.open(volume_of(shape, spacing), TARGET)
    Perfect(session, truth)
    mask = session.segment(Prompts(mask=ball(shape, spacing, given), clicks=(Click((50, 50, 30)),)))
    wrong = mask != truth
    assert not (wrong & ball(shape, spacing, found - 10)).any()
    assert not (wrong & ~ball(shape, spacing, found + 10)).any()
    assert ndimage.label(mask)[1] == 1


@pytest.mark.parametrize(
    ("spacing", "slices"),
    [
        ((0.7, 0.7, 10.0), (4, 5, 6)),
        ((0.7, 0.7, 10.0), (5, 6)),
        ((0.7, 0.7, 10.0), (5,)),
        ((0.5, 0.5, 1.2), range(2, 8)),
    ],
)
def test_a_false_disc_of_a_given_mask_leaves_nothing_whatever_its_slices(spacing, slices):
    """Slices thicker than a voxel of the view, and of three and more: no slice at either end keeps a ring."""
    shape = (60, 60, 12)
    session = tags_tiny.build({"spacing": 1.17}).open(volume_of(shape, spacing), TARGET)
    Perfect(session, np.zeros(shape, bool))
    middle = Click((30, 30, slices[len(slices) // 2]))
    for diameter in np.arange(14, 26, 0.5):
        false = np.zeros(shape, bool)
        false[..., list(slices)] = ball((*shape[:2], 1), (*spacing[:2], 1.0), diameter)
        assert not session.segment(Prompts(mask=false, clicks=(middle,))).any(), diameter


@pytest.mark.parametrize(("voxel", "deepest"), [(0.1, 0), (1 / 3, 0), (0.7, 1), (1.0, 1), (2.0, 3), (4.1, 8)])
def test_a_difference_is_deep_from_two_voxels_of_a_view_on(voxel, deepest):
    """`deepest`: the most voxels of the mask that are less than two of the view's; they lie in the middle."""
    for length in range(deepest + 4):
        mask = np.zeros((40, 3, 3), bool)
        mask[15 : 15 + length] = True
        about = _about_the_deep(mask, (voxel, 0.1, 0.1))[:, 1, 1]
        margin = int(np.ceil(0.75 * voxel))
        expected = np.zeros(40, bool)
        expected[15 - margin : 15 + length + margin] = length > deepest
        assert np.array_equal(about, expected), length


def test_a_click_takes_a_false_part_of_a_given_mask_away_beside_another_click(segmenter):
    shape, spacing = (100, 60, 60), (4.0, 4.0, 4.0)
    truth, false = ball(shape, spacing, 60, (20, 30, 30)), ball(shape, spacing, 40, (80, 30, 30))
    session = segmenter.open(volume_of(shape, spacing), TARGET)
    Perfect(session, truth)
    clicks = (Click((20, 30, 30)), Click((80, 30, 30), False))
    assert (session.segment(Prompts(mask=truth | false, clicks=clicks[:1])) & false).sum() == false.sum()
    assert not (session.segment(Prompts(mask=truth | false, clicks=clicks)) & false).any()


def test_an_answer_less_than_half_away_from_a_given_mask_moves_nothing(segmenter):
    """Where a border runs between two voxels of a view, a network that is all but sure of it would fray it."""
    shape, spacing = (120, 110, 50), (1.0, 1.0, 3.0)
    truth = ball(shape, spacing, 60)
    session = segmenter.open(volume_of(shape, spacing), TARGET)
    away = np.random.default_rng(0).choice(np.array([-0.45, 0.45], np.float32), (segmenter.config.patch,) * 3)
    session._probability = lambda view, prompted, before, keep=True: (before.seen_from(view) + away).clip(0, 1)
    assert np.array_equal(session.segment(Prompts(mask=truth)), truth)


@pytest.mark.parametrize(("answer", "is_lesion"), [(0.25, False), (0.35, True)])
def test_the_threshold_decides_for_a_given_mask_too(answer, is_lesion):
    segmenter = tags_tiny.build({"threshold": 0.3})
    truth = ball((64, 64, 64), (4.0, 4.0, 4.0), 60)
    session = segmenter.open(volume_of((64, 64, 64)), TARGET)
    session._probability = lambda view, *rest, **options: np.full((view.side,) * 3, answer, np.float32)
    mask = session.segment(Prompts(mask=truth))
    assert mask[32, 32, 32] == is_lesion
    assert mask[32, 32, 28 - 6] == is_lesion, "seen, and beyond the given mask"


def test_a_given_mask_and_a_click_meet_in_one_round(segmenter):
    shape = (64, 64, 64)
    truth = ball(shape, (4.0, 4.0, 4.0), 60)
    session = segmenter.open(volume_of(shape), TARGET)
    perfect = Perfect(session, truth)
    session.segment(Prompts(mask=truth, clicks=(Click((32, 32, 32)), Click((36, 32, 32)))))
    assert len(perfect.views) == 1
    assert np.array_equal(perfect.told[0] > 0.5, perfect.probability(perfect.views[0], None, None) > 0.5)


@pytest.mark.parametrize("shape", [(40, 45, 50), (10, 9, 7), (70, 20, 33), (1, 1, 1)])
def test_masks_lie_on_the_volumes_own_grid(segmenter, shape):
    session = segmenter.open(volume_of(shape, (2.0, 3.0, 1.7)), TARGET)
    for position in ((0, 0, 0), tuple(n - 1 for n in shape), tuple(n // 2 for n in shape)):
        mask = session.segment(click(*position))
        assert mask.shape == shape
        assert mask.dtype == bool
    assert session.segment(Prompts(box=Box((0, 0, 0), shape))).shape == shape
    assert session.segment(Prompts(mask=np.zeros(shape, bool))).shape == shape
    assert session.segment(click(0, 0, 0, positive=False)).shape == shape


def test_without_prompts_every_voxel_of_the_body_is_seen(segmenter):
    volume = volume_of((200, 150, 60))
    volume.array[:10] = volume.array[:, :, 40:] = -1000.0  # air
    session = segmenter.open(volume, TARGET)
    perfect = Perfect(session, np.zeros(volume.shape, bool))
    assert not session.segment(Prompts()).any()
    assert {view.step for view in perfect.views} == {segmenter.settings.search_view}
    assert len(perfect.views) == len(set(perfect.views)) == 7 * 6
    low = np.array([view.start - (view.step - 1) / 2 for view in perfect.views])  # of the grid's voxels, not its own
    long = 32 * segmenter.settings.search_view
    assert low.min(axis=0)[:2].tolist() == [10, 0], "the views begin and end with the body"
    assert (low.max(axis=0) + long)[:2].tolist() == [200, 150]
    assert low[:, 2].tolist() == [20 - long / 2] * len(low), "one view holds it"
    assert all(np.diff(np.unique(low[:, axis])).max() <= long / 2 for axis in (0, 1))
    assert segmenter.open(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), TARGET).segment(Prompts()).sum() == 0


@pytest.mark.parametrize(("share", "found"), [(0.5, 2), (0.002, 3)])
def test_without_prompts_lesions_are_found_and_seen_as_after_a_click(share, found):
    """Two large ones, and a small one that weighs next to nothing; each mask is that of a click into its middle."""
    shape, spacing = (150, 100, 60), (4.0, 4.0, 4.0)
    places = [((25, 50, 30), 64.0), ((120, 40, 30), 64.0), ((75, 80, 20), 20.0)]
    lesions = [ball(shape, spacing, diameter, centre) for centre, diameter in places]
    segmenter = tags_tiny.build({"part_share": share})
    session = segmenter.open(volume_of(shape), TARGET)
    Perfect(session, np.any(lesions, axis=0))
    mask = session.segment(Prompts())
    shares = [(mask & lesion).sum() / lesion.sum() for lesion in lesions]
    assert [part > 0.9 for part in shares] == [True, True, found == 3]
    assert not (mask & ~np.any(lesions, axis=0)).any()
    if found == 2:
        assert shares[2] == 0


def test_clicks_that_say_where_it_is_not_are_told_in_the_search(segmenter):
    session = segmenter.open(volume_of((40, 40, 40)), TARGET)
    seen = []

    def probability(view, prompted, before, keep=True):
        seen.append((view.step, prompted.positive.tolist()))
        values = np.zeros((32, 32, 32), np.float32)
        values[14:18, 14:18, 14:18] = 0.9
        return values

    session._probability = probability
    session.segment(click(5, 5, 5, positive=False))
    assert (segmenter.settings.search_view, [False]) in seen
    assert (1.0, [True]) in seen, "the dialogue begins with the click into what was found"
    assert (1.0, [True, False]) in seen
    empty = np.zeros(session.volume.shape, bool)
    assert np.array_equal(session.segment(Prompts(mask=empty)), session.segment(Prompts()))
    assert session.segment(Prompts(mask=empty)).any()


def test_every_kind_of_prompt_changes_the_answer_of_the_network(segmenter):
    session = segmenter.open(volume_of((40, 40, 40)), TARGET)
    from tags.grid_prompts import GridPrompts
    from tags.views import View

    view = View.about((20, 20, 20), 1.0, 32)
    previous = np.zeros((32, 32, 32), np.float32)
    previous[10:20, 10:20, 10:20] = 1

    class Before:
        def seen_from(self, view):
            return previous

    def answer(prompts, before=None):
        with torch.inference_mode():
            return session._probability(view, GridPrompts(prompts, session.prepared), before)

    answers = [
        answer(Prompts()),
        answer(click(20, 20, 20)),
        answer(click(20, 20, 20, positive=False)),
        answer(Prompts(box=Box((15, 15, 15), (25, 25, 25)))),
        answer(Prompts(), Before()),
    ]
    for number, one in enumerate(answers):
        assert all(not np.allclose(one, other, atol=1e-4) for other in answers[:number])


def test_an_untrained_network_keeps_a_given_mask(segmenter):
    """The prior of the previous mask speaks before any training; without it the mask would be lost."""
    shape = (64, 64, 64)
    truth = ball(shape, (4.0, 4.0, 4.0), 60)
    session = segmenter.open(volume_of(shape), TARGET)
    assert dice(session.segment(Prompts(mask=truth)), truth) > 0.9
    with torch.no_grad():
        weight = segmenter.module.decoder.prior.weight
        kept = weight[0, -1].clone()
        weight[0, -1] = 0
        lost = session.segment(Prompts(mask=truth))
        weight[0, -1] = kept
    assert dice(lost, truth) < 0.5
