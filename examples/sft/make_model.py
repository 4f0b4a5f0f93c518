"""Make a tiny language model of the Qwen2 architecture, with a tokenizer of its own. Nothing is downloaded.

    python make_model.py --output base

The tokenizer is a byte-level BPE learnt from the data's text. The model learns a little: the words, and how a
conversation looks, from questions with the answers of others. So it answers in sentences, and wrongly. It stands for
the base model of a real fine-tuning, such as Qwen/Qwen2.5-0.5B-Instruct; train_sft.py takes either.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, get_cosine_schedule_with_warmup

HERE = Path(__file__).resolve().parent
END_OF_TEXT, BEGIN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# ChatML, as Qwen's own models have it.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def conversations(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines() if line.strip()]


def make_tokenizer(texts: list[str], size: int) -> Qwen2Tokenizer:
    """Split as Qwen2's is, with merges learnt from ``texts``."""
    learnt = Qwen2Tokenizer().train_new_from_iterator(texts, size, new_special_tokens=[BEGIN, END], show_progress=False)
    learnt.eos_token, learnt.pad_token = END, END_OF_TEXT
    learnt.chat_template = TEMPLATE
    return learnt


def make_model(tokenizer: Qwen2Tokenizer, options: argparse.Namespace) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 3,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=options.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def learn_to_talk(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, talks: list, steps: int, chance: random.Random):
    """``steps`` steps on questions with answers drawn at random."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    for step in range(steps):
        chosen = [[chance.choice(talks)[0], chance.choice(talks)[1]] for _ in range(16)]
        batch = tokenizer.apply_chat_template(chosen, padding=True, return_tensors="pt", return_dict=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("base"), help="the model's folder")
    parser.add_argument("--data", type=Path, default=HERE / "data" / "qa.jsonl")
    parser.add_argument("--vocabulary", type=int, default=1000, help="tokens, 256 of them bytes")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--context", type=int, default=2048, help="tokens of a conversation at most")
    parser.add_argument("--steps", type=int, default=200, help="of learning to talk; 0: weights at random")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # threads that wait for each other cost more than a model this small gains
    talks = conversations(options.data)
    tokenizer = make_tokenizer([message["content"] for talk in talks for message in talk], options.vocabulary)
    model = make_model(tokenizer, options)
    learn_to_talk(model, tokenizer, talks, options.steps, random.Random(0))
    tokenizer.save_pretrained(options.output)
    model.save_pretrained(options.output)
    print(f"wrote {options.output}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)


if __name__ == "__main__":
    main()
