"""What the ViCrop paper reports (arXiv 2502.17422), as reference rows and sentences beside one's own numbers."""

from __future__ import annotations

TABLE_1 = [
    ("LLaVA-1.5 7B", "none", ("39.4", "47.7", "50.7")),
    ("LLaVA-1.5 7B", "human", ("70.0", "65.4", "57.0")),
    ("InstructBLIP Vicuna-7B", "none", ("21.8", "30.6", "45.3")),
    ("InstructBLIP Vicuna-7B", "human", ("69.6", "61.6", "53.4")),
    ("Qwen-VL 7B", "none", ("56.4", "65.1", "68.6")),
    ("Qwen-VL 7B", "human", ("70.4", "75.5", "71.1")),
]
"""Model, crop, accuracy on small, medium and large targets of TextVQA."""

TABLE_2 = [
    ("none", ("47.8", "42.4", "33.5", "35.6")),
    ("rel-att", ("55.2", "62.3", "45.4", "42.4")),
    ("grad-att", ("56.1", "57.1", "45.7", "37.7")),
    ("pure-grad", ("51.7", "46.1", "42.2", "37.2")),
]
"""Recipe; LLaVA-1.5 on TextVQA and V*, InstructBLIP on TextVQA and V* (V* on tiles)."""

SIZE = (
    "The paper finds that accuracy falls with the relative size of the target, and that a crop around the annotated "
    "box, shown in addition to the image, restores most of it."
)
LAYERS = (
    "The paper finds the attention ratio, relative attention inside the target's box over that in an equal box "
    "anywhere, above 1 in most layers whether the answer is right or wrong: the model looks at the right place even "
    "when it fails."
)
RECIPES = (
    "The paper finds that crops chosen by the model's own attention or gradients raise accuracy on small details "
    "(LLaVA-1.5 with rel-att: 7 points on TextVQA, 20 on V*), and do no harm on other questions."
)
ABLATIONS = (
    "The paper finds the mean of all layers about as good as a chosen one (LLaVA-1.5 with rel-att: 55.5 against 55.2 "
    "on TextVQA), and tiles worth much in large images (62.3 with, 47.6 without on V*). Paper and released code differ "
    "in the criterion of the box search, in the generic question, and in what pure-grad divides by."
)
EXTERNAL = (
    "The paper finds croppers that do not look into the model, by CLIP, YOLO or SAM, well behind: 48.6, 48.8 and 49.4 "
    "for LLaVA-1.5 on TextVQA, against 55.2 for rel-att and 47.8 without a crop."
)
COST = (
    "FOCUS (arXiv 2506.21710) finds itself as good as ZoomEye on V* with LLaVA-OneVision (92.2 and 91.1) in a third of "
    "the passes (7.6 and 24.0 of search), and short of it with LLaVA-1.5 (72.8 and 77.5; 13.3 and 48.6)."
)
KINDS = (
    "The paper names its limit: one crop does not help questions that relate several places. Here `larger` and `left` "
    "compare two signs, and `describe` asks about the whole image."
)
SEVERAL = (
    "What colour is the sign that says 5? The question does not say which sign to look at: all of them have to be "
    "read. ViCrop names its single crop as a limit; Entropy-Gradient Grounding (arXiv 2604.08456) crops two. Here each "
    "recipe crops one region and two, for small targets; `entropy` crops two unless told otherwise."
)
