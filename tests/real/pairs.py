"""English pairs of sentences to learn from, none of which has a sentence of a development or test set of the STS benchmark."""

import csv
import json
import random
import re

from common import data

# A score from which a pair of the STS benchmark counts as saying the same; up to this one, as saying something else.
SAME, OTHER = 3.8, 2.0


def key(sentence):
    """A sentence without what does not make it another: capitals, punctuation, space."""
    return re.sub(r"\W+", " ", sentence.lower()).strip()


def benchmark(split):
    with open(data(f"stsb/en.{split}.csv"), encoding="utf-8", newline="") as file:
        return [(first, second, float(score)) for first, second, score in csv.reader(file)]


def entailments(held_out):
    """SNLI: a premise, what follows from it, and what contradicts it."""
    premises = {}
    for split in ["dev", "test"]:
        for line in data(f"snli/{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if key(row["premise"]) not in held_out and key(row["hypothesis"]) not in held_out:
                premises.setdefault(row["premise"], {}).setdefault(row["label"], []).append(row["hypothesis"])
    for premise, hypotheses in premises.items():
        wrong = hypotheses.get("contradiction", [])
        for i, right in enumerate(hypotheses.get("entailment", [])):
            if wrong:
                yield premise, right, wrong[i % len(wrong)]


def judged(scored, chance):
    """Pairs that are judged to say the same, and a sentence that is judged to say something else, or any other."""
    others = {}
    for first, second, score in scored:
        if score <= OTHER:
            others.setdefault(first, []).append(second)
            others.setdefault(second, []).append(first)
    for first, second, score in scored:
        if score >= SAME:
            wrong = [sentence for sentence in others.get(first, []) if sentence != second]
            yield first, second, chance.choice(wrong) if wrong else chance.choice(scored)[0]


def write(folder):
    """Writes contrastive.jsonl, scored.csv and texts.txt; says what is in them."""
    held_out = {key(sentence) for split in ["dev", "test"] for row in benchmark(split) for sentence in row[:2]}
    everything = benchmark("train")
    scored = [row for row in everything if key(row[0]) not in held_out and key(row[1]) not in held_out]
    triples = [*entailments(held_out), *judged(scored, random.Random(0))]
    texts = list(dict.fromkeys(sentence for row in scored for sentence in row[:2]))

    folder.mkdir(parents=True, exist_ok=True)
    names = ["anchor", "positive", "negative"]
    lines = [json.dumps(dict(zip(names, triple)), ensure_ascii=False) for triple in triples]
    (folder / "contrastive.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with open(folder / "scored.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *scored])
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"{len(triples)} pairs with a negative, {len(scored)} scored pairs of {len(everything)}, {len(texts)} sentences")
