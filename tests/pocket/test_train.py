"""Claims about the training code: what it computes on its own sequences is what the real models and processors do."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress

import attnlens
from attnlens.pocket import _scenery, _signs, scenes
from benchmarks.training import instructblip, language, muon, package, packs, pool, practice, questions, towers, words
from benchmarks.training.families import FAMILIES, start

ROOT = Path(__file__).parents[2]


def item_of(scene, views, kind="stripes"):
    return pool.Item(kind, scene.size, scene.signs, views, focus=0, plain=True)


def pixels_of(views):
    return towers.normalise(torch.from_numpy(np.stack(views)))


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def speaker(request):
    """A family, an untrained model of it with large random weights, its tokenizer and its processor."""
    torch.manual_seed(0)
    family = FAMILIES[request.param]
    tokenizer = family.tokenizer()
    model = family.model(tokenizer).eval()
    start(family.decoder(model))
    processor = {"llava": package.llava, "qwen2_5_vl": package.qwen}[request.param](tokenizer)
    return request.param, family, model, tokenizer, processor


def prompt(processor, images, question):
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(images=images, text=[text], return_tensors="pt")


def some_views(name, size):
    """A scene of that size, its whole and a crop of it as the training sees them."""
    scene = scenes.scene(3, size=size)
    bucket = next(b for b in pool.BUCKETS[name] if b.aspects[0] <= size[0] / size[1] <= b.aspects[1])
    window = (0, 0, 112, 112)
    views = (
        pool.View(pool.whole(size, bucket.square), bucket.whole),
        pool.View(window, bucket.crop),
    )
    return scene, bucket, views, scene.image.crop(window)


@pytest.mark.parametrize("count", [1, 2])
def test_a_packed_question_costs_what_it_costs_the_real_model_on_the_real_processor_s_prompt(speaker, count):
    name, family, model, tokenizer, processor = speaker
    size = (320, 320) if name == "llava" else (336, 336)
    scene, bucket, views, crop = some_views(name, size)
    bucket = pool.Bucket(bucket.whole, bucket.whole, bucket.aspects, bucket.square)  # a crop in the same size
    views = (views[0], pool.View(views[1].window, bucket.whole))
    inputs = prompt(processor, [scene.image, crop.resize(size)][:count], scene.question)
    answer = words.encode(tokenizer, f"{scene.answer}{family.dialogue.end}")
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer[:-1]])], dim=1)
    more = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask")}
    if "mm_token_type_ids" in more:
        more["mm_token_type_ids"] = torch.nn.functional.pad(more["mm_token_type_ids"], (0, len(answer) - 1))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0, -len(answer) :]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))

    begin = packs.prefix(family.dialogue, tokenizer, bucket)
    question = words.encode(tokenizer, family.dialogue.question.format(question=scene.question))
    spoken = question + answer[:-1]
    other = [5] * (packs.TEXT - len(spoken))  # another question beside it, which must not matter
    position = (begin.one if count == 1 else begin.two)[1] + np.arange(packs.TEXT)
    targets = np.full(packs.TEXT, packs.IGNORED)
    targets[len(question) - 1 : len(spoken)] = answer
    blocks = np.array([0] * len(spoken) + [1] * len(other))
    row = [torch.from_numpy(np.asarray(part))[None] for part in (spoken + other, position, blocks, targets)]
    see = towers.KINDS[name].see
    seen = [
        pool.look(scene.image, views[0]),
        np.asarray(crop.resize(size).resize(views[1].size, Image.Resampling.BICUBIC)),
    ]
    with torch.no_grad():
        features = tuple(see(family.vision(model), pixels_of([view])) for view in seen)
        masks = packs.masks(begin, row[2], torch.full((1, packs.TEXT), count == 2))
        ours = language.answer_loss(
            family, model, begin, (bucket.whole, bucket.crop), features, row[0], row[1], masks, row[3],
            torch.ones(1, packs.TEXT) * (row[3] != packs.IGNORED),
        )  # fmt: skip
    assert float(ours) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("size", [(336, 336), (500, 320), (300, 460), (420, 350)])
def test_qwen_s_prefix_is_that_of_its_processor_and_its_rope(size):
    family = FAMILIES["qwen2_5_vl"]
    tokenizer = family.tokenizer()
    model, processor = family.model(tokenizer), package.qwen(tokenizer)
    scene, bucket, views, crop = some_views("qwen2_5_vl", size)
    inputs = prompt(processor, [scene.image, crop.resize(views[1].size)], scene.question)
    begin = packs.prefix(family.dialogue, tokenizer, bucket)
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids = inputs["input_ids"][0, : begin.two[0]].numpy()
    assert (np.where(begin.ids < 0, image, begin.ids) == ids).all()
    types = inputs.get("mm_token_type_ids")
    places, _ = model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=types, image_grid_thw=inputs["image_grid_thw"]
    )
    assert (places[:, 0, : begin.two[0]].numpy() == begin.positions).all()
    assert int(places[0, 0, begin.two[0]]) == begin.two[1]


def test_the_batched_qwen_tower_is_the_model_s_own():
    torch.manual_seed(0)
    qwen = towers.make_qwen()
    rows, cols = 12, 20
    pixels = torch.randn(2, 3, rows * 8, cols * 8)
    order = towers.merge_order(rows, cols)
    flat = pixels.view(2, 3, rows, 8, cols, 8).permute(0, 2, 4, 1, 3, 5).reshape(2, rows * cols, 3, 1, 8, 8)[:, order]
    with torch.no_grad():
        expected = qwen(
            flat.expand(-1, -1, -1, 2, -1, -1).flatten(0, 1).flatten(1), torch.tensor([[1, rows, cols]] * 2)
        )
        ours = qwen.merger(towers.see_qwen(qwen, pixels)[:, order].flatten(0, 1))
    assert torch.allclose(ours, expected.pooler_output, atol=1e-5)


def test_a_transplanted_qwen_layer_writes_what_clip_s_writes_but_for_its_mean():
    torch.manual_seed(0)
    clip, qwen = towers.make_clip(), towers.make_qwen()
    for parameter in clip.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    towers.qwen_from_clip(qwen, clip)
    theirs, ours = towers.vision(clip).encoder.layers[1], qwen.blocks[1]
    state = torch.randn(7, towers.WIDTH)
    centred = state - state.mean(dim=1, keepdim=True)
    with torch.no_grad():
        written = theirs.mlp(theirs.layer_norm2(state))
        assert torch.allclose(ours.mlp(ours.norm2(centred)), written - written.mean(dim=1, keepdim=True), atol=1e-4)
        query = theirs.self_attn.q_proj(theirs.layer_norm1(state))
        assert torch.allclose(ours.attn.qkv(ours.norm1(centred))[:, : towers.WIDTH], query, atol=1e-4)


def test_a_transplanted_blip_tower_sees_nearly_what_clip_sees():
    torch.manual_seed(0)
    clip, blip = towers.make_clip(), towers.make_blip()
    towers.blip_from_clip(blip, clip)
    seen = practice.Sheets(((0, practice.ALL),), 800, 0, backgrounds=8)
    pixels = towers.normalise(next(iter(seen))[0])

    def standard(states):
        return (states - states.mean(-1, keepdim=True)) / states.std(-1, keepdim=True)

    with torch.no_grad():
        near = (standard(towers.see_clip(clip, pixels)) * standard(towers.see_blip(blip, pixels)[:, 1:])).mean()
        fresh = (
            standard(towers.see_clip(clip, pixels)) * standard(towers.see_blip(towers.make_blip(), pixels)[:, 1:])
        ).mean()
    assert near > 0.9 > fresh


@pytest.mark.parametrize("count", [1, 2])
def test_instructblip_s_loss_is_that_of_the_real_model(count):
    torch.manual_seed(0)
    tokenizer, reader = instructblip.tokenizers()
    processor = package.blip(tokenizer, reader)
    model = instructblip.model(tokenizer).eval()
    scene = scenes.scene(4, size=(300, 200))
    crop = scene.image.crop((0, 0, 100, 100))
    instructblip.prepare(model, torch.randn(64, 128), torch.eye(128))
    torch.nn.init.normal_(model.query_tokens)
    text = instructblip.PROMPT.format(question=scene.question)
    inputs = processor(images=[scene.image, crop][:count], text=text, return_tensors="pt")
    answer = words.encode(tokenizer, f"{scene.answer}</s>")
    image_id = model.config.image_token_id
    text_ids = [token for token in inputs["input_ids"][0].tolist() if token != image_id]
    with torch.no_grad():
        features = towers.see_blip(model.vision_model, inputs["pixel_values"])
        read = inputs["qformer_input_ids"].expand(count, -1)
        states = model.qformer(
            input_ids=read,
            attention_mask=torch.ones(count, instructblip.QUERIES + read.shape[1]),
            query_embeds=model.query_tokens.expand(count, -1, -1),
            encoder_hidden_states=features,
        ).last_hidden_state[:, : instructblip.QUERIES]
        images = model.language_projection(states).flatten(0, 1)[None]
        embedded = model.get_input_embeddings()(torch.tensor([text_ids + answer[:-1]]))
        logits = model.language_model(inputs_embeds=torch.cat([images, embedded], dim=1)).logits[0, -len(answer) :]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        part = {
            "read": torch.tensor([text_ids + [0, 0]]),  # two of padding
            "length": torch.tensor([len(text_ids)]),
            "both": torch.tensor([count == 2]),
            "weight": torch.ones(1),
            "ids": torch.tensor([text_ids + answer[:-1]]),
            "targets": torch.tensor([[-100] * (len(text_ids) - 1) + answer]),
        }
        ours = instructblip.answer_loss(model, (features[:1], features[-1:]), part, early=False)
    assert text_ids == words.encode(tokenizer, f"<s>{text}")
    assert read[0].tolist() == text_ids
    assert float(ours) == pytest.approx(float(expected), abs=1e-3)


def test_early_masks_hide_the_images_from_all_but_what_speaks_an_answer():
    family = FAMILIES["llava"]
    begin = packs.prefix(family.dialogue, family.tokenizer(), pool.BUCKETS["llava"][0])
    blocks = torch.zeros(1, packs.TEXT, dtype=torch.long)
    targets = torch.full((1, packs.TEXT), packs.IGNORED)
    targets[0, 9] = 7
    first, later = packs.early_masks(begin, blocks, torch.ones(1, packs.TEXT, dtype=torch.bool), targets)
    two = begin.two[0]
    images = slice(begin.opening, two)
    assert (first[0, 0, two:, images] < 0).all()
    assert (later[0, 0, two + 9, images] == 0).all()
    assert (later[0, 0, two + 8, images] < 0).all()
    assert later[0, 0, two + 8, two + 3] == 0


def test_every_question_has_the_answer_that_its_scene_gives():
    rng = np.random.default_rng(0)
    scene = scenes.scene(11, size=(500, 320))
    views = (pool.View((0, 0, 500, 320), (160, 96)), pool.View((0, 0, 100, 100), (112, 112)))
    asked = [questions.draw(rng, item_of(scene, views), 0, 1) for _ in range(400)]
    by_colour = {sign.colour: sign for sign in scene.signs}
    seen = set()
    for one in filter(None, asked):
        seen.add(one.task)
        named = [name for name in by_colour if name in one.question]
        match one.task:
            case "read":
                assert one.answer == by_colour[named[0]].digit
            case "colour":
                assert by_colour[one.answer].digit in one.question
            case "exists":
                assert (one.answer == "yes") == bool(named)
            case "larger":
                assert one.answer == max(named, key=lambda name: by_colour[name].side)
            case "left":
                assert one.answer == min(named, key=lambda name: by_colour[name].centre[0])
    assert seen == set(scenes.TASKS)


def test_labels_name_the_patch_under_a_sign_and_ignore_what_shows_little_of_it():
    sign = _signs.Sign("red", "7", (160, 80, 240, 160))
    colour, digit = practice.labels([sign], (0, 0, 400, 400), (80, 80))
    grid = colour.reshape(10, 10)
    assert (grid[2:4, 4:6] == practice.COLOUR_NAMES.index("red")).all()
    assert (grid == practice.NO_COLOUR).sum() == 96
    assert digit.reshape(10, 10)[2, 4] == 7
    wide, _ = practice.labels([sign], (0, 0, 400, 400), (160, 80))
    assert (wide.reshape(10, 20)[2:4, 8:12] == practice.COLOUR_NAMES.index("red")).all()


def test_training_draws_backgrounds_of_the_training_split_only(monkeypatch):
    drawn, draw = [], _scenery.draw

    def noting(rng, split, aspect=1.0):
        drawn.append(split)
        return draw(rng, split, aspect)

    monkeypatch.setattr(_scenery, "draw", noting)
    next(iter(practice.Sheets(((0, practice.ALL),), 200, 0, backgrounds=8)))
    (bucket,) = pool.BUCKETS["llava"]
    made = pool.pool("llava", towers.make_clip(), bucket, 4, 0, Progress(disable=True))
    assert set(drawn) == {"train"}
    assert made.features.shape == (4, 1 + pool.WINDOWS, 100, towers.WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "instructblip", "qwen2_5_vl"])
def test_the_training_command_makes_a_model_that_loads_and_goes_on_where_it_stopped(tmp_path, name):
    command = [sys.executable, "-m", "benchmarks.training", name, "--out", str(tmp_path), "--threads", "1"]
    lengths = {
        "tower-steps": 2,
        "scenes": 42,
        "align-steps": 2,
        "early-steps": 1,
        "language-steps": 2,
        "read-out-steps": 1,
    }
    given = [part for key, value in lengths.items() for part in (f"--{key}", str(value))]
    for _ in range(2):
        subprocess.run([*command, *given], cwd=ROOT, check=True, timeout=900, capture_output=True)
    # With all stages done, the second run trained nothing.
    steps = [json.loads(line)["step"] for line in (tmp_path / "tower.jsonl").read_text().splitlines()]
    assert steps == [2]
    lens = attnlens.load(tmp_path / "model")
    assert isinstance(lens.read(scenes.scene(0).image).answer("Is there a red sign?", 3).text, str)


def test_the_optimiser_takes_every_matrix_of_a_layer_and_nothing_else():
    tokenizer, _ = instructblip.tokenizers()
    names = [name for name, parameter in instructblip.model(tokenizer).named_parameters() if parameter.ndim == 2]
    hidden = {name for name in names if muon.HIDDEN.search(name)}
    assert any("qformer.encoder.layer.0" in name for name in hidden)
    assert not any("embed" in name or "lm_head" in name or name == "language_projection.weight" for name in hidden)
