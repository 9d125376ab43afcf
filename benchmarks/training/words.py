"""The vocabulary, the tokenizer, and what is asked and answered in training."""

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from attnlens.pocket import _signs, scenes

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
PUNCTUATION = tuple("\n.,:;?!'\"()[]{}<>/\\|@#$%^&*_-+=`~")

# Only a few of these are ever trained; the others keep ordinary prompts from turning into <unk>.
PLAIN = """
user assistant system human image images picture photo photograph photographs sign signs digit digits number numbers letter letters
word words text phrase single question questions answer answers write written read reads shown show shows general description describe
described says say said pattern patterns stripes checks dots clouds bricks stripe check dot cloud brick astronaut cat coffee cup background
top bottom left right middle center corner upper lower side above below behind front near next between inside outside under over
yes no not none nothing unknown sure there here where what which who whom whose when why how
a an the this that these those it its is are was were be been being am do does did done doing have has had having can could will would
shall should may might must i you he she we they me him her us them my your his our their mine yours
and or but if then else because so than as of in on at to for from by with without about into onto through during before after up down out off
again once only just also very too more most less least much many few some any all each every both either neither other another same different
one two three four five six seven eight nine ten zero first second third last
black white gray grey brown gold silver dark light bright colour color colours colors coloured colored
big small large little tiny huge long short tall wide narrow high low old new young good bad best worst better worse right wrong true false
using use used uses make makes made look looks looking see sees seen saw find finds found tell tells told give gives given gave take takes took
taken get gets got go goes went gone come comes came know knows known think thinks thought want wants need needs like likes please help
ask asks asked call called name names named contain contains containing contained appear appears appearing locate located location position
region regions area areas part parts box boxes crop crops cropped zoom zoomed detail details object objects thing things item items
person people man men woman women child children boy girl baby hand hands face head eye eyes hair body foot feet arm leg
animal animals dog dogs cats bird birds horse cow sheep elephant bear zebra giraffe fish mouse
car cars bus train truck boat bike bicycle motorcycle plane airplane street road traffic stop light lamp pole fence wall floor door window
house building room kitchen table chair couch bed desk book books paper page screen phone computer laptop keyboard clock watch tv
food plate bowl glass bottle fork knife spoon cake pizza apple banana orange sandwich fruit vegetable water milk tea drink
tree trees flower flowers grass sky sun moon star sea ocean beach mountain river snow rain sand stone wood metal
shirt hat coat dress shoe shoes bag umbrella ball bat game sport player team
day night morning evening time year month week hour minute today now then later soon always never often sometimes
kind type sort form shape shapes size sizes square round circle rectangle line lines edge texture surface view scene
count many total sum amount price cost date brand title author company logo label street plate code page
city country world home school office store shop park station hotel restaurant
based according following briefly detailed short sentence sentences paragraph option options choose choice correct directly
visible clearly present absent exist exists information relevant possible likely there's don't doesn't isn't
set wear wearing hold holding sit sitting stand standing walk walking run running eat eating drink drinking play playing ride riding
work working live living move moving turn open close closed start end begin fall keep let put leave bring hear feel seem try
further larger smaller helpful bigger wider nearer
while until since though although however therefore also still even already yet almost rather quite
""".split()

TEMPLATES = {
    "read": (
        scenes.QUESTION,
        scenes.QUESTION,
        "What is the number on the {colour} sign?",
        "Which digit is on the {colour} sign?",
        "What does the {colour} sign say?",
        "Read the {colour} sign.",
    ),
    "colour": (
        scenes.COLOUR_QUESTION,
        scenes.COLOUR_QUESTION,
        "What color is the sign that says {digit}?",
        "Which colour has the sign with the number {digit}?",
    ),
    "exists": (
        scenes.EXISTS_QUESTION,
        "Is there a {colour} sign?",
        "Can you see a {colour} sign in the image?",
        "Is there a {colour} sign in the image? Answer yes or no.",
    ),
    "larger": (scenes.LARGER_QUESTION, "Which one is larger, the {one} sign or the {other} sign?"),
    "left": (scenes.LEFT_QUESTION, "Which one is further left, the {one} sign or the {other} sign?"),
    "describe": (scenes.GENERIC,),
}
"""How each kind of question is put."""

SUFFIX = " Answer the question using a single word or phrase."


def vocabulary() -> list[str]:
    """Every ordinary token, in the order of its id."""
    digits = [str(digit) for digit in range(10)]
    letters = [chr(ord("a") + index) for index in range(26)]
    return list(
        dict.fromkeys(
            [*SPECIAL, *digits, *_signs.COLOURS, *PUNCTUATION, *letters, *(word for word in PLAIN if "'" not in word)]
        )
    )


def tokenizer(*more: str, start: str | None = "<s>", end: str = "</s>", **roles: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: lower case, every digit and punctuation mark by itself, unknown words are `<unk>`.

    `more`: special tokens after all others. `start`: what it puts before a text. `end`: what ends an answer.
    """
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary())}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[0-9]|[^\W\d_]+|[^\w\s]|_"), "removed", invert=True)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in more])
    if start is not None:
        core.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, core.token_to_id(start))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token=end,
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=True,
        **roles,
    )


def phrase(rng: np.random.Generator, task: str, **parts: str) -> str:
    """A question of that kind about these, sometimes with LLaVA's suffix."""
    templates = TEMPLATES[task]
    text = templates[rng.integers(len(templates))].format(**parts)
    return text + SUFFIX if task != "describe" and rng.random() < 0.1 else text


_encoded: dict[tuple[int, str], list[int]] = {}


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a text, nothing put around it; remembered, since few texts come again and again."""
    key = (id(tokenizer), text)
    if key not in _encoded:
        _encoded[key] = tokenizer.encode(text, add_special_tokens=False)
    return _encoded[key]
