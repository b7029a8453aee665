"""Supervised fine-tuning: accelerate launch launch/train_sft.py --cfg launch/configs/sft.yaml."""

from kit import command


def main() -> int:
    from kit.train.config import SftConfig

    config = command.parse(SftConfig)

    from kit.train.sft import train

    return train(config)


if __name__ == "__main__":
    command.run(main)
