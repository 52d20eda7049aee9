"""Results handed to other tools, and theirs read: every file here knows a layout that is not our own.

`per_request` says what one answer looks like as vLLM, SGLang and AIPerf report it, and `export` writes a run
that way. `results` reads result files of other harnesses into rows that say they were measured elsewhere, and
`rows` keeps and shows them. `typeset` turns any table of a run or board into LaTeX, CSV or Markdown, and
`choice` finds that table by its name. `commands` are the command lines. Start reading at `commands`.
"""
