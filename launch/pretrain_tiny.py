"""Make the embedded base model from scratch: python launch/pretrain_tiny.py."""

from kit import command


def main() -> int:
    from kit.demo.config import PretrainConfig

    config = command.parse(PretrainConfig)

    from kit.demo.pretrain import pretrain

    return pretrain(config)


if __name__ == "__main__":
    command.run(main)
