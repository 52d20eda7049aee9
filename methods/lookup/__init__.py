"""Drafts looked up in tables that fill while decoding; no drafter runs and nothing is trained.

Copies of the text so far, as chains: `prompt_lookup` (``method=prompt_lookup``) and `suffix_automaton`
(``method=sam``, SAM-Decoding), on top of `copying`. Trees: `token_recycling` (successors that the target
considered before) and `lookahead` (n-grams that the target guesses on the side). Start with `prompt_lookup`,
the simplest drafting method. The harness builds these classes from ``conf/method`` and imports nothing here.
"""
