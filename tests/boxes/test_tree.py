"""ZoomEye's tree, its two searches and its final boxes against plain, slow readings, with confidences from a table."""

import itertools
import math
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlens import AttnLensError, Box
from attnlens.boxes import Region
from attnlens.boxes.tree import PRESETS, Node, Preset, find_all, find_one, merge_near, tree
from attnlens.boxes.tree._search import priority, weight

sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


class Table:
    """Confidences drawn from a seed for each box and kind, coarse enough for ties; counts what it is asked."""

    def __init__(self, seed, lift=0.0):
        self.seed, self.lift, self.asked = seed, lift, {"existing": [], "latent": [], "answering": []}

    def of(self, kind, box):
        drawn = zlib.crc32(f"{self.seed} {kind} {tuple(box)}".encode()) % 21 / 10 - 1
        return min(max(drawn + self.lift, -1), 1)

    def _all(self, kind, boxes):
        self.asked[kind] += boxes
        return [self.of(kind, box) for box in boxes]

    def existing(self, boxes):
        return self._all("existing", boxes)

    def latent(self, boxes):
        return self._all("latent", boxes)

    def answering(self, boxes):
        return self._all("answering", boxes)


def test_an_image_is_cut_into_quarters_down_to_the_input_side():
    root = tree((1344, 1000), input_side=336)
    assert [tuple(child.box) for child in root.children] == [
        (0, 0, 672, 500), (672, 0, 1344, 500), (0, 500, 672, 1000), (672, 500, 1344, 1000)
    ]  # fmt: skip
    assert root.deepest == 3  # 1344, 672 and 336 are cut, 168 is not
    assert len(list(root)) == 1 + 4 + 16 + 64


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        ((400, 800), [(0, 0, 400, 200), (0, 200, 400, 400), (0, 400, 400, 600), (0, 600, 400, 800)]),
        ((800, 400), [(0, 0, 200, 400), (200, 0, 400, 400), (400, 0, 600, 400), (600, 0, 800, 400)]),
        ((401, 800), [(0, 0, 200, 400), (200, 0, 401, 400), (0, 400, 200, 800), (200, 400, 401, 800)]),
        ((335, 200), []),
        ((336, 200), [(0, 0, 168, 100), (168, 0, 336, 100), (0, 100, 168, 200), (168, 100, 336, 200)]),
    ],
    ids=str,
)
def test_the_cut_goes_by_the_sides(size, parts):
    assert [tuple(child.box) for child in tree(size, 336, depth=1).children] == parts


@given(sizes, st.integers(100, 500), st.integers(0, 4))
def test_parts_cover_their_region_exactly_and_are_cut_by_the_rule(size, side, depth):
    root = tree(size, side, depth)
    nodes = list(root)
    assert nodes[-1] is root
    assert root.box == (0, 0, *size)
    for node in nodes:
        box, parts = node.box, [child.box for child in node.children]
        assert all(type(edge) is int for edge in box)
        assert box.area > 0
        assert all(child.depth == node.depth + 1 for child in node.children)
        cut = node.depth < depth and max(box.width, box.height) >= side
        assert len(parts) == (4 if cut else 0)
        if parts:
            assert sum(part.area for part in parts) == box.area
            assert all(a.shared(b) == 0 for a, b in itertools.combinations(parts, 2))
            assert all(part.shared(box) == part.area for part in parts)
            assert max(p.width for p in parts) - min(p.width for p in parts) <= 1
            assert max(p.height for p in parts) - min(p.height for p in parts) <= 1
            rows, cols = len({part.y1 for part in parts}), len({part.x1 for part in parts})
            ratio = box.height / box.width
            assert (rows, cols) == ((4, 1) if ratio >= 2 else (1, 4) if ratio <= 0.5 else (2, 2))


def test_a_region_of_too_few_pixels_is_not_cut():
    assert [len(node.children) for node in tree((2, 3), input_side=1)] == [0, 0, 0, 0, 4]
    assert tree((1, 3), input_side=1).children == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(((0, 5), 336), "image size"), (((9, 9), 0), "input_side is 0"), (((9, 9), 3, -1), "depth is -1")],
    ids=str,
)
def test_a_tree_of_nonsense_is_refused(arguments, words):
    with pytest.raises(AttnLensError, match=words):
        tree(*arguments)


@given(st.integers(1, 9), st.floats(0, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_what_is_seen_counts_by_the_bias_at_the_root_and_alone_at_the_bottom(deepest, bias, existing, latent):
    assert weight(0, deepest, bias) == pytest.approx(bias)
    assert weight(deepest, deepest, bias) == pytest.approx(1)
    for depth in range(deepest + 1):
        w = bias + (1 - bias) * depth**2 / deepest**2
        assert priority(existing, latent, depth, deepest, bias) == pytest.approx(w * existing + (1 - w) * latent)


def test_a_tree_of_one_node_weighs_by_the_bias():
    assert weight(0, 0, 0.2) == 0.2


# Type 1


def plainly_one(root, table, preset, to_bottom):
    """(box, score, boxes looked at) by a list that is searched anew each time."""
    waiting, looked = [(0.0, root)], []
    deepest = max(node.depth for node in root)
    tau, falls = preset.threshold, list(preset.decay)
    while waiting:
        top = max(promise for promise, _ in waiting)
        position = next(i for i, (promise, _) in enumerate(waiting) if promise == top)
        node = waiting.pop(position)[1]
        looked.append((table.of("answering", node.box), node))
        best = max(looked, key=lambda one: one[0])
        bottom = any(not one.children for _, one in looked)
        pops = len(looked)
        if best[0] < tau and pops in range(3 * deepest, 10**6, 2):
            fall = falls.pop(0) if len(falls) > 1 else falls[0]
            if round(tau - fall, 9) >= preset.min_threshold:
                tau = round(tau - fall, 9)
            else:
                falls.insert(0, fall)
                if bottom or not to_bottom:
                    return None, looked
        if best[0] >= tau and (bottom or not to_bottom):
            return best, looked
        for child in node.children:
            d, b = child.depth / deepest, preset.bias
            w = b + (1 - b) * d**2
            waiting.append((w * table.of("existing", child.box) + (1 - w) * table.of("latent", child.box), child))
    best = max(looked, key=lambda one: one[0])
    while round(tau - falls[0], 9) >= preset.min_threshold:
        tau = round(tau - (falls.pop(0) if len(falls) > 1 else falls[0]), 9)
    return (best if best[0] >= tau else None), looked


def candidate(looked, tau, deepest):
    """The surest region that passes; of the deepest ones alone, where several targets are looked for."""
    passing = [one for one in looked if one[0] >= tau]
    if deepest and passing:
        passing = [one for one in passing if one[1].depth == max(other[1].depth for other in passing)]
    return max(passing, key=lambda one: one[0], default=None)


def plainly_released(root, table, preset, to_bottom):
    """The released search, step by step: look, then lower the threshold, then see whether it is too low."""
    waiting, looked = [(0.0, root)], []
    deepest = max(node.depth for node in root)
    tau, steps = preset.threshold, list(preset.decay)
    while waiting:
        top = max(promise for promise, _ in waiting)
        node = waiting.pop(next(i for i, (promise, _) in enumerate(waiting) if promise == top))[1]
        looked.append((table.of("answering", node.box), node))
        at_bottom = not to_bottom or any(not one.children for _, one in looked)

        if (
            candidate(looked, tau, to_bottom) is None
            and len(looked) in range(3 * deepest, 10**6, 2)
            and tau >= preset.min_threshold
        ):
            tau = round(tau - (steps.pop(0) if len(steps) > 1 else steps[0]), 9)
        if at_bottom and candidate(looked, tau, to_bottom) is not None:
            return candidate(looked, tau, to_bottom), looked
        if at_bottom and tau < preset.min_threshold:
            return None, looked
        for child in node.children:
            w = preset.bias + (1 - preset.bias) * (child.depth / deepest) ** 2
            waiting.append((w * table.of("existing", child.box) + (1 - w) * table.of("latent", child.box), child))
    return None, looked


presets = st.one_of(
    st.sampled_from(list(PRESETS.values())),
    st.builds(
        Preset,
        st.just(336),
        bias=st.sampled_from([0, 0.2, 0.5, 1]),
        threshold=st.sampled_from([0.3, 0.6, 1.0]),
        min_threshold=st.sampled_from([-1.0, -0.3, 0.0, 0.3]),
        decay=st.sampled_from([(0.1,), (0.1, 0.1, 0.2), (0.5, 0.5)]),
    ),
)
thorough = presets.map(lambda preset: replace(preset, variant="thorough"))
released = presets.map(lambda preset: replace(preset, variant="released"))
lifts = st.sampled_from([0, -0.3, -0.6, -1])


def check_search(root, table, expected, looked, found):
    if expected is None:
        assert found == Region(root.box, 0.0, False)
    else:
        assert found == Region(expected[1].box, expected[0], True)
    assert table.asked["answering"] == [node.box for _, node in looked]


@given(sizes, st.integers(200, 900), st.integers(0, 3), st.integers(0, 10**6), thorough, st.booleans(), lifts)
def test_the_thorough_search_equals_the_plain_one(size, side, depth, seed, preset, to_bottom, lift):
    root, table = tree(size, side, depth), Table(seed, lift)
    expected, looked = plainly_one(root, table, preset, to_bottom)
    check_search(root, table, expected, looked, find_one(root, table, preset, to_bottom=to_bottom))


@settings(max_examples=400)
@given(sizes, st.integers(200, 900), st.integers(0, 3), st.integers(0, 10**6), released, st.booleans(), lifts)
def test_the_released_search_equals_the_plain_one(size, side, depth, seed, preset, to_bottom, lift):
    root, table = tree(size, side, depth), Table(seed, lift)
    expected, looked = plainly_released(root, table, preset, to_bottom)
    check_search(root, table, expected, looked, find_one(root, table, preset, to_bottom=to_bottom))


def searches(variant, **options):
    """What a search of each of 400 trees finds."""
    found = []
    for seed in range(400):
        root, preset = tree((1400 + seed, 900 + seed % 7 * 100), 336, 2), replace(PRESETS["llava-1.5"], variant=variant)
        found.append((find_one(root, Table(seed, -1), preset, **options), root, Table(seed, -1), preset))
    return found


@pytest.mark.parametrize("to_bottom", [False, True])
def test_the_released_search_equals_the_plain_one_on_400_trees_of_every_outcome(to_bottom):
    below = nothing = 0
    for found, root, table, preset in searches("released", to_bottom=to_bottom):
        expected, _ = plainly_released(root, table, preset, to_bottom)
        assert found == (
            Region(root.box, 0.0, False) if expected is None else Region(expected[1].box, expected[0], True)
        )
        below += found.confident and found.score < preset.min_threshold
        nothing += not found.confident
    assert below >= 5  # accepted at the step that takes the threshold below its floor
    assert 5 <= nothing <= 395


def test_only_the_released_search_takes_what_lies_below_the_floor():
    assert not any(found.confident and found.score < preset.min_threshold for found, *_, preset in searches("thorough"))


def test_with_several_targets_the_released_search_takes_the_deepest_region_that_passes():
    root = tree((1344, 1344), 336, depth=1)

    class Surest(Table):
        def of(self, kind, box):
            return 0.9 if box == root.box else 0.7

    for variant, depth in (("released", 1), ("thorough", 0)):
        found = find_one(root, Surest(0), replace(PRESETS["llava-1.5"], variant=variant), to_bottom=True)
        assert next(node.depth for node in root if node.box == found.box) == depth


def test_an_exhausted_tree_gives_the_released_search_nothing():
    root, half = tree((400, 300), 336, depth=0), 0.3

    class Half(Table):
        def of(self, kind, box):
            return half

    for variant, confident in (("released", False), ("thorough", True)):
        preset = replace(PRESETS["llava-1.5"], variant=variant)
        assert find_one(root, Half(0), preset).confident is confident


@given(sizes, st.integers(0, 10**6), st.booleans())
def test_each_part_costs_two_questions_and_each_region_looked_at_one(size, seed, to_bottom):
    root, table = tree(size, 336, depth=3), Table(seed, lift=-0.4)
    find_one(root, table, PRESETS["llava-1.5"], to_bottom=to_bottom)
    nodes = {node.box: node for node in root}
    looked = table.asked["answering"]
    assert len(looked) == len(set(looked))
    opened = [child.box for box in looked[:-1] for child in nodes[box].children]  # the last one ends the search
    assert table.asked["existing"] == table.asked["latent"] == opened


class Spotted(Table):
    """The target lies at one pixel: it exists where that pixel is, and answers in regions of at most `close` pixels."""

    def __init__(self, x, y, close):
        super().__init__(0)
        self.x, self.y, self.close = x, y, close

    def of(self, kind, box):
        here = box.x1 <= self.x < box.x2 and box.y1 <= self.y < box.y2
        if kind == "answering":
            return 0.9 if here and max(box.width, box.height) <= self.close else -0.9
        return 0.8 if here else -0.8


@given(st.integers(0, 2687), st.integers(0, 1999), st.sampled_from([200, 400, 700, 1400]))
def test_a_target_is_found_by_looking_only_at_what_holds_it(x, y, close):
    table = Spotted(x, y, close)
    found = find_one(tree((2688, 2000), 336), table, PRESETS["llava-1.5"])
    assert found.confident
    assert found.score == 0.9
    assert found.box.x1 <= x < found.box.x2
    assert found.box.y1 <= y < found.box.y2
    assert max(found.box.width, found.box.height) <= close
    assert len(table.asked["answering"]) == 1 + round(math.log2(2688 / found.box.width))


class Everywhere(Table):
    def of(self, kind, box):
        return 0.99


class Nowhere(Table):
    def of(self, kind, box):
        return -0.5


def test_a_question_answerable_at_once_looks_no_further_unless_it_must_reach_the_bottom():
    root = tree((1344, 1344), 336)
    short, long = Everywhere(0), Everywhere(0)
    assert find_one(root, short, PRESETS["llava-1.5"]) == Region(root.box, 0.99, True)
    assert short.asked == {"answering": [root.box], "existing": [], "latent": []}
    assert find_one(root, long, PRESETS["llava-1.5"], to_bottom=True).confident
    looked = {node.box: node for node in root}
    *others, last = (looked[box] for box in long.asked["answering"])
    assert all(node.children for node in others)
    assert last.depth == root.deepest


def test_a_search_that_finds_nothing_gives_up_and_says_so():
    root, table = tree((2688, 2688), 336), Nowhere(0)
    assert find_one(root, table, PRESETS["llava-1.5"]) == Region(root.box, 0.0, False)
    falls = len(PRESETS["llava-1.5"].levels) - 1  # the last of them is the fall below the floor
    assert len(table.asked["answering"]) == 3 * root.deepest + 2 * (falls - 1)


class Shallow(Table):
    """Larger regions promise more, and nothing answers."""

    def of(self, kind, box):
        return -0.5 if kind == "answering" else box.width / 10_000


def test_a_search_that_must_reach_the_bottom_does_not_give_up_before():
    root, preset = tree((1344, 1344), 336), Preset(336, bias=0.2, threshold=0.6, min_threshold=0.6)
    depths = {node.box: node.depth for node in root}
    free, bound = Shallow(0), Shallow(0)
    assert not find_one(root, free, preset).confident
    assert not find_one(root, bound, preset, to_bottom=True).confident
    assert [depths[box] for box in free.asked["answering"]] == [0] + [1] * 4 + [2] * 4  # 3 D = 9
    assert [depths[box] for box in bound.asked["answering"]] == [0] + [1] * 4 + [2] * 16 + [3]


def test_an_image_smaller_than_the_input_has_one_region():
    root = tree((100, 80), 336)
    assert find_one(root, Nowhere(0), PRESETS["llava-1.5"]) == Region(root.box, 0.0, False)
    assert find_one(root, Everywhere(0), PRESETS["llava-1.5"]) == Region(root.box, 0.99, True)


@pytest.mark.parametrize("given", [[], [0.1, 0.2], [math.nan], [1.5], [-2], ["yes"], None, 0.5], ids=str)
def test_confidences_that_are_not_one_number_for_each_box_are_refused(given):
    class Odd(Table):
        def answering(self, boxes):
            return given

    with pytest.raises(AttnLensError, match=r"Odd.answering gave .* from -1 to 1"):
        find_one(tree((900, 900), 336), Odd(0), PRESETS["llava-1.5"])


# Type 2


def plainly_all(root, table, least):
    """Every node that is sure enough, at least as sure as all below it, and below no other such node."""

    def strong(node):
        own = table.of("existing", node.box)
        return own >= least and all(own >= table.of("existing", other.box) for other in node)

    def above(node):
        return [one for one in root if one is not node and any(other is node for other in one)]

    return [node for node in root if strong(node) and not any(strong(one) for one in above(node))]


@given(sizes, st.integers(0, 2), st.integers(0, 10**6), st.sampled_from([0.0, 0.6, 1.0]), st.sampled_from([0, -0.5]))
def test_the_post_order_search_keeps_what_the_plain_definition_keeps(size, depth, seed, least, lift):
    root, table = tree(size, 336, depth), Table(seed, lift)
    expected = [Region(n.box, table.of("existing", n.box), True) for n in plainly_all(root, table, least)]
    assert find_all(root, table, least) == (expected or [Region(root.box, 0.0, False)])
    assert table.asked["existing"] == [node.box for node in root]


def test_a_sure_find_is_not_swallowed_by_the_whole_image():
    inner = Node(Box(0, 0, 50, 50), 2)
    outer = Node(Box(0, 0, 100, 100), 1, (inner,))
    root = Node(Box(0, 0, 200, 200), 0, (outer,))

    class Three(Table):
        def of(self, kind, box):
            return {50: 0.9, 100: 0.1, 200: 0.7}[box.x2]

    assert find_all(root, Three(0)) == [Region(inner.box, 0.9, True)]


# The boxes to show


def plainly_gathered(boxes, size, side, near):
    """Enlarge, then merge any near pair until there is none."""
    out = []
    for x1, y1, x2, y2 in boxes:
        edges = []
        for start, stop, limit in ((x1, x2, size[0]), (y1, y2, size[1])):
            length = min(max(stop - start, math.ceil(side)), limit)
            first = (start + stop - length) // 2
            first = 0 if first < 0 else limit - length if first + length > limit else first
            edges.append((first, first + length))
        out.append([edges[0][0], edges[1][0], edges[0][1], edges[1][1]])
    merged = True
    while merged:
        merged = False
        for a, b in itertools.permutations(out, 2):
            if (
                a[0] - near <= b[2] and b[0] - near <= a[2] and a[1] - near <= b[3] and b[1] - near <= a[3]
            ):  # fmt: skip
                out.remove(a)
                out.remove(b)
                out.append([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
                merged = True
                break
    return sorted(map(tuple, out))


@given(
    st.integers(50, 2000), st.integers(50, 2000), st.data(), st.sampled_from([1, 40.5, 336, 5000]),
    st.sampled_from([0, 50, 300]),
)  # fmt: skip
def test_gathered_boxes_equal_the_plain_ones(width, height, data, side, near):
    corners = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    boxes = [
        Box(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1)
        for (a, b), (c, d) in data.draw(st.lists(st.tuples(corners, corners), max_size=6))
    ]
    found = merge_near(boxes, (width, height), side, near)
    assert sorted(map(tuple, found)) == plainly_gathered(boxes, (width, height), side, near)
    for box in found:
        assert box.clip((width, height)) == box
        assert box.width >= min(side, width)
        assert box.height >= min(side, height)


def test_boxes_merge_at_a_hundred_pixels_and_not_at_one_more():
    one, near, far = Box(0, 0, 100, 100), Box(200, 0, 300, 100), Box(201, 0, 300, 100)
    assert merge_near([one, near], (500, 500), 1) == [Box(0, 0, 300, 100)]
    assert merge_near([one, far], (500, 500), 1) == [one, far]
    assert Box.around([one, far]) == (0, 0, 300, 100)


def test_a_box_around_nothing_is_refused():
    with pytest.raises(AttnLensError, match="at least one"):
        Box.around([])
    assert merge_near([], (10, 10), 5) == []


# Presets


@pytest.mark.parametrize(
    ("name", "levels", "side", "bias", "scale"),
    [
        ("llava-1.5", (0.6, 0.5, 0.4, 0.2, 0.0, -0.2), 336, 0.2, 1),
        ("llava-onevision", (0.6, 0.5, 0.4, 0.2, 0.0, -0.2), 384, 0.6, 1.2),
        ("internvl2.5", (0.2, 0.1, 0.0, -0.2, -0.4), 448, 0.6, 1.2),
        ("qwen2.5-vl", (0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0, -0.2), 448, 0.6, 1.2),
    ],
)
def test_presets_are_the_released_settings(name, levels, side, bias, scale):
    preset = PRESETS[name]
    assert (preset.levels, preset.input_side, preset.bias, preset.scale) == (levels, side, bias, scale)
    assert (preset.depth, preset.depth_of_all, preset.min_confidence, preset.variant) == (5, 2, 0.6, "released")
    assert replace(preset, variant="thorough").levels == levels[:-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_side": 0}, "input_side is 0"),
        ({"bias": 1.2}, "bias is 1.2"),
        ({"threshold": 0.1, "min_threshold": 0.5}, "min_threshold <= threshold"),
        ({"threshold": 3}, "from -1 to"),
        ({"decay": ()}, "decay is"),
        ({"decay": (0.1, 0)}, "decay is"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": math.inf}, "scale is inf"),
        ({"input_side": True}, "input_side is True"),
        ({"bias": "0.2"}, "bias is '0.2'"),
        ({"min_threshold": None}, "falls to None"),
        ({"threshold": math.nan}, "starts at nan"),
        ({"decay": 0.1}, "decay is 0.1"),
        ({"decay": "0.1"}, "decay is '0.1'"),
        ({"decay": (0.1, None)}, "decay is"),
        ({"scale": True}, "scale is True"),
        ({"variant": "paper"}, "variant is 'paper'; expected one of released, thorough"),
        ({"min_confidence": 2}, "min_confidence is 2"),
        ({"min_confidence": "x"}, "min_confidence is 'x'"),
        ({"depth": -1}, "depth is -1"),
        ({"depth": True}, "depth is True"),
        ({"depth_of_all": 1.5}, "depth_of_all is 1.5"),
    ],
    ids=str,
)
def test_contradictory_presets_are_refused(options, words):
    with pytest.raises(AttnLensError, match=words):
        Preset(**{"input_side": 336, "bias": 0.2} | options)
