"""Texts that models are asked to go on from."""

# Of different kinds: prose, facts, code, numbers, lists, dialogue, other languages, one word.
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    ",
    "The three primary colours are",
    "In 1969, the first human beings",
    "Dear Sir or Madam,\n\nI am writing to",
    "Photosynthesis is the process by which",
    "1, 2, 3, 4, 5, 6,",
    "My favourite recipe for pancakes needs",
    "The difference between a virus and a bacterium is",
    "SELECT name, age FROM",
    "Q: What is the largest planet of the solar system?\nA:",
    "La capitale de l'Italie est",
    "She opened the door and",
    "To be, or not to be,",
    "The stock market fell on Monday because",
    "Rain",
    "# Shopping list\n\n- apples\n-",
    "Albert Einstein was born in",
]

# For logits: prose, code beside signs that are rare, and other scripts.
TEXTS = [
    "The committee approved the plan on Tuesday, after three hours of talks in which nobody agreed with anybody else.",
    "for (int i = 0; i < 128; ++i) { sum += w[i] * x[i]; }  // 3.14159 \t ±½ µm",
    "Bouquet is a program with which people run, fine-tune, compress and serve language models that are too big for one machine.",
    "Die Brücke über den Fluß war 1 234 Meter lang. Мост был длинным. 橋は長かった。 🌉",
]

# What is asked in a conversation, and what an answer has to say, in small letters.
QUESTIONS = [
    ("What is the capital of France?", ["paris"]),
    ("What is 2 + 2?", ["4"]),
    ("Name the three primary colours.", ["red", "blue", "yellow"]),
    ("What is the chemical formula of water?", ["h2o"]),
    ("Who wrote the play Romeo and Juliet?", ["shakespeare"]),
    ("What do bees make?", ["honey"]),
]
