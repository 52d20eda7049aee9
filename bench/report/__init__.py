"""`python -m bench.report`: the leaderboard, and other readings of stored runs, from records alone.

Nothing is measured here and nothing imports this package but `bench.profile`, which draws its figures with
it. Start reading at `build.build`: runs (`entries`) become sections with ranks (`board`), and those become
tables of text (`tables`); that is the board. What explains it follows: figures (`figure_data`, `figures`,
`curves`, `sweeps`, `style`), `charts`, `profiles` and published `claims`, put in order by `document`;
`run_pages` adds a page per run, and `pages` writes all of them out. The other commands have a file each:
`excerpt`, `compare`, `timeline`, `answers` and `rescore`.
"""
