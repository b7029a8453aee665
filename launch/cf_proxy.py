"""GRPO records from prepared ones: accelerate launch launch/cf_proxy.py --sft_ckpt ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("cf_proxy")
