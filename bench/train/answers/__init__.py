"""Training data from the model itself: its own answers to a file of prompts, as conversations.

Start reading at `cli`, the command ``python -m bench.train.answers``. `dialogues` lets the model answer
prompts in batches, `engines` chooses the library that makes the answers (`generating` for transformers,
`converted` for CTranslate2), and `answer_file` keeps the answers and resumes. Nothing outside this folder
needs to import from it: ``data=answers`` reads the file with `bench.train.data.conversations`.
"""
