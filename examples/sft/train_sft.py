"""Fine-tune a language model on conversations: LoRA by Transformers and PEFT, the loss on the assistant's words alone.

    torchrun --nproc_per_node 2 train_sft.py --model base --data data/qa.jsonl --output tuned --merge

Every setting has a default, which hyperparameters of the job replace, and the command line those. The data are JSON
lines of ``{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}``. The adapter
and the tokenizer are written to the output; with ``--merge`` it is the merged model, and adapter its adapter.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from modelworks import train
from modelworks.train.huggingface import CheckpointCallback

HERE = Path(__file__).resolve().parent
UNSEEN = -100  # a label that has no part in the loss


def channel(name: str, otherwise: Path) -> Path:
    try:
        return train.paths.input(name)
    except FileNotFoundError:
        return otherwise


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add("--model", default=None, help="a folder, or a name on the Hugging Face hub; default: the input channel model")
    add("--data", type=Path, default=None, help="a .jsonl file, or a folder of them; default: the channel data")
    add("--output", type=Path, default=None, help="default: the job's output")
    add("--merge", action=switch, default=False, help="the output is the merged model")
    add("--rank", type=int, default=16, help="r of LoRA")
    add("--alpha", type=int, default=32)
    add("--dropout", type=float, default=0.05)
    add("--targets", default="q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj")
    add("--learning-rate", type=float, default=2e-5, help="its peak; it falls as a cosine")
    add("--warmup", type=float, default=0.1, help="share of the steps in which it rises")
    add("--epochs", type=float, default=3)
    add("--batch", type=int, default=4, help="conversations of one process at once")
    add("--accumulation", type=int, default=4, help="batches of one step")
    add("--length", type=int, default=2048, help="tokens; longer conversations are cut")
    add("--gradient-checkpointing", action=switch, default=True, help="less memory for more computing")
    add("--log-every", type=int, default=10, help="steps")
    add("--seed", type=int, default=0)
    settings, known = train.hyperparameters(), vars(parser.parse_args([]))
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise SystemExit(f"error: there is no hyperparameter {', '.join(unknown)}; known are {', '.join(known)}")
    parser.set_defaults(**settings)
    chosen = parser.parse_args()
    chosen.model = str(chosen.model or channel("model", Path("base")))
    chosen.data = Path(chosen.data or channel("data", HERE / "data"))
    chosen.output = Path(chosen.output or train.paths.output())
    return chosen


def read(place: Path) -> Dataset:
    files = [place] if place.is_file() else sorted(place.glob("*.jsonl"))
    if not files:
        raise SystemExit(f"error: there are no .jsonl files in {place}")
    return load_dataset("json", data_files=[str(file) for file in files], split="train")


def tokens(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, list[int]]:
    """``input_ids`` and ``labels`` of one conversation. Labels are the assistant's tokens, with the end of each turn.

    Each turn of the assistant is what the template adds to the conversation before it, so any template will do whose
    text only grows.
    """
    ids: list[int] = []
    labels: list[int] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(messages[:turn], add_generation_prompt=True, return_dict=False)
        after = tokenizer.apply_chat_template(messages[: turn + 1], return_dict=False)
        if after[: len(before)] != before or before[: len(ids)] != ids:
            raise SystemExit("error: the chat template rewrites earlier turns: it tells not which tokens are an answer")
        labels += [UNSEEN] * (len(before) - len(ids)) + after[len(before) :]
        ids = after
    return {"input_ids": ids[:length], "attention_mask": [1] * len(ids[:length]), "labels": labels[:length]}


def prepare(data: Dataset, tokenizer: PreTrainedTokenizerBase, length: int) -> Dataset:
    rows = data.map(
        lambda row: tokens(row["messages"], tokenizer, length),
        remove_columns=data.column_names,
        load_from_cache_file=False,
    )
    return rows.filter(lambda row: any(label != UNSEEN for label in row["labels"]), load_from_cache_file=False)


def arguments(chosen: argparse.Namespace) -> TrainingArguments:
    gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir="trainer",  # not among the checkpoints: what the callback keeps of it would be there twice
        num_train_epochs=chosen.epochs,
        learning_rate=chosen.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=chosen.warmup,  # below 1 it is a share
        per_device_train_batch_size=chosen.batch,
        gradient_accumulation_steps=chosen.accumulation,
        gradient_checkpointing=chosen.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=chosen.log_every,
        save_strategy="no",  # the callback says when
        save_total_limit=1,  # what it keeps lies elsewhere
        seed=chosen.seed,
        use_cpu=not gpu,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        ddp_backend=("nccl" if gpu else "gloo") if "LOCAL_RANK" in os.environ else None,  # alone there is none
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=gpu,
        disable_tqdm=True,
        report_to=[],
    )


def main() -> None:
    chosen = options()
    given = arguments(chosen)
    first = given.process_index == 0  # asked for the first time, it joins the processes
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    rows = prepare(read(chosen.data), tokenizer, chosen.length)
    model = AutoModelForCausalLM.from_pretrained(chosen.model, dtype="auto")
    model.config.use_cache = False
    if chosen.gradient_checkpointing:
        model.enable_input_require_grads()
    model = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=chosen.rank,
            lora_alpha=chosen.alpha,
            lora_dropout=chosen.dropout,
            target_modules=chosen.targets.split(","),
        ),
    )
    if first:
        trained, whole = model.get_nb_trainable_parameters()
        print(f"{len(rows)} conversations; {trained:,} of {whole:,} parameters learn", flush=True)

    callback = CheckpointCallback()
    trainer = Trainer(
        model,
        given,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=UNSEEN),
        callbacks=[callback],
    )
    found = callback.resume()
    if found and first:
        print(f"goes on from {found}", flush=True)
    result = trainer.train(resume_from_checkpoint=found)
    if train.should_stop():
        return  # the next attempt goes on

    if first:
        write(model, tokenizer, chosen)
        print(f"wrote {chosen.output}: training loss {result.training_loss:.4f}", flush=True)
        if "MW_OUTPUT_DIR" in os.environ:
            train.report({"training_loss": result.training_loss})
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def write(model: Any, tokenizer: PreTrainedTokenizerBase, chosen: argparse.Namespace) -> None:
    adapter = chosen.output / "adapter" if chosen.merge else chosen.output
    model.save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    if chosen.merge:  # the base with the adapter in its weights: a folder like the base's own
        model.config.use_cache = True
        model.merge_and_unload().save_pretrained(chosen.output)
        tokenizer.save_pretrained(chosen.output)


if __name__ == "__main__":
    main()
