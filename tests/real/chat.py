"""Conversations and texts that go on make sense: the same questions to Bouquet, in three encodings, and to llama.cpp."""

from common import MODEL, bouquet, hold, keep
from reference import llama_cpp
from texts import PROMPTS, QUESTIONS

ENCODINGS = ["f32", "stored", "int8"]
TOKENS = 96
GREEDY = ["--temperature", 0, "--repetition-penalty", 1, "--max-tokens", TOKENS]

# The first question has to be answered. Of the others a model of 135 million parameters may not know each.
LEAST = len(QUESTIONS) - 1
# The shortest text that goes on, in letters: one that ends at once, or says nothing, is shorter.
LETTERS = 12


def answers(question, llama):
    found = {encoding: bouquet("run", MODEL, "--encoding", encoding, *GREEDY, question) for encoding in ENCODINGS}
    found = {name: (answer["text"], answer["finish_reason"]) for name, answer in found.items()}
    said = llama.create_chat_completion([{"role": "user", "content": question}], temperature=0, max_tokens=TOKENS)
    choice = said["choices"][0]
    found["llama.cpp"] = (choice["message"]["content"], choice["finish_reason"])
    return found


def main():
    llama = llama_cpp(n_ctx=1024)
    right = dict.fromkeys([*ENCODINGS, "llama.cpp"], 0)
    conversations, completions, text = [], [], []
    for question, words in QUESTIONS:
        found = answers(question, llama)
        conversations.append({"question": question, "answers": {name: answer for name, (answer, _) in found.items()}})
        text.append(f"**{question}**\n")
        for name, (answer, reason) in found.items():
            good = all(word in answer.lower() for word in words)
            right[name] += good
            text.append(f"- {name} ({reason}): {' / '.join(answer.split(chr(10)))}")
            if name in ENCODINGS:
                hold(f"{name}: the answer has words, and no marks of the template", answer.strip() and "<|im_" not in answer)
            if name in ENCODINGS and question == QUESTIONS[0][0]:
                hold(f"{name}: the capital is Paris", good)
        text.append("")
    for prompt in PROMPTS[:4]:
        found = {name: bouquet("run", MODEL, "--raw", "--encoding", name, *GREEDY, prompt)["text"] for name in ENCODINGS}
        found["llama.cpp"] = llama.create_completion(prompt, temperature=0, max_tokens=TOKENS)["choices"][0]["text"]
        completions.append({"prompt": prompt, "texts": found})
        text += [f"**{prompt.strip()}** …\n".replace("\n    ", " "), *(f"- {name}: {' / '.join(words.split(chr(10)))}" for name, words in found.items()), ""]
        for name in ENCODINGS:
            hold(f"{name}: {prompt[:12]!r} goes on", sum(map(str.isalpha, found[name])) >= LETTERS)
    keep("chat", {"right": right, "of": len(QUESTIONS), "conversations": conversations, "completions": completions}, "\n".join(text))
    for name in ENCODINGS:
        hold(f"{name} answers {right[name]} of {len(QUESTIONS)} questions, at least {LEAST}", right[name] >= LEAST)
    hold("the capital goes on with Paris", all("Paris" in completions[0]["texts"][name] for name in ENCODINGS))


if __name__ == "__main__":
    main()
