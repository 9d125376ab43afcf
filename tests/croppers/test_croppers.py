"""The external croppers against plain readings of ViCrop's appendix F, and transformers' models at random weights."""

import itertools
import math
import subprocess
import sys
import zlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attnlens import AttnLensError, Box
from attnlens.boxes import Region
from attnlens.croppers import clip, clip_scorer, detector, external, rank_regions, segmenter
from tests.croppers.models import sam_pictures, tiny_clip, tiny_rt_detr, tiny_sam, tiny_yolos

QUESTION = "what is it?"
# Between scores of one CLIP in float32: how many pictures are in a batch, and where in memory the weights lie, decide
# the order in which a processor sums. By that the last digits differ, under 2e-6; two crops differ by 100 times CLOSE.
CLOSE = 1e-4


def picture(width=150, height=90, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def located(width, height):
    """An image whose every pixel says where it is, so that a crop tells its box."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=-1).astype(np.uint8))


def box_of(crop):
    r, g, b = crop.getpixel((0, 0))
    x, y = r + 256 * (b % 16), g + 256 * (b // 16)
    return x, y, x + crop.width, y + crop.height


def seeded(seed):
    """A score for each box, coarse enough for ties, and a scorer that reads the boxes off the crops."""

    def score(box):
        return zlib.crc32(f"{seed} {box}".encode()) % 7 / 2

    return score, lambda crops, question: [score(box_of(crop)) for crop in crops]


def plain_square(box, size):
    """The smallest square around a box, moved into the image, or as much of one as the image has."""
    x1, y1, x2, y2 = box
    side, out = max(x2 - x1, y2 - y1), []
    for start, stop, limit in ((x1, x2, size[0]), (y1, y2, size[1])):
        length = min(side, limit)
        first = min(max((start + stop - side) // 2, 0), limit - length)
        out.append((first, first + length))
    return out[0][0], out[1][0], out[0][1], out[1][1]


# CLIP's shrinking


def plainly_shrunk(size, score, rounds, cut):
    """(box, score) by the words of the paper; None for an image that cannot be cut."""
    x1, y1, x2, y2 = 0, 0, *size
    seen = []
    for _ in range(rounds):
        dx, dy = max(1, round(cut * (x2 - x1))), max(1, round(cut * (y2 - y1)))
        four = [(x1 + dx, y1, x2, y2), (x1, y1 + dy, x2, y2), (x1, y1, x2 - dx, y2), (x1, y1, x2, y2 - dy)]
        four = [box for box in four if box[0] < box[2] and box[1] < box[3]]
        if not four:
            break
        x1, y1, x2, y2 = max(four, key=score)
        seen.append((x1, y1, x2, y2))
    return (max(seen, key=score), max(map(score, seen))) if seen else None


@given(
    st.integers(1, 600), st.integers(1, 600), st.integers(0, 10**6), st.integers(1, 25),
    st.sampled_from([0.1, 0.25, 0.9]),
)  # fmt: skip
def test_the_crop_of_clip_equals_the_plain_shrinking(width, height, seed, rounds, cut):
    score, scorer = seeded(seed)
    expected = plainly_shrunk((width, height), score, rounds, cut)
    (found,) = clip(scorer, rounds=rounds, cut=cut)(located(width, height), QUESTION)
    if expected is None:
        assert round(cut * width) in (0, width)  # what would be left out is all there is, on either side
        assert round(cut * height) in (0, height)
        assert found == Region(Box(0, 0, width, height), 0.0, False)
    else:
        assert found == Region(Box(*plain_square(expected[0], (width, height))), expected[1], True)


def test_twenty_rounds_of_four_crops_are_scored():
    asked = []
    clip(lambda crops, question: asked.append((len(crops), question)) or [0, 0, 0, 1])(located(300, 300), QUESTION)
    assert asked == [(4, QUESTION)] * 20


# Ranking what a detector or segmenter found


def plainly_ranked(boxes, size, score, count, iou):
    best = sorted(boxes, key=lambda box: -score(box))
    out = []
    for box in best:
        square = plain_square(box, size)
        overlaps = []
        for other, _ in out:
            across = min(square[2], other[2]) - max(square[0], other[0])
            down = min(square[3], other[3]) - max(square[1], other[1])
            shared = max(across, 0) * max(down, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (square, other)]
            overlaps.append(shared / (sum(areas) - shared))
        if all(overlap <= iou for overlap in overlaps):
            out.append((square, score(box)))
    return out[:count]


@given(st.data(), st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0, 0.25, 0.5]))
def test_the_regions_that_go_best_with_the_question_come_first(data, seed, count, iou):
    width, height = data.draw(st.integers(1, 600)), data.draw(st.integers(1, 600))
    corner = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    boxes = [
        (min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1)
        for (a, b), (c, d) in data.draw(st.lists(st.tuples(corner, corner), max_size=8))
    ]
    score, scorer = seeded(seed)
    found = rank_regions(lambda image: boxes, scorer, count=count, iou=iou)(located(width, height), QUESTION)
    if not boxes:
        assert found == [Region(Box(0, 0, width, height), 0.0, False)]
    else:
        expected = plainly_ranked(boxes, (width, height), score, count, iou)
        assert found == [Region(Box(*square), value, True) for square, value in expected]


# A function of the user's own


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_any_function_of_image_and_question_is_a_cropper(kind):
    seen = []

    def mine(image, question):
        seen.append((image.size, image.mode, question))
        return kind([[10, 20, 40, 30], [-50, 60, 20, 500]])

    found = external(mine)(np.zeros((90, 150), dtype=np.uint8), QUESTION)
    assert seen == [((150, 90), "RGB", QUESTION)]
    assert found == [Region(Box(10, 10, 40, 40), 1.0, True), Region(Box(0, 60, 30, 90), 0.5, True)]
    assert all(type(edge) is int for one in found for edge in one.box)


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), torch.zeros(0, 4)], ids=["list", "array", "tensor"])
def test_no_box_is_the_whole_image_without_confidence(nothing):
    whole = [Region(Box(0, 0, 150, 90), 0.0, False)]
    assert external(lambda image, question: nothing)(picture(), QUESTION) == whole
    assert rank_regions(lambda image: nothing, lambda crops, question: [])(picture(), QUESTION) == whole


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([(0, 0, 10, math.nan)], "four finite numbers"),
        ([(0, 0, 10, 10), (200, 0, 300, 10)], "outside the image"),
        ([(10, 0, 0, 10)], "out of order"),
        ([(0.1, 0.1, 0.5, 0.5)], "fractions of the image"),
        ([(0, 0, 10)], "four finite numbers"),
        ((0, 0, 10, 10), "four finite numbers"),
        (None, "expected a list of boxes"),
        ("box", "expected a list of boxes"),
    ],
    ids=str,
)
def test_a_box_that_cannot_be_used_is_an_error_that_names_the_function(boxes, words):
    def mine(*_):
        return boxes

    for cropper in (external(mine), rank_regions(mine, lambda crops, question: [0.0] * len(crops))):
        with pytest.raises(AttnLensError, match=f"^mine gave .*{words}"):
            cropper(picture(), QUESTION)


class Nameless:
    def __call__(self, *_):
        return None


def test_an_error_names_what_a_function_is_called_however_it_is_made():
    def mine(boxes, *_):
        return boxes

    for function, name in ((partial(mine, None), "mine"), (Nameless(), "Nameless"), (lambda *_: 3, "<lambda>")):
        with pytest.raises(AttnLensError, match=f"^{name} gave .*expected a list of boxes"):
            external(function)(picture(), QUESTION)


def test_a_cropper_is_a_function_too_and_its_boxes_keep_their_scores():
    boxes, scores = [(0, 0, 10, 20), (50, 10, 90, 30), (100, 0, 110, 10)], [0.5, 7.0, -2.0]
    inner = rank_regions(lambda image: boxes, lambda crops, question: scores, count=3)
    assert external(inner)(picture(), QUESTION) == inner(picture(), QUESTION)
    assert [one.score for one in external(inner)(picture(), QUESTION)] == [7.0, 0.5, -2.0]
    nothing = rank_regions(lambda image: [], len)
    assert external(nothing)(picture(), QUESTION) == nothing(picture(), QUESTION)
    with pytest.raises(AttnLensError, match="score of Region.*no finite number"):
        external(lambda *_: [Region(Box(0, 0, 5, 5), math.nan, True)])(picture(), QUESTION)


def test_a_box_given_twice_is_one():
    found = external(lambda *_: [(0, 0, 10, 10), (50, 10, 90, 50), (0, 0, 10, 10)])(picture(), QUESTION)
    assert [one.box for one in found] == [(0, 0, 10, 10), (50, 10, 90, 50)]


@pytest.mark.parametrize(
    "make",
    [
        iter,
        tuple,
        np.float32,
        lambda scores: torch.tensor(scores, requires_grad=True),
        lambda scores: torch.tensor(scores, dtype=torch.bfloat16),
        lambda scores: [torch.tensor(score, requires_grad=True) for score in scores],
        lambda scores: (np.float16(score) for score in scores),
    ],
    ids=["iterator", "tuple", "array", "gradient", "bfloat16", "tensors", "generator"],
)
def test_scores_may_be_of_any_kind_that_holds_numbers(make):
    boxes, scores = [(0, 0, 10, 10), (50, 10, 90, 50)], [1.0, 2.5]
    found = rank_regions(lambda image: boxes, lambda crops, question: make(scores), count=2)(picture(), QUESTION)
    assert [(one.box, one.score) for one in found] == [(boxes[1], 2.5), (boxes[0], 1.0)]


@pytest.mark.parametrize(
    "scores",
    [
        [], [1.0], [0, 0, math.nan, 0], [0, 0, 0, math.inf], None, 3, "abcd", [*"1234"], [1j, 0, 0, 0], [None] * 4,
        {0: 1, 1: 2, 2: 3, 3: 4}, {1.0, 2.0, 3.0, 4.0}, [[1], [2], [3], [4]], np.zeros((4, 1)),
        torch.zeros(4, dtype=torch.complex64),
    ],
    ids=str,
)  # fmt: skip
def test_scores_that_are_not_one_finite_number_for_each_crop_are_refused(scores):
    with pytest.raises(AttnLensError, match="for 4 crops; expected one finite number"):
        clip(lambda crops, question: scores)(picture(), QUESTION)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: clip(len, rounds=0), "rounds is 0"),
        (lambda: clip(len, cut=0), "cut is 0"),
        (lambda: clip(len, cut=1), "cut is 1"),
        (lambda: clip(len, rounds="3"), "rounds is '3'"),
        (lambda: clip(len, cut="0.1"), "cut is '0.1'"),
        (lambda: clip(len, cut=None), "cut is None"),
        (lambda: rank_regions(len, len, count=0), "count is 0"),
        (lambda: rank_regions(len, len, iou=2), "iou is 2"),
        (lambda: rank_regions(len, len, iou=-0.1), "iou is -0.1"),
        (lambda: rank_regions(len, len, iou=math.nan), "iou is nan"),
        (lambda: rank_regions(len, len, iou="0.3"), "iou is '0.3'"),
        (lambda: detector("nowhere/at-all", threshold="x"), "threshold is 'x'"),
        (lambda: segmenter("nowhere/at-all", quality=None), "quality is None"),
        (lambda: segmenter(*tiny_clip()), "model is a CLIPModel; expected a SamModel"),
        (lambda: clip_scorer(*tiny_sam()), "model is a SamModel; expected a CLIPModel"),
        (lambda: clip_scorer("nowhere/at-all", batch=0), "batch is 0"),
        (lambda: clip_scorer("nowhere/at-all"), "'nowhere/at-all' could not be loaded"),
        (lambda: detector("nowhere/at-all", threshold=1), "threshold is 1"),
        (lambda: detector("nowhere/at-all"), "'nowhere/at-all' could not be loaded"),
        (lambda: segmenter("nowhere/at-all", points=0), "points is 0"),
        (lambda: segmenter("nowhere/at-all", iou=2), "iou is 2"),
        (lambda: segmenter(object()), "object came without processor="),
    ],
)
def test_nonsense_is_refused_when_the_cropper_is_made(make, words):
    with pytest.raises(AttnLensError, match=words):
        make()


# transformers' models


def test_scores_are_clips_own_whatever_the_batch():
    model, processor = tiny_clip()
    crops = [picture(40 + 7 * i, 90 - 6 * i, seed=i) for i in range(5)]
    expected = []
    for crop in crops:
        inputs = processor(text=[QUESTION], images=[crop], return_tensors="pt")
        image = model.visual_projection(model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output)[0]
        text = model.text_projection(model.text_model(input_ids=inputs["input_ids"]).pooler_output)[0]
        cosine = (image @ text) / image.norm() / text.norm()
        expected.append((cosine * model.logit_scale.exp()).item())
    for batch in (1, 2, 32):
        assert clip_scorer(model, processor, batch=batch)(crops, QUESTION) == pytest.approx(expected, abs=CLOSE)
    assert np.ptp(expected) > 100 * CLOSE


def test_a_question_longer_than_clip_reads_is_an_error_not_a_cut():
    scorer = clip_scorer(*tiny_clip())
    with pytest.raises(AttnLensError, match="tokens, and CLIPModel reads 24"):
        scorer([picture()], "is there a " * 20)


def test_a_text_that_is_none_is_refused():
    with pytest.raises(AttnLensError, match="text is 3; expected a str"):
        clip_scorer(*tiny_clip())([picture()], 3)


def yolos_queries(model, inputs):
    """[(confidence, relative centre and size)]: one class a query, by softmax, the last class being nothing."""
    outputs = model(**inputs)
    chances = torch.softmax(outputs.logits[0], -1)[:, :-1].max(-1).values
    return zip(chances.tolist(), outputs.pred_boxes[0].tolist(), strict=True)


def rt_detr_queries(model, inputs):
    """The same by sigmoid, each query once for each class; as many are kept as there are queries."""
    outputs = model(**inputs)
    pairs = itertools.product(range(outputs.logits.shape[1]), range(outputs.logits.shape[2]))
    chances = torch.sigmoid(outputs.logits[0]).tolist()
    every = [(chances[query][label], outputs.pred_boxes[0, query].tolist()) for query, label in pairs]
    return sorted(every, key=lambda one: -one[0])[: outputs.logits.shape[1]]


@pytest.mark.parametrize(
    ("make", "queries"), [(tiny_yolos, yolos_queries), (tiny_rt_detr, rt_detr_queries)], ids=["yolos", "rt-detr"]
)
def test_a_detectors_boxes_are_the_plain_ones_in_pixels_of_the_image(make, queries):
    model, processor = make()
    image = picture()
    with torch.no_grad():
        seen = list(queries(model, processor(images=image, return_tensors="pt")))
    threshold = float(np.median([confidence for confidence, _ in seen]))
    expected = []
    for confidence, (x, y, w, h) in sorted(seen, key=lambda one: -one[0]):
        edges = ((x - w / 2) * 150, (y - h / 2) * 90, (x + w / 2) * 150, (y + h / 2) * 90)
        box = Box(*edges).clip(image.size)
        if confidence > threshold and box.width >= 1 and box.height >= 1:
            expected.append(box.to_pixels(image.size))
    assert 0 < len(expected) < len(seen)
    assert detector(model, processor, threshold=threshold)(image) == expected


def test_a_detector_that_is_sure_of_nothing_gives_the_whole_image_without_confidence():
    cropper = rank_regions(detector(*tiny_yolos(), threshold=0.9999), clip_scorer(*tiny_clip()))
    assert cropper(picture(), QUESTION) == [Region(Box(0, 0, 150, 90), 0.0, False)]


@pytest.mark.parametrize(("make", "regions"), [(tiny_yolos, detector), (tiny_rt_detr, detector), (tiny_sam, segmenter)])
def test_a_model_that_computes_nan_is_an_error_not_an_empty_image(make, regions):
    model, processor = make()
    with torch.no_grad():
        list(model.parameters())[-1].fill_(math.nan)
    with pytest.raises(AttnLensError, match="NaN or infinite"):
        regions(model, processor)(picture())


def test_an_image_that_the_processor_cannot_prepare_is_an_error_that_says_so():
    with pytest.raises(AttnLensError, match="YolosImageProcessorPil cannot prepare this image"):
        detector(*tiny_yolos())(picture(1, 900))


def test_a_clip_that_computes_nan_is_an_error():
    model, processor = tiny_clip()
    with torch.no_grad():
        model.visual_projection.weight.fill_(math.nan)
    with pytest.raises(AttnLensError, match="expected one finite number"):
        clip(clip_scorer(model, processor))(picture(), QUESTION)


def overlap(a, b):
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("size", [(150, 90), (70, 200), (64, 64)], ids=str)
@pytest.mark.parametrize("batch", [5, 64])
def test_the_boxes_of_sam_equal_those_of_one_point_after_the_other(size, batch):
    model, processor = tiny_sam()
    image, points, quality, stability = picture(*size), 4, 1.0, 0.2
    inputs = processor(images=image, return_tensors="pt")
    height, width = inputs["reshaped_input_sizes"][0].tolist()
    found = []
    for j, i in itertools.product(range(points), range(points)):
        point = torch.tensor([[[[(i + 0.5) / points * width, (j + 0.5) / points * height]]]])
        with torch.no_grad():
            outputs = model(pixel_values=inputs["pixel_values"], input_points=point)
        for mask, expected in zip(outputs.pred_masks[0, 0], outputs.iou_scores[0, 0].tolist(), strict=True):
            mask = mask[: math.ceil(height / 2), : math.ceil(width / 2)]  # a mask cell is two canvas pixels
            steady = (mask > 1).sum().item() / max((mask > -1).sum().item(), 1)
            if expected >= quality and steady >= stability and (mask > 1).any():
                rows, cols = torch.nonzero(mask > 0).T.tolist()
                x1, x2 = min(cols) * 2 * size[0] / width, (max(cols) + 1) * 2 * size[0] / width
                y1, y2 = min(rows) * 2 * size[1] / height, (max(rows) + 1) * 2 * size[1] / height
                found.append((expected, Box(x1, y1, x2, y2).clip(size).to_pixels(size)))
    kept = []
    for _, box in sorted(found, key=lambda one: -one[0]):
        if all(overlap(box, other) <= 0.9 for other in kept):
            kept.append(box)
    regions = segmenter(
        model, processor, points=points, quality=quality, stability=stability, iou=0.9, batch=batch
    )  # fmt: skip
    assert found
    assert regions(image) == kept


class ColourSam:
    """A SAM that cuts out exactly what has the colour under the point: on the canvas, four pixels to a mask cell."""

    device, dtype = torch.device("cpu"), torch.float32

    def eval(self):
        return self

    def get_image_embeddings(self, pixels):
        return pixels[0]

    def __call__(self, image_embeddings, input_points):
        cells = image_embeddings[:, ::2, ::2]
        masks = []
        for x, y in input_points[0, :, 0].tolist():
            colour = image_embeddings[:, int(y), int(x)][:, None, None]
            masks.append(torch.where((cells - colour).abs().amax(0) < 0.05, 8.0, -8.0))
        stack = torch.stack(masks)[None, :, None].expand(-1, -1, 3, -1, -1)
        scores = torch.tensor([0.95, 0.5, 0.2]).expand(1, len(masks), 3)
        return SimpleNamespace(pred_masks=stack, iou_scores=scores)


@pytest.mark.parametrize("size", [(640, 320), (300, 900)], ids=str)
def test_what_is_painted_into_an_image_is_found_where_it_was_painted(size):
    width, height = size
    painted = {"red": (0.1, 0.2, 0.4, 0.5), "lime": (0.5, 0.6, 0.9, 0.9), "blue": (0.6, 0.05, 0.8, 0.4)}
    image = Image.new("RGB", size, "white")
    for colour, (x1, y1, x2, y2) in painted.items():
        image.paste(colour, (int(x1 * width), int(y1 * height), int(x2 * width), int(y2 * height)))
    boxes = segmenter(ColourSam(), sam_pictures(resample=0), points=16)(image)
    cell = 2 * max(size) / 64
    for x1, y1, x2, y2 in painted.values():
        expected = np.array([x1 * width, y1 * height, x2 * width, y2 * height])
        assert min(np.abs(np.array(box) - expected).max() for box in boxes) <= 1.5 * cell
    assert Box(0, 0, *size) in boxes  # the white around them, and none of the padding
    assert len(boxes) == 4


@pytest.mark.parametrize("size", [(150, 90), (40, 300), (7, 5), (1, 1)], ids=str)
def test_every_cropper_of_transformers_models_gives_ints_inside_the_image(size):
    scorer = clip_scorer(*tiny_clip())
    croppers = [
        clip(scorer, rounds=3),
        rank_regions(detector(*tiny_yolos(), threshold=0), scorer, count=2),
        rank_regions(detector(*tiny_rt_detr(), threshold=0), scorer, count=2),
        rank_regions(segmenter(*tiny_sam(), points=2, quality=0, stability=0), scorer, count=2),
    ]
    for cropper in croppers:
        for found in cropper(picture(*size), QUESTION):
            x1, y1, x2, y2 = found.box
            assert 0 <= x1 < x2 <= size[0]
            assert 0 <= y1 < y2 <= size[1]
            assert all(type(edge) is int for edge in found.box)


@pytest.mark.parametrize(
    ("make", "part"),
    [(tiny_yolos, detector), (tiny_rt_detr, detector), (tiny_sam, segmenter), (tiny_clip, clip_scorer)],
)
def test_a_folder_gives_the_same_as_the_objects_saved_in_it(make, part, tmp_path):
    model, processor = make()
    for saved in (model, processor):
        saved.save_pretrained(tmp_path)
    options = {detector: {"threshold": 0}, segmenter: {"quality": 0, "stability": 0, "points": 3}, clip_scorer: {}}[
        part
    ]
    asked = ([picture(), picture(40, 40)], QUESTION) if part is clip_scorer else (picture(),)
    loaded, expected = part(tmp_path, **options)(*asked), part(model, processor, **options)(*asked)
    if part is clip_scorer:
        assert loaded == pytest.approx(expected, abs=CLOSE)
    else:
        assert loaded == expected


def test_importing_the_croppers_loads_no_torch():
    code = "import sys, attnlens.croppers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("make", "part"), [(tiny_yolos, detector), (tiny_sam, segmenter), (tiny_clip, clip_scorer)])
def test_a_model_is_put_on_the_device_that_is_named(make, part):
    model, processor = make()
    part(model, processor)
    assert model.device.type == "cpu"
    part(model, processor, device="meta")
    assert model.device.type == "meta"
    with pytest.raises(AttnLensError, match=f"{type(model).__name__} cannot be put on the device 'nowhere'"):
        part(make()[0], processor, device="nowhere")
