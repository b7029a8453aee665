"""Training curves as a page: python launch/curves.py --runs checkpoints/qwen2vl_sft ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("curves")
