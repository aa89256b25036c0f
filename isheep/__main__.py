"""python -m isheep: the command line, for environments in which the script isheep is not on the path."""

from isheep.cli import main

if __name__ == "__main__":
    main()
