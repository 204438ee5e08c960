"""`python -m bet_ray`: the command `bet-ray` where it is not installed, as in the tree that a job brings along."""

from bet_ray.cli import main

main()
