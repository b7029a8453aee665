"""Questions for GRPO whose answer rests on evidence: python launch/choose_prompts.py --data ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("choose_prompts")
