"""Records before they are trained on, as a page: python launch/look.py --data data/train.json"""

from kit import cli

if __name__ == "__main__":
    cli.main_of("look")
