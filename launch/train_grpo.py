"""GRPO: accelerate launch launch/train_grpo.py --sft_ckpt ... --data_jsonl ... --out_dir ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("train_grpo")
