"""Fine-tuning by transformers' Trainer: LoRA, gradient accumulation, bfloat16. Usage: trainer_lora.py OUTPUT_FOLDER"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        ids = (torch.arange(12) * (index + 1)) % 61 + 2
        return {"input_ids": ids, "labels": ids, "text_id": index}


def main():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        output_dir=sys.argv[1], max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2, bf16=True,
        learning_rate=1e-2, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Numbers())
    trainer.train()
    for entry in trainer.state.log_history:
        if "loss" in entry:
            print(f"loss {float(entry['loss']):.4f}")
    print("random", torch.rand(1).item())


if __name__ == "__main__":
    main()
