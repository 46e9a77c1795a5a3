"""`python -m costguard`: the command line."""

from costguard.cli import main

if __name__ == "__main__":
    main(prog_name="costguard")
