"""How many tokens an image takes in each form of the prompt.

    python benchmarks/prompt_tokens.py                                          # SmolLM2 and the demo's language model
    python benchmarks/prompt_tokens.py --llm Qwen/Qwen2.5-0.5B-Instruct folder  # others: a Hub id or a folder

Only the tokenizers are used. The second table has a whole conversation of `spatialboost data build --turn depths=1
--points cells:4x4`, and twelve turns of `depth` on the same cells.
"""

from __future__ import annotations

import argparse

from spatialboost.demo import ASSETS
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms
from spatialboost.vlm.chat import encode_chat
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.outline import outline_llm

GRIDS = ((4, 4), (8, 8), (16, 16))
FORMS = ("plain", "named", "coordinates")
ROOMS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llm", nargs="+", default=["smollm2", str(ASSETS / "llm")])
    args = parser.parse_args()
    tokenizers = {name.rpartition("/")[2]: outline_llm(name, with_tokenizer=True)[1] for name in args.llm}
    print("| language model | cells | tokens per cell | " + " | ".join(FORMS) + " |")
    print("|---|---|---|" + "---|" * len(FORMS))
    for name, tokenizer in tokenizers.items():
        for grid in GRIDS:
            for each in (1, 2):
                lengths = [ImagePrompt(grid, form, each).length(tokenizer) for form in FORMS]
                print(f"| {name} | {grid[0]} x {grid[1]} | {each} | {' | '.join(map(str, lengths))} |")
    print("\n| language model, 4 x 4 cells, 2 tokens each | " + " | ".join(FORMS) + " |\n|---|" + "---|" * len(FORMS))
    for turns in ({"depths": 1}, {"depth": 12}):
        plan = TurnPlan(turns, cells=(4, 4))
        talks = [build_conversation(view, seed=0, plan=plan) for view in Rooms(ROOMS, size=112)]
        for name, tokenizer in tokenizers.items():
            means = []
            for form in FORMS:
                prompt = ImagePrompt((4, 4), form, 2)
                lengths = [
                    len(encode_chat(prompt.reworded(talk.messages), tokenizer, num_visual_tokens=prompt)["input_ids"])
                    for talk in talks
                ]
                means.append(f"{sum(lengths) / len(lengths):.0f}")
            (kind, count), *_ = turns.items()
            print(f"| {name}, {count} x `{kind}` | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
