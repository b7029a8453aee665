"""A judge in this process: a text model of transformers in a local folder, greedy."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kit.errors import UserError

MAX_TOKENS = 256


class LocalJudge:
    """
    Raises:
        UserError: the folder holds no such model.
    """

    def __init__(self, folder: str):
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="auto"
            )
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            fix = "give the folder of a causal language model with its tokenizer"
            raise UserError(f"cannot load the judge: {reason}", where=folder, fix=fix) from error
        self.name = Path(folder).name
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def __call__(self, messages: list[dict]) -> str:
        """The greedy reply."""
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n"
        inputs = self.tokenizer(text, return_tensors="pt", add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        ids = self.model.generate(
            **inputs, max_new_tokens=MAX_TOKENS, do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )  # fmt: skip
        return self.tokenizer.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
