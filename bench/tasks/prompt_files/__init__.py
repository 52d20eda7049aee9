"""The one reader of prompts and conversations, whatever file people keep them in.

Start at `reader`, which makes of a row what a model is to answer. `files` recognises a file by its content
(JSONL, a JSON list, CSV or TSV, parquet, plain text, a folder of Hugging Face `datasets`) and numbers its
rows; `json_rows` and `tables` read two of these. `conversation` reads the messages of one row, and `faults`
has the error of a row that cannot be read. ``task=jsonl``, ``bench.train.answers prompts=`` and ``bench.train
data=`` read through this folder. Nothing here imports torch, so that a mistake in a file shows at once.
"""
