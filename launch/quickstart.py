"""The whole pipeline on phantoms with the embedded model, on a CPU: python launch/quickstart.py."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("quickstart")
