"""`python -m hamward`: the command line, for launchers that start modules."""

from hamward.cli.app import main

if __name__ == "__main__":
    main()
