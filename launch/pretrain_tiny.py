"""Make the embedded base model from scratch: python launch/pretrain_tiny.py."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("pretrain_tiny")
