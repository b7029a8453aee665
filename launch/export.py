"""A model to share: python launch/export.py --adapter checkpoints/qwen2vl_grpo --output ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("export")
