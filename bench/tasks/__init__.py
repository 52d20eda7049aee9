"""Tasks: the prompts of a run, how they become token ids, and how answers are checked.

Every yaml in ``conf/task`` builds one of five classes: `spec_bench.QuestionTask`, `jsonl.JsonlTask` (your own
prompts), `dataset.DatasetTask`, `longbench.LongBenchTask` and `speed_bench.SpeedBenchTask`. All of them
implement `task.Task`, whose `load` returns the prompts; `prompt_files` reads local files, and
`chat.ChatFormat` turns a conversation into prompt ids. Start reading at `task`. Any module may be imported
from above; tasks themselves import only `bench.errors`, `bench.records` and the checks of
`bench.compose.components`.
"""
