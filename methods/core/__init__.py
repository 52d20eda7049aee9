"""What every method shares: the protocol, the two decoding loops, the acceptance rules, trees.

Start with `base` (what a method is), then `chain`: its first page is a round in numbers. `tree_round` is the
same for trees, with `trees` (their shape) and `tree_choice` (which tree a method drafts). `acceptance` holds
the rules that decide which drafted tokens the target keeps. `draft_length` sets how long a chain draft gets.
`autoregressive` is the baseline and the shortest method. Everything here may be imported by any method and by
the harness; nothing here knows a particular method.
"""
