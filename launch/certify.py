"""Which answers may be given: python launch/certify.py --evaluation runs/eval --output runs/cert"""

from kit import cli

if __name__ == "__main__":
    cli.main_of("certify")
