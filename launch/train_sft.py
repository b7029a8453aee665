"""Supervised fine-tuning: accelerate launch launch/train_sft.py --cfg launch/configs/sft.yaml."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("train_sft")
