"""Ask a model: python launch/ask.py --adapter ... --image x.png --question "..."."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("ask")
