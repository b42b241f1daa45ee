"""Generation from prompts of unequal lengths, padded on the left, batch by batch."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=None,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
prompts = [torch.randint(2, 64, (length,)).tolist() for length in (5, 9, 7, 12)]
for start in range(0, len(prompts), 2):
    batch = prompts[start : start + 2]
    longest = max(map(len, batch))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch])
    out = model.generate(ids, attention_mask=(ids != 0).long(), max_new_tokens=8, do_sample=True, temperature=0.7)
    for row in out[:, longest:].tolist():
        print("tokens", *row)
print("random", torch.rand(1).item())
