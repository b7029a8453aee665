"""Evaluation: accelerate launch launch/evaluate.py --adapter ... --data ... --output ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("evaluate")
