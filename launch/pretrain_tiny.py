"""Make the embedded base model from scratch: python launch/pretrain_tiny.py."""

from kit import command


def main() -> int:
    from kit.demo.pretrain import PretrainConfig, pretrain

    return pretrain(command.parse(PretrainConfig))


if __name__ == "__main__":
    command.run(main)
