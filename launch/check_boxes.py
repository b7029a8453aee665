"""What a model's boxes count: python launch/check_boxes.py --base_model ... --output runs/boxes"""

from kit import command


def main() -> int:
    from kit.evaluate.config import BoxCheckConfig

    config = command.parse(BoxCheckConfig)

    from kit.evaluate.box_check import check_boxes

    return check_boxes(config)


if __name__ == "__main__":
    command.run(main)
