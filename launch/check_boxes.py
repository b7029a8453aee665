"""What a model's boxes count: python launch/check_boxes.py --base_model ... --output runs/boxes"""

from kit import cli

if __name__ == "__main__":
    cli.main_of("check_boxes")
