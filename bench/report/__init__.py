"""`python -m bench.report`: the leaderboard, and other readings of stored runs, from records alone.

Nothing is measured here and nothing imports this package but `bench.profile`, which draws its figures with
it. Start reading at `build.build`: runs (`entries`) become sections with ranks (`board`), and those become
tables of text (`tables`); that is the board. What explains it follows: figures (`figure_data`, `figures`,
`curves`, `sweeps`, `style`), `profiles` and published `claims`, put in order by `document` and written out by
`pages`. The other commands have a file each: `excerpt`, `compare`, `timeline`, `input_length`, `answers` and
`rescore`; the folder `exchange` leads to other tools and from them.
"""
