"""How fast a text policy acts beside plain transformers: python benchmarks/words.py [--rounds 5]

Sixteen games of TextWorld Common Sense beside each other, at their third timestep, SmolLM2-135M in float32 on one
thread. All ways of a table are timed in turns, and must agree before they are timed.

    candidates   ours: a tree of tokens beside what was read | each as a row on a repeated cache | each computed anew
    free text    ours: read what came before, write on       | transformers' generate, padded to the left
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from language_games import env_id
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from seqdec import Context, Policy, finetune, record
from seqdec.play import TextWorldExpert, make_envs

NUM_GAMES, NUM_STEPS, MOST_TOKENS = 16, 2, 16


def seconds_of(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each way once a round, in turns, after one that is not timed."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - began)
    return taken


def printed(title: str, taken: dict[str, list[float]], amount: int, unit: str) -> None:
    """Print a table: the median, and how many times the last way's."""
    medians = {name: statistics.median(times) for name, times in taken.items()}
    slowest = medians[list(medians)[-1]]
    print(f"\n| {title} | seconds | {unit} a second | times the last |\n|---|---:|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {amount / median:,.0f} | {slowest / median:.1f} |", flush=True)


class Games:
    """What was seen and done in each game, and what may be said next."""

    def __init__(self) -> None:
        expert = TextWorldExpert(env_id(1, "test", distinct=True), seed=0, noise=[0.5])
        envs = make_envs(env_id(1, "test", distinct=True, limit=100), NUM_GAMES)
        observations, infos = envs.reset(seed=list(range(NUM_GAMES)))  # pyright: ignore[reportArgumentType]
        expert.reset(NUM_GAMES)
        self.seen, self.said = [list(observations)], []
        for _ in range(NUM_STEPS):
            actions = expert.act(observations, None, {"valid_actions": list(infos["valid_actions"])})
            observations, *_, infos = envs.step(actions)
            self.said.append(list(actions))
            self.seen.append(list(observations))
        self.candidates = [list(valid) for valid in infos["valid_actions"]]
        envs.close()

    def context(self, policy: Policy) -> Context:
        """Write them."""
        context, to_go = Context(policy.model, NUM_GAMES), np.full(NUM_GAMES, 100.0, np.float32)
        for seen, said in zip(self.seen, [*self.said, None], strict=True):
            context.write(observation=seen, return_to_go=to_go)
            if said is not None:
                context.write(action=said)
        return context

    def prompts(self, tokenizer, first: int) -> list[list[int]]:
        """Return the tokens of each game as the card of a policy says."""

        def ids(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        prompts = []
        for row in range(NUM_GAMES):
            pieces = [first]
            for seen, said in zip(self.seen, [*self.said, None], strict=True):
                pieces += ids(f"{seen[row]}\n") + ids("100 >") + (ids(f" {said[row]}\n") if said else [])
            prompts.append(pieces)
        return prompts


@torch.inference_mode()
def score_anew(plain, prompt: list[int], pieces: list[list[int]]) -> torch.Tensor:
    """Return the log probabilities of pieces after a prompt, a batch of whole sequences."""
    longest = max(map(len, pieces))
    ids = torch.tensor([prompt + piece + [0] * (longest - len(piece)) for piece in pieces])
    mask = torch.tensor([[1] * (len(prompt) + len(piece)) + [0] * (longest - len(piece)) for piece in pieces])
    logits = plain(input_ids=ids, attention_mask=mask, logits_to_keep=longest + 1).logits[:, :-1]
    return _summed(logits, pieces)


@torch.inference_mode()
def score_rows(plain, prompt: list[int], pieces: list[list[int]]) -> torch.Tensor:
    """Return the same from a prompt's cache, which was read once, repeated for each piece."""
    cache = DynamicCache(config=plain.config)
    last = plain(input_ids=torch.tensor([prompt]), past_key_values=cache, logits_to_keep=1).logits
    cache.batch_repeat_interleave(len(pieces))
    longest = max(map(len, pieces))
    ids = torch.tensor([piece + [0] * (longest - len(piece)) for piece in pieces])
    logits = plain(input_ids=ids[:, :-1], past_key_values=cache).logits
    return _summed(torch.cat([last.expand(len(pieces), -1, -1), logits], 1), pieces)


def _summed(logits: torch.Tensor, pieces: list[list[int]]) -> torch.Tensor:
    likely = logits.log_softmax(-1)
    return torch.stack([likely[row, range(len(piece)), piece].sum() for row, piece in enumerate(pieces)])


def main() -> None:
    """Train for a step, so that there is a policy; compare; time; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    name = env_id(1)
    data = record(name, TextWorldExpert(name, seed=0), num_episodes=16, seed=0, num_envs=NUM_GAMES)
    policy = finetune(data, "smollm2", steps=1, batch_size=2, heldout_fraction=0.0)
    games = Games()
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        plain = AutoModelForCausalLM.from_pretrained(Path(folder) / "backbone").eval()
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "backbone")
    prompts = games.prompts(tokenizer, policy.model.vocabulary.first)  # pyright: ignore[reportOptionalMemberAccess]
    pieces = [
        [tokenizer(f" {text}\n", add_special_tokens=False)["input_ids"] for text in row] for row in games.candidates
    ]
    context = games.context(policy)

    def tree() -> torch.Tensor:
        return context.predict("action", candidates=games.candidates).logits  # pyright: ignore

    ours = tree()
    for way in (score_anew, score_rows):
        theirs = [way(plain, prompt, row) for prompt, row in zip(prompts, pieces, strict=True)]
        for row, scores in enumerate(theirs):
            torch.testing.assert_close(ours[row, : len(scores)].flatten(), scores, atol=1e-3, rtol=1e-3)
    num_candidates = sum(map(len, pieces))
    print(
        f"{NUM_GAMES} games, {num_candidates} candidates, {sum(map(len, prompts)) / NUM_GAMES:.0f} tokens before them"
    )

    def read_and_tree() -> torch.Tensor:
        return games.context(policy).predict("action", candidates=games.candidates).logits  # pyright: ignore

    ways = {
        "seqdec, what came before is read": tree,
        "seqdec, reading included": read_and_tree,
        "transformers, a row each on a repeated cache": lambda: [
            *map(lambda p, r: score_rows(plain, p, r), prompts, pieces)
        ],
        "transformers, each anew": lambda: [*map(lambda p, r: score_anew(plain, p, r), prompts, pieces)],
    }
    printed("candidates", seconds_of(ways, rounds), num_candidates, "candidates")

    tokenizer.padding_side, tokenizer.pad_token_id = "left", 0
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]

    def generate() -> list[str]:
        with torch.inference_mode():
            written = plain.generate(  # pyright: ignore
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=MOST_TOKENS,
                eos_token_id=newline, pad_token_id=newline[0],
            )  # fmt: skip
        return [text.split("\n")[0].strip() for text in tokenizer.batch_decode(written[:, longest:])]

    def write() -> list[str]:
        return games.context(policy).sample_text("action", temperature=0.0)

    same = sum(one == other for one, other in zip(generate(), write(), strict=True))
    print(f"\nfree text: {same} of {NUM_GAMES} are the same")
    printed("free text", seconds_of({"seqdec": write, "transformers' generate": generate}, rounds), NUM_GAMES, "texts")


if __name__ == "__main__":
    main()
